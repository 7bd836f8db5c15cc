"""A schedule that reacts to how training goes: the learning rate falls when a metric stops improving."""

from __future__ import annotations

import math
from typing import Any

from .base import Optimizer
from .schedules import Schedule


class ReduceLROnPlateau(Schedule):
    """Multiply by a factor when the metric given to ``step`` has not improved for more than ``patience`` steps.

    mode: "min" if less is better, "max" if more is.
    threshold: by how much a metric must beat the best one so far: relative to that one if threshold_mode is "rel",
    which is meant for metrics above 0, or absolutely if "abs".
    cooldown: the number of steps after a cut that do not count. min_lr: the lower bound of the rate.
    eps: a cut by no more than this is left out.

    >>> from tinygrad_rnn import ones
    >>> from tinygrad_rnn.optim import SGD
    >>> opt = SGD([ones(1, requires_grad=True)], lr=0.1)
    >>> schedule = ReduceLROnPlateau(opt, factor=0.5, patience=1)
    >>> for loss in [3.0, 2.0, 2.0, 2.0]:
    ...     schedule.step(loss)
    >>> opt.lr
    0.05
    """

    counters = ("steps", "base_lrs", "best", "bad_steps", "resting")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ):
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            self.refuse(f"mode is 'min' or 'max', not {mode!r}; threshold_mode 'rel' or 'abs', not {threshold_mode!r}")
        if not 0 <= factor < 1:
            self.refuse(f"the factor must be at least 0 and less than 1, not {factor}")
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown = factor, patience, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_steps = 0  # since the best, or since the last cut
        self.resting = 0  # steps left of a cooldown
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr  # until ``step`` cuts it

    def step(self, metric: Any = None) -> None:
        self._step_outside()
        if metric is None:
            raise TypeError("ReduceLROnPlateau: step needs the metric, such as the validation loss")
        value = float(metric)
        self.steps += 1
        if self._improves(value):
            self.best, self.bad_steps = value, 0
        else:
            self.bad_steps += 1  # NaN is no improvement either
        if self.resting:
            self.resting -= 1
            self.bad_steps = 0
        if self.bad_steps > self.patience:
            cuts = [max(lr * self.factor, self.min_lr) for lr in self.lrs]
            self.lrs = [cut if lr - cut > self.eps else lr for lr, cut in zip(self.lrs, cuts, strict=True)]
            self.bad_steps, self.resting = 0, self.cooldown

    def _improves(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        relative = self.threshold_mode == "rel"
        bar = self.best * (1 + sign * self.threshold) if relative else self.best + sign * self.threshold
        return sign * value > sign * bar
