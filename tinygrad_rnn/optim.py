"""Optimisers. A step gives each parameter a new array: the old one, which a graph may still need, is not written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import backend
from .backend import Array
from .op import ShapeError
from .tensor import Tensor

Slots = dict[str, Any]  # what an optimiser remembers of one parameter: arrays, and the count of its steps


class Optimizer:
    """The base: holds parameters, and for each what the rule remembers of it. Subclasses define ``update``."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        self.parameters = list(parameters)
        name = type(self).__name__
        if not self.parameters:
            raise ValueError(f"{name}: there are no parameters (a generator can be read only once)")
        for p in self.parameters:
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                raise TypeError(f"{name}: parameters are leaf tensors that require a gradient, not {p!r}")
        if len(set(self.parameters)) < len(self.parameters):
            raise ValueError(f"{name}: a parameter was given twice")
        if not lr >= 0 or not weight_decay >= 0:
            raise ValueError(f"{name}: lr {lr} and weight_decay {weight_decay} must not be negative")
        self.lr, self.weight_decay = lr, float(weight_decay)
        self.slots: list[Slots] = [{} for _ in self.parameters]

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        """The new array of a parameter, from the old one, its gradient, and what is remembered (updated in place)."""
        raise NotImplementedError

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.lr = float(self.lr)  # a schedule's np.float64 would make float64 of float32 parameters
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
    """Gradient descent: v <- momentum v + g, p <- p - lr v (Nesterov: p <- p - lr (g + momentum v))."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay)
        if nesterov and not momentum > 0:
            raise ValueError("SGD: Nesterov's form needs a momentum above 0")
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        if self.momentum:
            v = _remember(slots, "velocity", p)
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        new = g * -self.lr
        new += p
        return new


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): s <- s + g^2, p <- p - lr g / (sqrt(s) + eps)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0):
        super().__init__(parameters, lr, weight_decay)
        self.eps = eps

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        s = _remember(slots, "square", p)
        s += g * g
        return p - self.lr * g / (s**0.5 + self.eps)


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012): s <- alpha s + (1 - alpha) g^2, p <- p - lr g / (sqrt(s) + eps).

    centered: s less the square of the mean gradient (Graves 2013). momentum: of the scaled gradients.
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
        super().__init__(parameters, lr, weight_decay)
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, centered

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        s = _remember(slots, "square", p)
        s *= self.alpha
        s += (1 - self.alpha) * g * g
        spread = s
        if self.centered:
            m = _remember(slots, "mean", p)
            m *= self.alpha
            m += (1 - self.alpha) * g
            spread = s - m * m
            spread = spread * (spread > 0)  # rounding can leave less than nothing, of which there is no root
        g = g / (spread**0.5 + self.eps)
        if self.momentum:
            v = _remember(slots, "velocity", p)
            v *= self.momentum
            v += g
            g = v
        return p - self.lr * g


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): p <- p - lr m' / (sqrt(s') + eps), with bias-corrected means of g and of g^2."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, weight_decay)
        self.betas, self.eps = betas, eps

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        m, s, (b1, b2), t = _remember(slots, "mean", p), _remember(slots, "square", p), self.betas, slots["step"]
        m *= b1
        m += (1 - b1) * g
        s *= b2
        s += (1 - b2) * g * g
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
