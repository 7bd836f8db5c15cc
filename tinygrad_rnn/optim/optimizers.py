"""The update rules of the optimisers.

A step gives each parameter a new array and never writes to the old one, which a graph may still need.
Each rule matches PyTorch's optimiser of the same name, if there is one. ``opt.lr`` may be assigned at any time, which
is all that a schedule does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..tensor import Tensor
from .base import Optimizer, Parameters, Slots


def _slot(slots: Slots, name: str, like: Array) -> Array:
    """A parameter's named slot, initially zeros, in the parameter's dtype, which ``model.to`` may have changed."""
    slot = slots.get(name)
    if slot is None:
        slots[name] = backend.of(like).xp.zeros_like(like)
    elif slot.dtype != like.dtype:
        slots[name] = slot.astype(like.dtype)
    return slots[name]


def _accumulate(slots: Slots, name: str, decay: float, term: Array) -> Array:
    """Set slot <- decay slot + term, and return it."""
    slot = _slot(slots, name, term)
    slot *= decay
    slot += term
    return slot


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964), also in Nesterov's form (Sutskever et al. 2013).

    v <- momentum v + (1 - dampening) g, but v = g in the first step
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
        parameters: Parameters,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(parameters, lr, weight_decay, momentum=momentum, dampening=dampening)
        if nesterov and (not momentum > 0 or dampening):
            raise ValueError("SGD: Nesterov's form needs a momentum above 0, and no dampening")
        self.momentum, self.nesterov, self.dampening = float(momentum), nesterov, float(dampening)

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        if self.momentum:
            damped = (1 - self.dampening) * g if self.dampening and "velocity" in slots else g
            v = _accumulate(slots, "velocity", self.momentum, damped)
            g = g + self.momentum * v if self.nesterov else v
        new = g * -self.lr
        new += p
        return new


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): s <- s + g^2, p <- p - lr g / (sqrt(s) + eps).

    >>> from tinygrad_rnn import ones
    >>> w = ones(2, requires_grad=True)
    >>> (w * w).sum().backward()
    >>> Adagrad([w], lr=0.25).step()
    >>> w.numpy().round(3).tolist()
    [0.75, 0.75]
    """

    def __init__(self, parameters: Parameters, lr: float = 1e-2, *, weight_decay: float = 0.0, eps: float = 1e-10):
        super().__init__(parameters, lr, weight_decay, eps=eps)
        self.eps = float(eps)

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        s = _slot(slots, "square", p)
        s += g * g
        return p - self.lr * g / (s**0.5 + self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): the gradient divided by its root mean square.

    s <- alpha s + (1 - alpha) g^2
    m <- alpha m + (1 - alpha) g, and s - m^2 in place of s below, if ``centered``
    v <- momentum v + g / (sqrt(s) + eps)
    p <- p - lr v

    >>> from tinygrad_rnn import ones
    >>> w = ones(2, requires_grad=True)
    >>> (w * w).sum().backward()
    >>> RMSprop([w], lr=0.25, alpha=0.75).step()
    >>> w.numpy().round(3).tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ):
        super().__init__(parameters, lr, weight_decay, alpha=alpha, eps=eps, momentum=momentum)
        self.alpha, self.eps, self.momentum, self.centered = float(alpha), float(eps), float(momentum), centered

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        variance = _accumulate(slots, "square", self.alpha, (1 - self.alpha) * g * g)
        if self.centered:
            m = _accumulate(slots, "mean", self.alpha, (1 - self.alpha) * g)
            variance = variance - m * m
            variance = variance * (variance > 0)  # rounding can make it negative
        g = g / self.scale(variance)
        if self.momentum:
            g = _accumulate(slots, "velocity", self.momentum, g)
        return p - self.lr * g

    def scale(self, variance: Array) -> Array:
        """The divisor of a gradient."""
        return variance**0.5 + self.eps


class GravesRMSprop(RMSprop):
    """Centred RMSprop with momentum, and eps inside the root (Graves 2013).

    s <- alpha s + (1 - alpha) g^2
    m <- alpha m + (1 - alpha) g
    v <- momentum v + g / sqrt(s - m^2 + eps)
    p <- p - lr v

    The defaults are those of the paper, "Generating sequences with recurrent neural networks".
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-4,
        alpha: float = 0.95,
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
    ):
        super().__init__(parameters, lr, alpha, eps, weight_decay, momentum, True)

    def scale(self, variance: Array) -> Array:
        return (variance + self.eps) ** 0.5


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): running means of the gradient and its square, corrected for starting at 0.

    m <- b1 m + (1 - b1) g,  s <- b2 s + (1 - b2) g^2
    p <- p - lr m' / (sqrt(s') + eps), with m' = m / (1 - b1^t) and s' = s / (1 - b2^t) at step t

    amsgrad: use the largest s so far in place of s in the last line (Reddi, Kale and Kumar 2018).

    >>> from tinygrad_rnn import ones
    >>> w = ones(2, requires_grad=True)
    >>> (w * w).sum().backward()
    >>> Adam([w], lr=0.25).step()
    >>> w.numpy().round(3).tolist()
    [0.75, 0.75]
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ):
        super().__init__(parameters, lr, weight_decay, eps=eps, betas=betas)
        self.betas, self.eps, self.amsgrad = betas, float(eps), amsgrad

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "betas":  # NumPy's numbers would turn float32 parameters into float64
            vars(self)[name] = float(value[0]), float(value[1])

    def _check(self, setting: str, value: Any) -> None:
        several = setting == "betas" and np.iterable(value)
        for number in value if several else [value]:
            super()._check(setting, number)
        if setting == "betas" and not (several and len(value) == 2 and max(value) < 1):
            raise ValueError(f"{type(self).__name__}: betas are two numbers of at least 0 and below 1, not {value}")

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        (b1, b2), t = self.betas, slots["step"]
        m = _accumulate(slots, "mean", b1, (1 - b1) * g)
        s = _accumulate(slots, "square", b2, (1 - b2) * g * g)
        if self.amsgrad:
            xp = backend.of(p).xp
            s = slots["largest"] = xp.asarray(xp.maximum(_slot(slots, "largest", p), s))  # a 0-d one may be a scalar
        return p - (self.lr / (1 - b1**t)) * m / ((s / (1 - b2**t)) ** 0.5 + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): first p <- (1 - lr weight_decay) p.

    >>> from tinygrad_rnn import ones
    >>> w = ones(2, requires_grad=True)
    >>> (w * w).sum().backward()
    >>> AdamW([w], lr=0.25, weight_decay=1.0).step()
    >>> w.numpy().round(3).tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad)

    def decay(self, p: Tensor, g: Array) -> Array:
        p.data = p.array * (1 - self.lr * self.weight_decay)
        return g
