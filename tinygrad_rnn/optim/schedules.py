"""Schedules for the learning rate of an optimiser during training.

    schedule = optim.Warmup(optim.CosineAnnealingLR(opt, T_max=1000), steps=100)
    for batch in batches:
        ...
        opt.step()
        schedule.step()

Rates and names are PyTorch's. But here the rate depends on the number of steps alone, so that rounding errors do not
accumulate, and a schedule continues exactly from a ``state_dict``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..hints import OPTIMISERS, hinted
from .base import Optimizer


class Schedule:
    """The base class: counts steps, and sets ``lr`` of each of the optimiser's groups to ``rate(steps, base_lr)``.

    ``base_lrs`` are the rates of the groups when the schedule was created. Subclasses define ``rate``.
    """

    counters: tuple[str, ...] = ("steps", "base_lrs")  # what a state_dict holds besides the current rates

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.base_lrs = self.lrs
        self.steps = 0
        self._apply()

    @property
    def lrs(self) -> list[float]:
        """The current learning rate of each group."""
        return [float(group.lr) for group in self.optimizer.groups]

    @lrs.setter
    def lrs(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.groups, rates, strict=True):
            group.lr = rate

    def rate(self, step: int, base_lr: float) -> float:
        """The learning rate, after ``step`` steps, of a group that starts with base_lr."""
        raise NotImplementedError

    def step(self, metric: Any = None) -> None:
        """Advance by one training step, or one epoch, whichever the schedule counts.

        metric: the model's current quality, for schedules that need it; a number, or a Tensor with one element.
        """
        self.steps += 1
        self._apply()

    def _apply(self) -> None:
        rates = [self.rate(self.steps, base_lr) for base_lr in self.base_lrs]
        for rate in rates:
            if not rate >= 0:
                self.refuse(f"the learning rate after {self.steps} steps would be {rate}")
        self.lrs = rates

    def state_dict(self) -> dict[str, Any]:
        """The schedule's progress and the current rates, without the constructor's settings."""
        return {"kind": type(self).__name__, "lrs": self.lrs, **{name: getattr(self, name) for name in self.counters}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``; raises, and changes nothing, if it is from another kind of schedule."""
        self._check(state)
        for name in self.counters:
            setattr(self, name, state[name])
        self.lrs = state["lrs"]

    def _check(self, state: Mapping[str, Any]) -> None:
        own = self.state_dict()
        if state.keys() != own.keys() or state["kind"] != own["kind"]:
            raise KeyError(
                f"{type(self).__name__}: the state holds {list(state)}, but {list(own)} are needed; it belongs to a "
                f"schedule of another kind, {state.get('kind', 'which it does not tell')}"
            )
        if len(state["lrs"]) != len(self.lrs):
            self.refuse(f"the state is of {len(state['lrs'])} groups, not of {len(self.lrs)}")

    def refuse(self, what: str) -> None:
        """Raise ValueError for an invalid setting."""
        raise ValueError(f"{type(self).__name__}: {what}")


