"""Schedules of the learning rate equal PyTorch's, step by step, and go on exactly from where they were saved."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import optim

STEPS = 100
LR = 0.3


def optimizer(lr: float = LR) -> optim.SGD:
    return optim.SGD([tg.ones(1, requires_grad=True)], lr=lr)


def rates(opt: Any, schedule: Any, metrics: Any = None, steps: int = STEPS) -> list[float]:
    """The learning rate before each step, and after the last."""
    found = [opt.lr]
    for i in range(steps):
        schedule.step(*([] if metrics is None else [metrics[i]]))
        found.append(opt.lr)
    return found


@contextmanager
def pytorch(lr: float = LR) -> Iterator[tuple[Any, Any, Callable[..., list[float]]]]:
    """PyTorch's schedules, an optimiser for them, and their rates; what they warn of is not of interest here."""
    torch = pytest.importorskip("torch")
    opt = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=lr)

    def their_rates(schedule: Any, metrics: Any = None, steps: int = STEPS) -> list[float]:
        found = [opt.param_groups[0]["lr"]]
        for i in range(steps):
            opt.step()
            schedule.step(*([] if metrics is None else [metrics[i]]))
            found.append(opt.param_groups[0]["lr"])
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torch.optim.lr_scheduler, opt, their_rates


def assert_close(found: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# ---- parity ----

GAMMAS = st.sampled_from([0.1, 0.5, 0.99, 1.0])
DRAWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "StepLR": {"step_size": st.integers(1, 60), "gamma": GAMMAS},
    "MultiStepLR": {"milestones": st.lists(st.integers(0, 120), max_size=6).map(sorted), "gamma": GAMMAS},
    "ExponentialLR": {"gamma": GAMMAS},
    "CosineAnnealingLR": {"T_max": st.integers(1, 150), "eta_min": st.sampled_from([0.0, 0.01, 0.5])},
    "LinearLR": {
        "start_factor": st.sampled_from([1e-3, 1 / 3, 1.0]),
        "end_factor": st.sampled_from([0.0, 0.5, 1.0]),
        "total_iters": st.integers(1, 150),
    },
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_hundred_steps_equal_pytorch(name: str) -> None:
    @settings(deadline=None, max_examples=25)
    @given(options=st.fixed_dictionaries(DRAWN[name]))
    def check(options: dict[str, Any]) -> None:
        opt = optimizer()
        found = rates(opt, getattr(optim, name)(opt, **options))
        with pytorch() as (schedules, theirs, their_rates):
            assert_close(found, their_rates(getattr(schedules, name)(theirs, **options)))

    check()


def test_any_function_of_the_step() -> None:
    def inverse_root(step: int) -> float:
        return 1 / math.sqrt(1 + step)

    opt = optimizer()
    with pytorch() as (schedules, theirs, their_rates):
        assert_close(
            rates(opt, optim.LambdaLR(opt, inverse_root)), their_rates(schedules.LambdaLR(theirs, inverse_root))
        )


def test_arguments_have_pytorchs_names() -> None:
    torch = pytest.importorskip("torch")

    def names(kind: Any) -> set[str]:
        return set(inspect.signature(kind.__init__).parameters) - {"parameters"}

    places = (torch.optim, torch.optim.lr_scheduler)
    shared = [(name, place) for name in optim.__all__ for place in places if name in place.__all__]
    assert len(shared) >= 12
    for name, place in shared:
        if name != "Optimizer":
            assert names(getattr(optim, name)) <= names(getattr(place, name)), name


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(["min", "max"]), factor=st.sampled_from([0.0, 0.1, 0.5]), patience=st.integers(0, 12),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]), threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 10), min_lr=st.sampled_from([0.0, 0.01, 1.0]), seed=st.integers(0, 99),
    trend=st.sampled_from([0.0, 0.01, -0.01]), shift=st.sampled_from([0.0, 2.0]), bad=st.booleans(),
    eps=st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 1.0]),
)  # fmt: skip
def test_a_plateau_equals_pytorch(seed: int, trend: float, shift: float, bad: bool, **options: Any) -> None:
    metrics = np.random.default_rng(seed).standard_normal(STEPS) * 0.2 + shift + trend * np.arange(STEPS)
    if bad:
        metrics[::7] = np.nan
        metrics[3::11] = np.inf
    opt = optimizer()
    found = rates(opt, optim.ReduceLROnPlateau(opt, **options), metrics)
    with pytorch() as (schedules, theirs, their_rates):
        assert_close(found, their_rates(schedules.ReduceLROnPlateau(theirs, **options), metrics))


