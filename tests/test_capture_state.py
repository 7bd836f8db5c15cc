"""What a captured step leaves behind, and what is done to it between calls: all as if each call had been eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Signature, signature
from typing import Any

import numpy as np
import pytest
from test_capture import arrays_of, equal

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, optim
from tinygrad_rnn.replay import recording

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def batch(k: float = 1.0) -> tg.Tensor:
    return tg.tensor(X * np.float32(k))


class Small:
    """A model, an optimiser, and a step of training."""

    def __init__(self, make: Any = optim.SGD, **settings: Any) -> None:
        tg.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.parameters = list(self.model.parameters())
        self.optimizer = make(self.parameters, **{"lr": 0.1, **settings})

    def step(self, x: tg.Tensor) -> tg.Tensor:
        self.optimizer.zero_grad()
        loss = self.gather(x)
        self.optimizer.step()
        return loss

    def gather(self, x: tg.Tensor) -> tg.Tensor:
        loss = (self.model(x) ** 2).mean()
        loss.backward()
        return loss.detach()


def alike(results: Callable[..., Iterator[Any]]) -> Callable[..., None]:
    """A test of what ``results(wrap, ...)`` yields: with its steps captured, it is what it is without."""

    @wraps(results)
    def test(**given: Any) -> None:
        pairs = zip(results(tg.capture, **given), results(lambda step: step, **given), strict=True)
        assert [equal(found, expected, exact=False) for found, expected in pairs]

    test.__signature__ = Signature([*signature(results).parameters.values()][1:])
    return test


# ---- gradients ----


@pytest.mark.parametrize(
    "change",
    [
        lambda s: tg.clip_grad_norm_(s.parameters, 0.1),
        lambda s: s.gather(batch(0.5)),
        lambda s: [setattr(p.grad, "data", p.grad.data * 0.5) for p in s.parameters],
        lambda s: [setattr(p, "grad", p.grad * 2) for p in s.parameters],
    ],
    ids=["clipped", "accumulated", "scaled", "replaced"],
)
@alike
def test_gradients_may_be_changed_between_replays(wrap: Any, change: Any) -> Iterator[Any]:
    s = Small()

    @wrap
    def step(x: Any) -> Any:
        s.optimizer.zero_grad()
        return s.gather(x)

    for k in range(8):
        loss = step(batch(k + 1))
        change(s)
        grads = [p.grad.numpy() for p in s.parameters]
        s.optimizer.step()
        yield loss, grads, s.parameters


def test_each_gradient_has_an_array_of_its_own() -> None:
    a, b, c = (tg.ones(2, requires_grad=True) for _ in range(3))

    @tg.capture
    def step(q: tg.Tensor) -> None:
        for p in (a, b, c):
            p.grad = None
        ((a + b).sum() * q + c.sum()).backward()

    for k in range(4):
        step(tg.tensor(float(k)))
    assert not np.shares_memory(a.grad.data, b.grad.data)
    equal([a.grad, b.grad, c.grad], [np.full(2, 3.0), np.full(2, 3.0), np.ones(2)])


@alike
def test_the_gradient_of_the_call_before_can_be_read(wrap: Any) -> Iterator[Any]:
    s = Small()

    def step(x: Any) -> Any:
        before = [p.grad for p in s.parameters]
        s.optimizer.zero_grad()
        loss = s.gather(x)
        for p, g in zip(s.parameters, before, strict=True):
            p.grad = p.grad + 0.5 * g
        s.optimizer.step()
        return loss, before

    s.gather(batch())
    step = wrap(step)
    for k in range(8):
        yield step(batch(k + 1)), s.parameters


@alike
def test_a_gradient_that_is_no_result_of_the_step(wrap: Any) -> Iterator[Any]:
    s = Small()

    @wrap
    def step(x: Any) -> Any:
        s.optimizer.zero_grad()
        s.parameters[0].grad = tg.ones(2, 3)
        s.optimizer.step()
        return s.model(x)

    for k in range(8):
        yield step(batch(k)), s.parameters


# ---- results that are held, and arrays that change places ----


@alike
def test_results_are_never_overwritten_by_later_calls(wrap: Any) -> Iterator[Any]:
    s, held = Small(), []

    @wrap
    def step(x: Any) -> Any:
        before = s.model.weight.detach()
        return s.step(x), before, s.model.weight.detach(), s.model.weight.grad, s.model.weight.data, s.model.bias

    for k in range(8):
        loss, *arrays = step(batch(k + 1))
        held.append([loss, *arrays[:-1]])
        yield [arrays_of(result) for result in held]


def test_what_one_step_returns_is_not_overwritten_by_another_one() -> None:
    small = Small()
    train, look = tg.capture(small.step), tg.capture(lambda: (small.model.weight, small.model.weight.grad))
    for k in range(4):
        train(batch(k))
    for k in range(3):
        held = look()
        values = arrays_of([x.numpy().copy() for x in held])
        train(batch(k))
        equal(held, values)


@alike
def test_a_copy_that_lags_behind(wrap: Any) -> Iterator[Any]:
    s = Small()
    late = tg.tensor(s.model.weight.data)

    @wrap
    def step(x: Any) -> Any:
        late.data = s.model.weight.data
        return s.step(x)

    for k in range(8):
        yield step(batch(k + 1)), s.parameters, late


@alike
def test_two_tensors_that_change_places(wrap: Any) -> Iterator[Any]:
    a, b = tg.tensor([1.0, 2.0]), tg.tensor([3.0, 4.0])

    @wrap
    def step(x: Any) -> Any:
        a.data, b.data = b.data, a.data
        return (a * x + b).sum()

    for k in range(8):
        yield step(tg.tensor([1.0, k])), a, b


@pytest.mark.parametrize("given", [lambda p: p.data, lambda p: p.detach().data, lambda p: p.grad.data])
@alike
def test_a_target_that_is_given_the_weights_again_and_again_keeps_what_it_was_given(
    wrap: Any, given: Any
) -> Iterator[Any]:
    s, target = Small(), nn.Linear(3, 2)
    targets = list(target.parameters())
    for t in targets:
        t.requires_grad = False
    step = wrap(lambda x: (s.step(x), target(x)))
    for k in range(12):
        found = step(batch(k + 1)), [t.numpy() for t in targets]
        if k % 3:
            for t, p in zip(targets, s.parameters, strict=True):
                t.data = given(p)
        yield found


@pytest.mark.parametrize("given", [lambda p: p.data, lambda p: p.grad.data, lambda p: p.data.T[::-1].T])
@pytest.mark.parametrize("follows", [True, False])
@alike
def test_an_average_that_starts_anew_from_the_weights_where_another_shape_is_recorded(
    wrap: Any, given: Any, follows: bool
) -> Iterator[Any]:
    s = Small()
    averages = [tg.tensor(p.data) for p in s.parameters]

    @wrap
    def step(x: Any) -> Any:
        loss = s.gather(x) + tg.linear(x, *averages).sum()
        for average, p in zip(averages, s.parameters, strict=True):
            p.data = p.data - 0.1 * p.grad.data
            if follows:
                average.data = 0.9 * average.data + 0.1 * p.data
        return loss

    for k in range(8):
        if k == 4:
            for average, p in zip(averages, s.parameters, strict=True):
                average.data = given(p)
        yield step(tg.tensor(X[: 3 if k < 4 else 4] * k)), s.parameters, [p.grad for p in s.parameters], averages


@pytest.mark.parametrize("view", [lambda array: array, lambda array: array[::-1]])
@alike
def test_weights_that_are_assigned_again_later_stay_those_of_the_user(wrap: Any, view: Any) -> Iterator[Any]:
    """Those of a frozen layer too, which replays only read, as after early stopping."""
    s, frozen = Small(), nn.Linear(3, 3)
    tensors = [*frozen.parameters(), *s.parameters]
    for p in tensors[:2]:
        p.requires_grad = False
    best, step = [p.data.copy() for p in tensors], wrap(lambda x: s.step(frozen(x)))
    for k in range(10):
        if k in (3, 5, 8):
            for p, array in zip(tensors, best, strict=True):
                p.data = view(array)
        yield step(batch(k + 1)), tensors, best


# ---- parameters and optimisers ----


@alike
def test_parameters_can_be_frozen_and_thawed(wrap: Any) -> Iterator[Any]:
    s = Small(optim.Adam)
    step = wrap(s.step)
    for k in range(12):
        s.model.bias.requires_grad = not 4 <= k < 7
        yield step(batch(k + 1)), s.parameters


@alike
def test_a_gradient_from_before_is_dropped_while_a_parameter_is_frozen(wrap: Any) -> Iterator[Any]:
    s = Small()
    step, gather = wrap(s.step), wrap(s.gather)
    for k in range(18):
        s.model.bias.requires_grad = k % 3 != 1
        if k % 3 < 2:
            yield step(batch(k + 1)), s.parameters
        else:
            yield gather(batch(k + 1)), [p.grad for p in s.parameters]


def test_freezing_and_thawing_in_turn_needs_no_new_recordings() -> None:
    s, other = Small(), nn.Linear(2, 3)
    opposed = optim.SGD(other.parameters(), lr=0.1)

    @tg.capture
    def oppose(x: Any) -> None:
        opposed.zero_grad()
        (-s.model(other(x))).mean().backward()
        opposed.step()

    step = tg.capture(s.step)
    for k in range(8):
        step(batch(k))
        for frozen in (True, False):
            for p in s.parameters:
                p.requires_grad = not frozen
            if frozen:
                oppose(tg.ones(4, 2))
    assert sum(step._recorded.values()) == sum(oppose._recorded.values()) == 1


@alike
def test_an_optimizer_can_go_on_from_a_state_or_start_anew(wrap: Any) -> Iterator[Any]:
    s = Small(optim.Adam)
    step, saved = wrap(s.step), []
    for k in range(14):
        if k == 3:
            saved[:] = s.model.state_dict(), s.optimizer.state_dict()
        if k == 6:
            s.model.load_state_dict(saved[0])
            s.optimizer.load_state_dict(saved[1])
        if k == 9:
            s.optimizer.slots = [{} for _ in s.parameters]
        yield step(batch(k + 1)), s.parameters


def test_a_refused_first_step_of_an_optimizer_leaves_no_slots() -> None:
    s = Small(optim.Adam)

    @tg.capture
    def step(x: tg.Tensor, update: bool) -> float:
        return s.step(x).item() if update else s.gather(x).item()

    step(batch(), False)
    before = [p.numpy() for p in s.parameters]
    with pytest.raises(tg.CaptureError, match="reads an array's numbers"):
        step(batch(), True)
    assert s.optimizer.slots == [{}, {}]
    equal(s.parameters, before)
    s.step(batch())
    assert [slots["step"] for slots in s.optimizer.slots] == [1, 1]


@pytest.mark.parametrize("after", range(8))
def test_an_interrupt_while_a_recording_is_finished_leaves_no_symbols(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, copied = Small(optim.Adam), recording.copied
    count = iter(range(100))

    def interrupted(x: Any) -> Any:
        if next(count) == after:
            raise KeyboardInterrupt
        return copied(x)

    step = tg.capture(s.step)
    step(batch())
    with monkeypatch.context() as patch:
        patch.setattr(recording, "copied", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step(batch())
    again = Small(optim.Adam)
    again.step(batch())
    for k in range(3):
        equal(step(batch(k)), again.step(batch(k)), exact=False)
    equal(s.parameters, again.parameters, exact=False)


@alike
def test_an_optimizer_follows_a_model_to_another_dtype(wrap: Any) -> Iterator[Any]:
    s = Small(optim.Adam)
    step = wrap(s.step)
    for k in range(12):
        dtype = "float64" if 4 <= k < 8 else "float32"
        s.model.to(dtype)
        found = step(batch(k + 1).astype(dtype)), s.parameters, [slots["mean"] for slots in s.optimizer.slots]
        assert {x.dtype for x in arrays_of(found)} == {np.dtype(dtype)}
        yield found


@alike
def test_an_optimizer_may_keep_arrays_that_grow(wrap: Any) -> Iterator[Any]:
    class Gathering(optim.Optimizer):
        """Steps along the sum of all gradients so far."""

        def update(self, p: Any, g: Any, slots: Any) -> Any:
            slots["all"] = tg.concatenate([slots["all"], g[None]]) if "all" in slots else g[None]
            return p - self.lr * slots["all"].sum(axis=0)

    s = Small(Gathering)
    step = wrap(s.step)
    for k in range(6):
        yield step(batch(k + 1)), s.parameters, s.optimizer.slots[0]["all"]


class Masked(optim.Optimizer):
    """Momentum, times a mask and a gain, if somebody has put them into the slots."""

    def update(self, p: Any, g: Any, slots: Any) -> Any:
        if "mask" in slots:
            g = g * slots["mask"]
        slots["velocity"] = 0.9 * slots.get("velocity", 0 * p) + g
        return p - self.lr * slots["velocity"] * slots.get("gain", 1.0)


@pytest.mark.parametrize("make_optimizer", [Masked, optim.Adam])
@alike
def test_slots_can_be_cleared_added_and_replaced(wrap: Any, make_optimizer: Any) -> Iterator[Any]:
    s = Small(make_optimizer)
    step, slots = wrap(s.step), s.optimizer.slots[0]
    changes: dict[int, Any] = {
        3: slots.clear,
        5: lambda: slots.pop("velocity" if make_optimizer is Masked else "mean"),
        6: lambda: slots.update(mask=np.zeros((2, 3), "f4")),
        8: lambda: slots.pop("mask"),
        9: lambda: slots.update(gain=0.5),
        11: lambda: slots.update(gain=np.full((2, 3), 2.0, "f4")),
    }
    for k in range(13):
        changes.get(k, lambda: None)()
        yield step(batch(k + 1)), s.parameters, dict(slots)


@pytest.mark.parametrize("left", [lambda slots: slots.pop("kept"), lambda slots: slots.update(kept=0.0)])
def test_a_slot_that_a_step_drops_is_refused(left: Any) -> None:
    class Dropping(optim.Optimizer):
        def update(self, p: Any, g: Any, slots: Any) -> Any:
            if "kept" in slots:
                left(slots)
            else:
                slots["kept"] = g
            return p - self.lr * g

    s = Small(Dropping)
    step = tg.capture(s.step)
    step(batch())
    before = [p.numpy() for p in s.parameters]
    with pytest.raises(tg.CaptureError, match=r"the step changes .*slots\[0\]\['kept'\]"):
        step(batch())
    equal(s.parameters, before)
    s.step(batch())  # and the optimiser can be used as ever


@alike
def test_arrays_can_be_written_in_place(wrap: Any) -> Iterator[Any]:
    class Own(optim.Optimizer):
        """Momentum whose buffer is written and not assigned."""

        def update(self, p: Any, g: Any, slots: Any) -> Any:
            velocity = slots.setdefault("velocity", np.zeros(p.shape, p.dtype))
            velocity *= 0.9
            velocity += g
            return p - self.lr * velocity

    s = Small(Own)
    extra = tg.tensor(X[0], requires_grad=True)

    @wrap
    def step(x: Any) -> Any:
        extra.grad = None
        loss = s.step(x * extra)
        extra.data -= 0.5 * extra.grad.data
        array = s.model.bias.data
        before = +array
        array *= 50.0
        array /= 2.0
        array //= 0.5
        array %= 3.0
        return loss + before.sum()

    for k in range(8):
        yield step(batch(k + 1)), s.parameters, extra, s.optimizer.slots[0]["velocity"]


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda x, t: x.data.__iadd__(1), "writes into an argument"),
        (lambda x, t: t.data[:2].__iadd__(1), "writes into a part of an array"),
        (lambda x, t: np.add(t.data, 1, out=t.data), "writes into an array by numpy.add"),
    ],
)
def test_what_a_replay_would_not_write_is_refused(write: Any, match: str) -> None:
    t = tg.ones(3)

    @tg.capture
    def step(x: Any) -> Any:
        write(x, t)
        return x * t

    step(batch())
    before = t.numpy()
    with pytest.raises(tg.CaptureError, match=match):
        step(batch())
    equal(t, before)


def test_a_tensor_may_get_an_array_of_another_dtype() -> None:
    t = tg.ones(3)
    captured = tg.capture(lambda x: x * t)
    for dtype in ("f4", "f8", "f4"):
        t.data = np.ones(3, dtype)
        for k in range(3):
            found = captured(batch(k))
            assert found.dtype == dtype
            equal(found, X * k)
    t.data = np.full(3, 2.0, "f4")
    assert captured.profile(batch()).lines  # and a profile reads the new one, too


@alike
def test_batches_without_rows(wrap: Any) -> Iterator[Any]:
    tg.manual_seed(0)
    cell, head = nn.Zoneout(nn.LSTMCell(3, 4)), nn.Linear(4, 2)
    optimizer = optim.AdamW([*cell.parameters(), *head.parameters()])

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        outputs, state = nn.unroll(cell, x)
        loss = (head(tg.dropout(outputs, 0.3)) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss.detach(), bptt.detach(state)

    run = tg.capture(step, exact=True) if wrap is tg.capture else step
    for _ in range(4):
        yield run(tg.zeros(5, 0, 3)), optimizer.parameters


def test_numbers_that_are_equal_while_recording_may_differ_later() -> None:
    def step(x: tg.Tensor, a: float, b: float) -> Any:
        return x * a, x * b

    captured = tg.capture(step)
    for a, b in ((0.5, 0.5), (0.5, 0.5), (0.5, 0.7)):
        equal(captured(batch(), a, b), step(batch(), a, b))