class LambdaLR(Schedule):
    """Any function of the step: lr = base_lr lr_lambda(step).

    >>> from tinygrad_rnn import ones
    >>> from tinygrad_rnn.optim import SGD
    >>> opt = SGD([ones(1, requires_grad=True)], lr=0.1)
    >>> schedule = LambdaLR(opt, lambda step: 1 / (1 + step))
    >>> schedule.step()
    >>> opt.lr
    0.05
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]):
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr * float(self.lr_lambda(step))


class StepLR(Schedule):
    """Multiply by gamma every ``step_size`` steps: lr = base_lr gamma^floor(step / step_size).

    >>> from tinygrad_rnn import ones, optim
    >>> opt = optim.SGD([ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = StepLR(opt, step_size=2, gamma=0.5)
    >>> [schedule.rate(step, 1.0) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        if step_size < 1:
            self.refuse(f"step_size must be at least 1, not {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        return float(base_lr * self.gamma ** (step // self.step_size))


class MultiStepLR(Schedule):
    """Multiply by gamma at each milestone: lr = base_lr gamma^(number of milestones <= step)."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        return float(base_lr * self.gamma ** bisect_right(self.milestones, step))


class ExponentialLR(Schedule):
    """Multiply by gamma at every step: lr = base_lr gamma^step.

    >>> from tinygrad_rnn import ones, optim
    >>> opt = optim.SGD([ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = ExponentialLR(opt, gamma=0.5)
    >>> [schedule.rate(step, 1.0) for step in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """

    def __init__(self, optimizer: Optimizer, gamma: float):
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        return float(base_lr * self.gamma**step)


class CosineAnnealingLR(Schedule):
    """Half a cosine wave, from base_lr down to eta_min in T_max steps (Loshchilov and Hutter 2017).

    lr = eta_min + (base_lr - eta_min) (1 + cos(pi step / T_max)) / 2; after T_max the wave goes up again.

    >>> from tinygrad_rnn import ones, optim
    >>> opt = optim.SGD([ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = CosineAnnealingLR(opt, T_max=4)
    >>> [round(schedule.rate(step, 1.0), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        if T_max < 1:
            self.refuse(f"T_max must be at least 1, not {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class LinearLR(Schedule):
    """A linear ramp from base_lr start_factor to base_lr end_factor in total_iters steps, constant afterwards."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ):
        if total_iters < 1 or not start_factor >= 0 or not end_factor >= 0:
            self.refuse(
                f"total_iters {total_iters} must be at least 1, and start_factor {start_factor} and end_factor "
                f"{end_factor} not negative"
            )
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        share = min(step, self.total_iters) / self.total_iters
        return base_lr * (self.start_factor + (self.end_factor - self.start_factor) * share)


class ReduceLROnPlateau(Schedule):
    """Multiply by a factor when the metric given to ``step`` has not improved for more than ``patience`` steps.

    mode: "min" if less is better, "max" if more is.
    threshold: by how much a metric must beat the best one so far: relative to that one if threshold_mode is "rel",
    which is meant for metrics above 0, or absolutely if "abs".
    cooldown: the number of steps after a cut that do not count. min_lr: the lower bound of the rate.

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
    ):
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            self.refuse(f"mode is 'min' or 'max', not {mode!r}; threshold_mode 'rel' or 'abs', not {threshold_mode!r}")
        if not 0 <= factor < 1:
            self.refuse(f"the factor must be at least 0 and less than 1, not {factor}")
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.min_lr = factor, patience, cooldown, min_lr
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_steps = 0  # since the best, or since the last cut
        self.resting = 0  # steps left of a cooldown
        super().__init__(optimizer)

    def _apply(self) -> None:
        """Nothing to set: only ``step`` changes the rates."""

    def step(self, metric: Any = None) -> None:
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
            self.lrs = [min(lr, max(lr * self.factor, self.min_lr)) for lr in self.lrs]
            self.bad_steps, self.resting = 0, self.cooldown

    def _improves(self, value: float) -> bool:
        towards = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            bar = self.best * (1 + towards * self.threshold)
        else:
            bar = self.best + towards * self.threshold
        return value < bar if self.mode == "min" else value > bar


class Warmup(Schedule):
    """A linear ramp from base_lr start_factor up to base_lr in ``steps`` steps, then another schedule from its start.

    To warm up any schedule, wrap it: ``Warmup(CosineAnnealingLR(opt, 1000), steps=100)``. After the warm-up, the
    metric given to ``step`` is passed on, as ``ReduceLROnPlateau`` needs it.

    >>> from tinygrad_rnn import ones
    >>> from tinygrad_rnn.optim import SGD
    >>> opt = SGD([ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = Warmup(ExponentialLR(opt, gamma=0.5), steps=2, start_factor=0.5)
    >>> for _ in range(4):
    ...     print(opt.lr)
    ...     schedule.step()
    0.5
    0.75
    1.0
    0.5
    """

    def __init__(self, schedule: Schedule, steps: int, start_factor: float = 1 / 3):
        if not isinstance(schedule, Schedule):
            raise TypeError(f"Warmup: it wraps a schedule, such as LambdaLR, and that an optimiser; not {schedule!r}")
        if steps < 1 or not start_factor >= 0 or schedule.steps:
            self.refuse(
                f"steps {steps} must be at least 1, start_factor {start_factor} not negative, and the schedule, which "
                f"has done {schedule.steps} steps, at its start"
            )
        self.schedule, self.warm_steps, self.start_factor = schedule, steps, start_factor
        super().__init__(schedule.optimizer)

    def rate(self, step: int, base_lr: float) -> float:
        share = min(step, self.warm_steps) / self.warm_steps
        return base_lr * (self.start_factor + (1 - self.start_factor) * share)

    def step(self, metric: Any = None) -> None:
        if self.steps < self.warm_steps:
            super().step()
        else:
            self.steps += 1
            self.schedule.step(metric)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check(state)
        self.schedule.load_state_dict(state["schedule"])
        super().load_state_dict(state)


hinted(Schedule, OPTIMISERS, "a schedule")