INNER: dict[str, Callable[[Any, Any], Any]] = {  # of our module or of PyTorch's, and an optimiser
    "step": lambda m, o: m.StepLR(o, 20),
    "multi-step": lambda m, o: m.MultiStepLR(o, [10, 40]),
    "exponential": lambda m, o: m.ExponentialLR(o, 0.97),
    "cosine": lambda m, o: m.CosineAnnealingLR(o, 50, 0.01),
}


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(list(INNER)), steps=st.integers(1, 60), start=st.sampled_from([1e-3, 0.25, 1.0]))
def test_one_schedule_after_another_equals_pytorch(name: str, steps: int, start: float) -> None:
    """Warmed up, and then once more from the start."""

    def in_turn(m: Any, o: Any) -> Any:
        first, then, again = m.LinearLR(o, start, 1.0, steps), INNER[name](m, o), INNER[name](m, o)
        return m.SequentialLR(o, [first, then, again], milestones=[steps, steps + 25])

    opt = optimizer()
    schedule = in_turn(optim, opt)
    expected = [schedule.rate(step, LR) for step in range(STEPS + 1)]
    assert rates(opt, schedule) == expected
    with pytorch() as (schedules, theirs, their_rates):
        assert_close(expected, their_rates(in_turn(schedules, theirs)))


def warmed_up(then: optim.Schedule, steps: int, start: float = 0.0) -> optim.SequentialLR:
    return optim.SequentialLR(then.optimizer, [optim.LinearLR(then.optimizer, start, total_iters=steps), then], [steps])


def test_a_plateau_after_another_schedule_gets_the_metric() -> None:
    opt = optimizer(1.0)
    schedule = warmed_up(optim.ReduceLROnPlateau(opt, factor=0.5, patience=1), steps=4)
    assert rates(opt, schedule, [1.0] * 9, steps=9) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_sequences_may_be_nested() -> None:
    opt = optimizer(1.0)
    inner = warmed_up(optim.ExponentialLR(opt, 0.5), 2, start=0.5)
    assert rates(opt, warmed_up(inner, 2), steps=6) == [0.0, 0.5, 0.5, 0.75, 1.0, 0.5, 0.25]


def test_the_order_in_which_the_schedules_of_a_sequence_are_made_does_not_matter() -> None:
    """In PyTorch too, all of them start from the rate that the optimiser had first."""

    def backwards(m: Any, o: Any) -> Any:
        third, second, first = m.LinearLR(o, 0.1, 1.0, 5), m.ExponentialLR(o, 0.9), m.LinearLR(o, 0.5, 1.0, 3)
        return m.SequentialLR(o, [first, second, third], milestones=[3, 9])

    opt = optimizer()
    found = rates(opt, backwards(optim, opt))
    with pytorch() as (schedules, theirs, their_rates):
        assert_close(found, their_rates(backwards(schedules, theirs)))


# ---- what PyTorch does not do ----


def test_nothing_is_lost_by_rounding() -> None:
    """The rate after a million steps is that of one step, not the result of a million products."""
    opt = optimizer()
    schedule = optim.ExponentialLR(opt, gamma=1 - 1e-6)
    for _ in range(10_000):
        schedule.step()
    assert opt.lr == LR * (1 - 1e-6) ** 10_000


@pytest.mark.parametrize("metric", [0.5, np.float32(0.5), tg.tensor(0.5), tg.tensor([0.5], requires_grad=True)])
def test_a_metric_may_be_a_tensor(metric: Any) -> None:
    schedule = optim.ReduceLROnPlateau(optimizer())
    schedule.step(metric)
    assert schedule.best == 0.5


def test_the_optimiser_uses_the_rate_at_once() -> None:
    p = tg.ones(1, dtype="float64", requires_grad=True)
    opt = optim.SGD([p], lr=1.0)
    schedule = warmed_up(optim.ExponentialLR(opt, 0.5), steps=2, start=0.5)
    found = []
    for _ in range(5):
        opt.zero_grad()
        p.sum().backward()
        before = p.item()
        opt.step()
        found.append(before - p.item())
        schedule.step()
    assert found == [0.5, 0.75, 1.0, 0.5, 0.25]


