"""Optimisers. A step gives each parameter a new array: the old one, which a graph may still need, is not written.

Each does what PyTorch's of the same name does. All parameters of an optimiser share its settings; for a group with
settings of its own, make a second optimiser. ``opt.lr`` may be assigned at any time, which is all that a schedule does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..op import ShapeError
from ..tensor import Tensor

Slots = dict[str, Any]  # what an optimiser remembers of one parameter: arrays, and the count of its steps


class Optimizer:
    """The base: holds parameters, and for each what the rule remembers of it. Subclasses define ``update``.

    Raises ValueError for no parameters, for one that is given twice, and for a setting that is negative or NaN;
    TypeError for what is no leaf that requires a gradient.
    """

    ports = ("lr", "slots")  # what changes from step to step, and so is not part of a captured one

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0, **settings: float):
        self.parameters = list(parameters)
        name = type(self).__name__
        if not self.parameters:
            raise ValueError(f"{name}: there are no parameters (a generator can be read only once)")
        for p in self.parameters:
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                raise TypeError(f"{name}: parameters are leaf tensors that require a gradient, not {p!r}")
        if len(set(self.parameters)) < len(self.parameters):
            raise ValueError(f"{name}: a parameter was given twice")
        for setting, value in {"lr": lr, "weight_decay": weight_decay, **settings}.items():
            if not value >= 0:
                raise ValueError(f"{name}: {setting} must not be negative, but it is {value}")
        self.lr, self.weight_decay = lr, float(weight_decay)
        self.slots: list[Slots] = [{} for _ in self.parameters]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "lr" and isinstance(value, np.generic):
            value = float(value)  # np.float64, as np.cos gives it, would make float64 of float32 parameters
        super().__setattr__(name, value)

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        """The new array of a parameter, from the old one, its gradient, and what is remembered (updated in place)."""
        raise NotImplementedError

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for p, slots in zip(self.parameters, self.slots, strict=True):
            if p.grad is not None:
                g = p.grad.array
                if self.weight_decay:
                    g = self.decay(p, g)
                slots["step"] = slots.get("step", 0) + 1
                p.data = backend.of(p.array).xp.asarray(self.update(p.array, g, slots))  # NumPy: 0-d becomes a scalar

    def decay(self, p: Tensor, g: Array) -> Array:
        """L2 regularisation: weight_decay * p is part of the gradient."""
        return g + self.weight_decay * p.array

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward starts from none."""
        for p in self.parameters:
            if p.requires_grad:  # it may have been frozen since
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The learning rate and all that is remembered, as NumPy arrays and numbers."""

        def host(value: Any) -> Any:
            return backend.of(value).to_host(value).copy() if backend.is_array(value) else value

        return {"lr": self.lr, "slots": [{name: host(value) for name, value in slots.items()} for slots in self.slots]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``; raises before anything changes if it belongs to other parameters."""
        slots = state["slots"]
        if len(slots) != len(self.slots):
            raise ValueError(
                f"{type(self).__name__}: the state is of {len(slots)} parameters, not of {len(self.slots)}"
            )
        loaded = []
        for p, given in zip(self.parameters, slots, strict=True):
            for name, value in given.items():
                if hasattr(value, "shape") and tuple(value.shape) != p.shape:
                    raise ShapeError(
                        f"{type(self).__name__}: the state's {name} has shape {value.shape}, its parameter {p.shape}"
                    )
            loaded.append(
                {n: backend.as_array(v, backend=p.backend) if hasattr(v, "shape") else v for n, v in given.items()}
            )
        self.lr, self.slots = state["lr"], loaded


