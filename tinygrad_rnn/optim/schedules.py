"""Schedules for the learning rate of an optimiser during training.

    schedule = optim.CosineAnnealingLR(opt, T_max=1000)
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
from itertools import count, pairwise
from typing import Any

from ..hints import OPTIMISERS, hinted
from ..replay.recorder import is_recording
from ..replay.refusal import refuse
from .base import Optimizer

_numbers = count()  # of all schedules, in the order in which they are made


class Schedule:
    """The base class: counts steps, and sets ``lr`` of each of the optimiser's groups to ``rate(steps, base_lr)``.

    ``base_lrs`` are the rates of the groups when the schedule was created. Subclasses define ``rate``.
    """

    counters: tuple[str, ...] = ("steps", "base_lrs")  # what a state_dict holds besides the current rates

    def __init__(self, optimizer: Optimizer):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: the optimiser comes first, such as optim.SGD(parameters, lr=0.1), not a "
                f"{type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self._number = next(_numbers)
        self.steps = 0
        self.begin(self.lrs)

    @property
    def lrs(self) -> list[float]:
        """The current learning rate of each group."""
        return [float(group.lr) for group in self.optimizer.groups]

    @lrs.setter
    def lrs(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.groups, rates, strict=True):
            group.lr = rate
        self._left = self.lrs

    def begin(self, base_lrs: list[float]) -> None:
        """Set the rates of step 0."""
        self.base_lrs = base_lrs
        self._go_to(self.steps)

    def rate(self, step: int, base_lr: float) -> float:
        """The learning rate, after ``step`` steps, of a group that starts with base_lr."""
        raise NotImplementedError

    def step(self, metric: Any = None) -> None:
        """Advance by one training step, or one epoch, whichever the schedule counts.

        metric: the model's current quality, for schedules that need it; a number, or a Tensor with one element.

        Raises ValueError if something else has changed the rate since, as this step would undo that, and CaptureError
        within a captured step.
        """
        self._step_outside()
        if not all(map(math.isclose, self.lrs, self._left)):  # a warm-up by hand may end in another last bit
            self.refuse(
                f"the learning rate is {self.lrs}, not {self._left} as this schedule left it, and a step would undo "
                "the change. If another schedule made it, make one of both: SequentialLR, or LambdaLR with the product "
                f"of the factors; if an assignment did, assign to this {type(self).__name__}'s base_lrs and lrs instead"
                "; if a loaded state of the optimiser did, load the schedule's too"
            )
        self._go_to(self.steps + 1)

    def _step_outside(self) -> None:
        """Refuse a step while one is recorded: a replay would not count it."""
        if is_recording():
            refuse(f"calls step() of a {type(self).__name__}, which belongs after the call of the captured step")

    def _go_to(self, steps: int) -> None:
        rates = [self.rate(steps, base_lr) for base_lr in self.base_lrs]
        for rate in rates:
            if not rate >= 0:
                self.refuse(f"the learning rate after {steps} steps would be {rate}")
        self.lrs, self.steps = rates, steps

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
                f"{own['kind']}: the state is that of a schedule of another kind, "
                f"{state.get('kind', 'which it does not tell')}, and holds {list(state)}; needed are {list(own)}"
            )
        for rates in (state["lrs"], state["base_lrs"]):
            if len(rates) != len(self.lrs):
                self.refuse(f"the state is of {len(rates)} groups, not of {len(self.lrs)}")
            for group, rate in zip(self.optimizer.groups, rates, strict=True):
                group._check("lr", rate)

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


class SequentialLR(Schedule):
    """One schedule after another: at each milestone the next one starts, from its own step 0.

    schedulers: of this optimiser, and not begun. All start from the rates that it had before the earliest of them was
    made, as that may have changed what the others found. milestones: at which steps all but the first of them start.
    A metric given to ``step`` is passed on to the present schedule, as ``ReduceLROnPlateau`` needs it.

    >>> from tinygrad_rnn import ones, optim
    >>> opt = optim.SGD([ones(1, requires_grad=True)], lr=1.0)
    >>> warm_up, fall = LinearLR(opt, start_factor=0.5, total_iters=2), ExponentialLR(opt, gamma=0.5)
    >>> schedule = SequentialLR(opt, [warm_up, fall], milestones=[2])
    >>> [schedule.rate(step, 1.0) for step in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]):
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        for schedule in self.schedulers:
            fits = isinstance(schedule, Schedule) and schedule.optimizer is optimizer and not schedule.steps
            if not fits or self.schedulers.count(schedule) > 1:
                self.refuse(f"it takes schedules of its own optimiser, each once, at their start, and not {schedule!r}")
        starts = [0, *self.milestones]
        if len(starts) != len(self.schedulers) or any(a >= b for a, b in pairwise(starts)):
            self.refuse(
                f"{len(self.schedulers)} schedules need one milestone less, above 0 and in order, not {self.milestones}"
            )
        earliest = min(self.schedulers, key=lambda schedule: schedule._number)
        self.optimizer, self.lrs = optimizer, earliest.base_lrs  # as before any of them was made
        super().__init__(optimizer)
        self._number = earliest._number  # for a sequence that this one may be part of

    def begin(self, base_lrs: list[float]) -> None:
        for schedule in self.schedulers:
            schedule.begin(base_lrs)
        super().begin(base_lrs)

    def rate(self, step: int, base_lr: float) -> float:
        k = bisect_right(self.milestones, step)
        return self.schedulers[k].rate(step - [0, *self.milestones][k], base_lr)

    def step(self, metric: Any = None) -> None:
        self._step_outside()
        steps = self.steps + 1
        present = self.schedulers[bisect_right(self.milestones, steps)]
        if steps in self.milestones:
            present.begin(present.base_lrs)
        else:
            present.step(metric)
        self.steps = steps  # not if a metric was forgotten

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check(state)
        for schedule, own in zip(self.schedulers, state["schedulers"], strict=True):
            schedule.load_state_dict(own)
        super().load_state_dict(state)

    def _check(self, state: Mapping[str, Any]) -> None:
        super()._check(state)
        if len(state["schedulers"]) != len(self.schedulers):
            self.refuse(f"the state is of {len(state['schedulers'])} schedules, not of {len(self.schedulers)}")
        for schedule, own in zip(self.schedulers, state["schedulers"], strict=True):
            schedule._check(own)


hinted(Schedule, OPTIMISERS, "a schedule")