# ---- states ----

MAKERS: dict[str, Callable[[Any], Any]] = {
    **{name: (lambda o, make=make: make(optim, o)) for name, make in INNER.items()},
    "linear": lambda o: optim.LinearLR(o, total_iters=30),
    "function": lambda o: optim.LambdaLR(o, lambda step: 1 / (1 + step)),
    "plateau": lambda o: optim.ReduceLROnPlateau(o, patience=3, cooldown=2),
    "warm-up": lambda o: warmed_up(optim.CosineAnnealingLR(o, 40), 10),
    "warm-up, plateau": lambda o: warmed_up(optim.ReduceLROnPlateau(o, patience=3), 10),
}


@pytest.mark.parametrize("after", [0, 1, 10, 25])
@pytest.mark.parametrize("name", MAKERS)
def test_going_on_from_a_state_is_exact(name: str, after: int) -> None:
    """Also if the optimiser begins with another rate, and if its own state is not loaded."""
    metrics = np.random.default_rng(0).standard_normal(STEPS) if "plateau" in name else None
    opt = optimizer()
    schedule = MAKERS[name](opt)
    rates(opt, schedule, metrics, after)
    saved = copy.deepcopy(schedule.state_dict())
    rest = None if metrics is None else metrics[after:]
    expected = rates(opt, schedule, rest, STEPS - after)

    other = optimizer(7.0)
    resumed = MAKERS[name](other)
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == saved
    assert rates(other, resumed, rest, STEPS - after) == expected
    assert resumed.state_dict() == schedule.state_dict()


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(name: str) -> None:
    opt = optimizer()
    schedule = MAKERS[name](opt)
    before = schedule.state_dict()
    plain, plateau, warm = (MAKERS[kind](optimizer()).state_dict() for kind in ("step", "plateau", "warm-up"))
    others = [state for state in (plain, plateau, warm) if state["kind"] != before["kind"]]
    if "schedulers" in before:
        others.append({**before, "lrs": [9.0], "schedulers": [before["schedulers"][0], {}]})
    for other in [{}, *others]:
        with pytest.raises(KeyError, match=r"\w+: the state is that of a schedule of another kind, \w+"):
            schedule.load_state_dict(other)
    for which in ("lrs", "base_lrs"):
        with pytest.raises(ValueError, match="the state is of 2 groups, not of 1"):
            schedule.load_state_dict({**before, which: [9.0, 9.0], "steps": 3})
        with pytest.raises(ValueError, match="lr must not be negative, but it is nan"):
            schedule.load_state_dict({**before, which: [math.nan], "steps": 3})
    assert schedule.state_dict() == before
    assert [opt.lr] == before["lrs"]


@pytest.mark.parametrize("wrong", [tg.ones(1, requires_grad=True), [tg.ones(1, requires_grad=True)]])
def test_what_is_no_optimiser_is_refused(wrong: Any) -> None:
    for make in (lambda o: optim.StepLR(o, 1), optim.ReduceLROnPlateau, lambda o: optim.LambdaLR(o, float)):
        with pytest.raises(TypeError, match=rf"LR\w*: the optimiser comes first, .* not a {type(wrong).__name__}$"):
            make(wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: optim.StepLR(o, 0),
        lambda o: optim.CosineAnnealingLR(o, 0),
        lambda o: rates(o, optim.CosineAnnealingLR(o, 10, eta_min=-1.0)),
        lambda o: optim.LinearLR(o, total_iters=0),
        lambda o: optim.LinearLR(o, start_factor=-0.1),
        lambda o: optim.ReduceLROnPlateau(o, mode="least"),
        lambda o: optim.ReduceLROnPlateau(o, threshold_mode="relative"),
        lambda o: optim.ReduceLROnPlateau(o, factor=1.0),
        lambda o: optim.SequentialLR(o, [], []),
        lambda o: optim.SequentialLR(o, [optim.StepLR(o, 5)], [5]),
        lambda o: optim.SequentialLR(o, [optim.StepLR(o, 5), optim.StepLR(o, 5)], [0]),
        lambda o: optim.SequentialLR(o, [optim.StepLR(o, 5) for _ in range(3)], [4, 3]),
        lambda o: optim.SequentialLR(o, [optim.StepLR(optimizer(), 5)], []),
        lambda o: optim.SequentialLR(o, [o], []),
        lambda o: optim.LambdaLR(o, lambda step: math.nan),
        lambda o: rates(o, optim.ExponentialLR(o, gamma=-0.5)),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"(LR|Plateau): "):
        make(optimizer())