def _remember(slots: Slots, name: str, like: Array) -> Array:
    """The named array of a parameter's slots, zeros at first."""
    if name not in slots:
        slots[name] = backend.of(like).xp.zeros_like(like)
    return slots[name]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964), also in Nesterov's form (Sutskever et al. 2013).

    v <- momentum v + (1 - dampening) g, but v = g at first
    p <- p - lr v, or in Nesterov's form p <- p - lr (g + momentum v)

    >>> from tinygrad_rnn import ones
    >>> w = ones(2, requires_grad=True)
    >>> (w * w).sum().backward()
    >>> SGD([w], lr=0.25).step()
    >>> w.tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay, momentum=momentum)
        if nesterov and (not momentum > 0 or dampening):
            raise ValueError("SGD: Nesterov's form needs a momentum above 0, and no dampening")
        self.momentum, self.nesterov, self.dampening = float(momentum), nesterov, float(dampening)

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        if self.momentum:
            share = 1 - self.dampening if "velocity" in slots else 1.0
            v = _remember(slots, "velocity", p)
            v *= self.momentum
            v += g if share == 1 else share * g
            slots["velocity"] = v
            g = g + self.momentum * v if self.nesterov else v
        new = g * -self.lr
        new += p
        return new


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): s <- s + g^2, p <- p - lr g / (sqrt(s) + eps)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0):
        super().__init__(parameters, lr, weight_decay, eps=eps)
        self.eps = float(eps)

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        s = _remember(slots, "square", p)
        s += g * g
        slots["square"] = s
        return p - self.lr * g / (s**0.5 + self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): the gradient over the root of its mean square.

    s <- alpha s + (1 - alpha) g^2
    m <- alpha m + (1 - alpha) g, and s - m^2 in place of s below, if ``centered``
    v <- momentum v + g / (sqrt(s) + eps)
    p <- p - lr v
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay, alpha=alpha, eps=eps, momentum=momentum)
        self.alpha, self.eps, self.momentum, self.centered = float(alpha), float(eps), float(momentum), centered

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        s = _remember(slots, "square", p)
        s *= self.alpha
        s += (1 - self.alpha) * g * g
        slots["square"] = s
        variance = s
        if self.centered:
            m = _remember(slots, "mean", p)
            m *= self.alpha
            m += (1 - self.alpha) * g
            slots["mean"] = m
            variance = s - m * m
            variance = variance * (variance > 0)  # rounding can leave less than nothing, of which there is no root
        g = g / self.scale(variance)
        if self.momentum:
            v = _remember(slots, "velocity", p)
            v *= self.momentum
            v += g
            g = slots["velocity"] = v
        return p - self.lr * g

    def scale(self, variance: Array) -> Array:
        """What a gradient is divided by."""
        return variance**0.5 + self.eps


class GravesRMSprop(RMSprop):
    """Centred RMSprop with momentum, and eps inside of the root, as in "Generating sequences with recurrent neural
    networks" (Graves 2013, equations 38 to 45), whose settings are the defaults here.

    s <- alpha s + (1 - alpha) g^2
    m <- alpha m + (1 - alpha) g
    v <- momentum v + g / sqrt(s - m^2 + eps)
    p <- p - lr v
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-4,
        alpha: float = 0.95,
        eps: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, alpha, eps, momentum, True, weight_decay)

    def scale(self, variance: Array) -> Array:
        return (variance + self.eps) ** 0.5


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): means of the gradient and of its square, corrected for starting at 0.

    m <- b1 m + (1 - b1) g,  s <- b2 s + (1 - b2) g^2
    p <- p - lr m' / (sqrt(s') + eps), with m' = m / (1 - b1^t) and s' = s / (1 - b2^t) at step t
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay, eps=eps)
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"{type(self).__name__}: betas must be at least 0 and less than 1, but they are {betas}")
        self.betas, self.eps = (float(betas[0]), float(betas[1])), float(eps)

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        m, s, (b1, b2), t = _remember(slots, "mean", p), _remember(slots, "square", p), self.betas, slots["step"]
        m *= b1
        m += (1 - b1) * g
        s *= b2
        s += (1 - b2) * g * g
        slots["mean"], slots["square"] = m, s
        return p - (self.lr / (1 - b1**t)) * m / ((s / (1 - b2**t)) ** 0.5 + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): first p <- (1 - lr weight_decay) p."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def decay(self, p: Tensor, g: Array) -> Array:
        p.data = backend.of(p.array).xp.asarray(p.array * (1 - self.lr * self.weight_decay))
        return g