def test_a_schedule_that_has_run_is_not_part_of_a_sequence() -> None:
    schedule = optim.StepLR(optimizer(), 5)
    schedule.step()
    with pytest.raises(ValueError, match="at their start, and not"):
        optim.SequentialLR(schedule.optimizer, [schedule], [])


def test_a_schedule_is_part_of_a_sequence_only_once() -> None:
    schedule = optim.ExponentialLR(optimizer(), 0.5)  # which would go on the second time, and not begin anew
    with pytest.raises(ValueError, match="each once"):
        optim.SequentialLR(schedule.optimizer, [schedule, schedule], [3])


def test_a_sequence_takes_no_state_of_another_length() -> None:
    opt = optimizer()
    longer = optim.SequentialLR(opt, [optim.StepLR(opt, 5), optim.StepLR(opt, 5)], [9])
    shorter = optim.SequentialLR(opt, [optim.StepLR(opt, 5)], [])
    with pytest.raises(ValueError, match="the state is of 2 schedules, not of 1"):
        shorter.load_state_dict(longer.state_dict())


def test_a_plateau_without_a_metric_says_so() -> None:
    with pytest.raises(TypeError, match="step needs the metric"):
        optim.ReduceLROnPlateau(optimizer()).step()


def test_a_step_whose_rate_makes_no_sense_does_not_count() -> None:
    opt = optimizer()
    schedule = optim.LambdaLR(opt, lambda step: 1.0 - step)
    schedule.step()
    for _ in range(2):
        with pytest.raises(ValueError, match="the learning rate after 2 steps would be -"):
            schedule.step()
    assert (schedule.steps, opt.lr) == (1, 0.0)


def test_a_step_of_a_sequence_that_lacks_its_metric_does_not_count() -> None:
    opt = optimizer()
    schedule = warmed_up(optim.ReduceLROnPlateau(opt), steps=1)
    schedule.step()
    before = schedule.state_dict()
    with pytest.raises(TypeError, match="step needs the metric"):
        schedule.step()
    assert schedule.state_dict() == before


def test_a_schedule_does_not_undo_what_another_one_did() -> None:
    opt = optimizer(lr=1.0)
    warm_up, fall = optim.LinearLR(opt), optim.ReduceLROnPlateau(opt, patience=0)
    warm_up.step()
    for _ in range(2):
        fall.step(1.0)
    with pytest.raises(ValueError, match=r"LinearLR: the learning rate is \[0.0\d+\], not \[0.\d+\]"):
        warm_up.step()
    assert opt.lr < 0.1
    assert warm_up.steps == 1


def test_a_schedule_does_not_undo_an_assignment() -> None:
    opt = optimizer(lr=1.0)
    schedule = optim.ExponentialLR(opt, 0.5)
    opt.lr = 0.1
    with pytest.raises(ValueError, match="assign to this ExponentialLR's base_lrs and lrs instead"):
        schedule.step()
    schedule.base_lrs = schedule.lrs = [0.2]
    schedule.step()
    assert opt.lr == 0.1


def test_a_warm_up_by_hand_may_round() -> None:
    opt = optimizer(lr=0.1)
    schedule = optim.ExponentialLR(opt, 0.5)
    for step in range(3):
        opt.lr = 0.1 * (step + 1) / 3
    assert opt.lr != 0.1
    schedule.step()
    assert opt.lr == 0.05


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_within_a_captured_step_is_told_where_it_belongs(name: str) -> None:
    schedule = MAKERS[name](optimizer())
    step = tg.capture(lambda x: schedule.step(x.sum()))
    step(tg.ones(1))
    before = schedule.state_dict()
    with pytest.raises(tg.CaptureError, match=r"calls step\(\) of a \w+, which belongs after the call of the captured"):
        step(tg.ones(1))
    assert schedule.state_dict() == before
