"""Captured steps that do what few steps do: each equals the eager step in every call, or is refused."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import CaptureError, bptt, nn, optim, tape


def _bare(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return [_bare(part) for part in x]
    return x.tolist() if hasattr(x, "tolist") else x


def _leaves() -> list[tg.Tensor]:
    return [tg.tensor(x, requires_grad=True) for x in ([1.0, 2.0], [1.0, 3.0], [2.0, 5.0])]


def _told(run: Any, leaves: Any, outside: Any = (), calls: int = 8) -> list[Any]:
    """What a step returns, all leaves and their gradients, with something done outside before some calls."""
    outside, found = dict(outside), []
    for k in range(calls):
        if k in outside:
            outside[k](*leaves)
        result = run(tg.full(2, k + 1.0))
        found.append(_bare((result, [leaf if leaf.grad is None else (leaf, leaf.grad) for leaf in leaves])))
    return found


# ---- gradients and arrays that are replaced and exchanged, inside and outside ----


def zeroed_after_use(a: Any, b: Any, c: Any, x: Any) -> Any:
    (b * b * x).sum().backward()
    g = b.grad
    b.grad = b.grad * 0
    b.data = b.data - 0.01 * g.data
    return g


def replaced_by_a_constant(a: Any, b: Any, c: Any, x: Any) -> Any:
    (b * b * x).sum().backward()
    g, b.grad = b.grad, tg.zeros(2)
    return g


def twice_from_none(a: Any, b: Any, c: Any, x: Any) -> Any:
    (b * b * x).sum().backward()
    g, b.grad = b.grad, None
    (b * x).sum().backward()
    return g


def shrunk(a: Any, b: Any, c: Any, x: Any) -> Any:
    (b * b * x).sum().backward()
    b.grad = b.grad * 0.5
    return b.grad


def given_to_another(a: Any, b: Any, c: Any, x: Any) -> Any:
    a.grad = None
    (a * a * x).sum().backward()
    b.grad = a.grad
    return a.grad


def given_and_replaced(a: Any, b: Any, c: Any, x: Any) -> Any:
    (a * a * x).sum().backward()
    b.grad, a.grad = a.grad, a.grad * 2
    return b.grad + a.grad


def old_gradient_written_to(a: Any, b: Any, c: Any, x: Any) -> Any:
    g = c.grad.data if c.grad is not None else None
    c.grad = None
    (c * c * x).sum().backward()
    if g is None:
        return x.data
    g *= 0.5
    return g


def lent_before_it_grows(a: Any, b: Any, c: Any, x: Any) -> Any:
    if c.grad is not None:
        a.grad = c.grad.detach()
    (c * c * x).sum().backward()
    return x * 1


def taken_from_one_who_keeps_it(a: Any, b: Any, c: Any, x: Any) -> Any:
    (a * a * x).sum().backward()
    a.grad = b.grad
    return x * 1


def plain(a: Any, b: Any, c: Any, x: Any) -> Any:
    ((a * a + 2 * b + 3 * c) * x).sum().backward()
    return x * 1


def moved(a: Any, b: Any, c: Any, x: Any) -> Any:
    a.data = a.data + b.data * x.data
    return x * 1


def made_anew(a: Any, b: Any, c: Any, x: Any) -> Any:
    a.grad = None
    ((a * a + b + 2 * c) * x).sum().backward()
    return x * 1


def one_made_anew(a: Any, b: Any, c: Any, x: Any) -> Any:
    c.grad = None
    (a * b * c * x).sum().backward()
    return x * 1


def _grown(a: Any, b: Any, c: Any) -> None:
    b.grad = tg.full(2, 100.0)


def _lend(a: Any, b: Any, c: Any) -> None:
    c.grad = a.grad


def _swap(name: str) -> Callable[..., None]:
    def swap(a: Any, b: Any, c: Any) -> None:
        first, second = getattr(b, name), getattr(a, name)
        setattr(a, name, first)
        setattr(b, name, second)

    return swap


def _share(a: Any, b: Any, c: Any) -> None:
    c.grad = b.grad


def _share_back(a: Any, b: Any, c: Any) -> None:
    a.grad = b.grad = c.grad


def _share_otherwise(a: Any, b: Any, c: Any) -> None:
    c.grad = tg.zeros(2)
    b.grad = a.grad


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("step", "outside"),
    [
        (zeroed_after_use, {}),
        (replaced_by_a_constant, {}),
        (twice_from_none, {}),
        (shrunk, {}),
        (given_to_another, {}),
        (given_to_another, {4: _grown}),
        (given_and_replaced, {}),
        (old_gradient_written_to, {}),
        (lent_before_it_grows, {}),
        (taken_from_one_who_keeps_it, {0: _grown}),
        (plain, {2: _share, 5: _share_otherwise}),
        (plain, {4: _swap("grad"), 6: _swap("grad")}),
        (plain, {4: _swap("data"), 6: _swap("data")}),
        (moved, {4: _swap("data"), 6: _swap("data")}),
        (made_anew, {4: _swap("grad"), 6: _lend}),
        (made_anew, {3: _lend, 4: _lend}),
        (one_made_anew, {1: _share_back, 4: _share_back, 6: _share_back}),
    ],
)
def test_gradients_and_arrays_that_change_places(step: Any, outside: Any, exact: bool) -> None:
    def run(wrap: Any) -> list[Any]:
        a, b, c = _leaves()
        return _told(wrap(lambda x: step(a, b, c, x)), (a, b, c), outside)

    assert run(tg.capture(exact=exact)) == run(lambda step: step)


def test_gradients_that_clipping_left_as_they_were_can_be_written_to() -> None:
    def run(wrap: Any) -> list[Any]:
        a, b, c = _leaves()
        opt = optim.SGD([a, b], lr=0.01)

        def step(x: Any) -> Any:
            (a * a * b * x).sum().backward()
            tg.clip_grad_norm_([a, b], 1e9)
            for p in (a, b):
                p.grad.data *= 0.5
            opt.step()
            return x * 1

        return _told(wrap(step), (a, b, c), calls=5)

    assert run(tg.capture(exact=True)) == run(lambda step: step)


# ---- arguments ----

WRITES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "an item of a dictionary": lambda x, d, a: d.update(h=x * 2),
    "another key": lambda x, d, a: d.update(n=1),
    "a longer list": lambda x, d, a: a.append(x * 1),
    "an item of a list": lambda x, d, a: a.__setitem__(0, x * 1),
    "numbers of a tensor": lambda x, d, a: setattr(x, "data", x.data * 2),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_the_step_changes_in_its_arguments_is_refused(name: str) -> None:
    def step(x: Any, d: Any, a: Any) -> Any:
        y = x * 2 + d["h"]
        WRITES[name](x, d, a)
        return y

    captured = tg.capture(step)
    captured(tg.ones(2), {"h": tg.zeros(2)}, [tg.zeros(2)])
    d, a, x = {"h": tg.zeros(2)}, [tg.zeros(2)], tg.ones(2)
    with pytest.raises(CaptureError, match=r"the step changes an argument, a (dict|list|Tensor)"):
        captured(x, d, a)
    assert _bare((x, d["h"], len(d), a)) == [[1, 1], [0, 0], 1, [[0, 0]]]


def test_a_gradient_left_with_an_argument_is_refused_and_one_that_is_returned_is_not() -> None:
    def leave(x: Any) -> Any:
        x.requires_grad = True
        (x * x).sum().backward()
        return x.grad

    def give(x: Any) -> Any:
        x.requires_grad = True
        return tg.grad((x * x).sum(), x)

    captured = tg.capture(leave)
    captured(tg.ones(2))
    with pytest.raises(CaptureError, match="changes an argument, a Tensor"):
        captured(tg.ones(2))
    captured = tg.capture(give)
    assert [captured(tg.full(2, k)).tolist() for k in (1.0, 2.0, 3.0, 4.0)] == [[2, 2], [4, 4], [6, 6], [8, 8]]


def test_whether_two_arguments_are_the_same_tensor_tells_calls_apart() -> None:
    def step(x: Any, pair: Any) -> Any:
        for tensor in (x, *pair):
            tensor.requires_grad = True
        return tg.grad((x * pair[0] * pair[1]).sum(), x), x is pair[1]

    captured = tg.capture(step)
    for same in (True, True, True, False, False, True, False):
        found = []
        for run in (step, captured):
            x, y, z = tg.full(2, 2.0), tg.full(2, 3.0), tg.full(2, 5.0)
            found.append(_bare(run(x, (y, x if same else z))))
        assert found[0] == found[1]
    assert sum(captured._recorded.values()) == 2


# ---- floats that are more than arithmetic ----

FLOATS: dict[str, Callable[[Any, Any], Any]] = {
    "isinstance": lambda x, s: x * (s if isinstance(s, float) else 1.0),
    "a key": lambda x, s: x * {0.5: 1.0, 1.5: 2.0}.get(s, 4.0),
    "in a set": lambda x, s: x * (2.0 if s in {0.5} else 1.0),
    "an array of it": lambda x, s: x * np.asarray(s),
    "a choice": lambda x, s: tg.where(x > 1, x, np.array(s)),
    "abs": lambda x, s: x * abs(s),
    "modulo": lambda x, s: x * (s % 0.3) * (s // 0.3),
    "round": lambda x, s: x * round(s, 1),
    "a function of NumPy's": lambda x, s: x * np.exp(s) * np.mean([s, s]) * (s * np.float32(2)),
    "text": lambda x, s: x * float(f"{s:.1f}"),
    "a tensor": lambda x, s: x * tg.tensor(s) * tg.tensor([s, s]),
    "a method": lambda x, s: x * s.real + s.is_integer(),
    "arithmetic": lambda x, s: x * s + (s**2 - 1) / 3.0,
}


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_may_be_used_in_any_way(name: str) -> None:
    step = FLOATS[name]
    captured, x = tg.capture(step), tg.tensor([1.0, 2.0])
    for s in (0.5, 0.5, 1.5, 2.5, 0.5):
        found, expected = captured(x, s), step(x, s)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
        assert found.dtype == expected.dtype
    assert captured._floats_change == (name in ("isinstance", "abs", "modulo", "arithmetic"))


def test_an_error_of_the_step_itself_is_no_reason_to_record_each_number() -> None:
    fails = [True]

    def step(x: Any, s: float) -> Any:
        return x * s if not fails else x.nonsense

    captured = tg.capture(step)
    for _ in range(2):
        with pytest.raises(AttributeError, match="nonsense"):
            captured(tg.ones(2), 0.5)
    fails.clear()
    assert [captured(tg.ones(1), s).item() for s in (0.5, 1.5, 2.5)] == [0.5, 1.5, 2.5]
    assert captured._floats_change


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_learning_rate_that_is_assigned_in_the_step_is_checked_before_anything_changes(
    wrong: float, after: int
) -> None:
    w = tg.ones(2, requires_grad=True)
    opt = optim.SGD([w], lr=0.1)

    @tg.capture
    def step(x: Any, lr: float) -> None:
        opt.zero_grad()
        (w * w * x).sum().backward()
        opt.step()
        opt.lr = lr

    for _ in range(after):
        step(tg.ones(2), 0.2)
    before = _bare([w, opt.lr])
    with pytest.raises(ValueError, match=r"SGD: lr must not be negative, but it is (-1|nan)"):
        step(tg.ones(2), wrong)
    assert after == 0 or _bare([w, opt.lr]) == before
    step(tg.ones(2), 0.3)
    assert opt.lr == 0.3


# ---- what is returned ----


def test_numbers_that_are_returned_are_those_of_this_step() -> None:
    def run(wrap: Any) -> list[Any]:
        w = tg.ones(2, requires_grad=True)
        opt = optim.Adam([w])

        def step(x: Any) -> Any:
            opt.zero_grad()
            (w * x).sum().backward()
            opt.step()
            before, opt.lr = opt.lr, opt.lr * 0.5
            return opt.slots[0]["step"], before

        step = wrap(step)
        return [_bare((step(tg.full(2, k + 1.0)), opt.lr)) for k in range(6)]

    assert run(tg.capture) == run(lambda step: step)


def test_constants_that_are_returned_belong_to_the_caller() -> None:
    captured = tg.capture(lambda x: (x * 2, tg.zeros(3), np.arange(3.0)))
    for _ in range(5):
        _, zeros, numbers = captured(tg.ones(2))
        zeros.data += 1
        numbers += 1
        assert (zeros.tolist(), numbers.tolist()) == ([1, 1, 1], [1, 2, 3])


# ---- arrays that are written to ----

VIEWS: dict[str, Callable[[tg.Tensor, tg.Tensor], Any]] = {
    "a row": lambda w, u: w.data[0],
    "of a detached tensor": lambda w, u: w.detach()[0],
    "transposed": lambda w, u: w.data.T,
    "in another shape": lambda w, u: w.data.reshape(-1),
    "another tensor": lambda w, u: u.data,
}


@pytest.mark.parametrize("name", VIEWS)
def test_writing_into_what_is_held_elsewhere_is_refused(name: str) -> None:
    w, u = tg.ones(2, 2, requires_grad=True), tg.ones(2, 2)
    u.data = w.data

    def step() -> Any:
        held = VIEWS[name](w, u)
        w.data *= 0.5
        return held * 1

    captured = tg.capture(step)
    captured()
    with pytest.raises(CaptureError, match="of which it holds a view, or another tensor"):
        captured()


def test_a_copy_taken_before_writing_is_what_it_was() -> None:
    def run(wrap: Any) -> list[Any]:
        w = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)

        def step(x: Any) -> Any:
            whole, row = w.data.copy(), w.data[0] * 1
            w.data *= 0.5
            return whole * 1, row, w.data[0] * 1, w.data.cumsum()

        return _told(wrap(step), [w], calls=6)

    assert run(tg.capture) == run(lambda step: step)


def test_elements_picked_by_a_boolean_array_are_refused() -> None:
    captured = tg.capture(lambda x, keep: (x[keep] * 1.0).sum())
    captured(tg.ones(4), np.array([True, True, False, False]))
    with pytest.raises(CaptureError, match="picks elements by a boolean array"):
        captured(tg.ones(4), np.array([True, False, False, False]))


# ---- loops that read weights and sums in several ways ----

STEPS, SIZE = 12, 5


class Watched(nn.WeightedCell):
    """Its sum is read twice: by the gates, and as it is."""

    blocks = 2

    def step(self, z: Any, h: Any) -> Any:
        z = z + tg.linear(h, self.weight_hh)
        gate, new = tg.split(z, 2, axis=-1)
        h = tg.sigmoid(gate) * tg.tanh(new)
        return h + 0.01 * z[:, :SIZE], h


def test_a_sum_that_is_read_twice() -> None:
    def run(wrap: Any) -> list[Any]:
        tg.manual_seed(0)
        cell, rng = Watched(SIZE, SIZE), np.random.default_rng(0)
        opt = optim.Adam(cell.parameters(), lr=0.02)

        def step(x: Any) -> Any:
            opt.zero_grad()
            loss = (bptt.unroll(cell, x)[0] ** 2).mean()
            loss.backward()
            opt.step()
            return loss

        step = wrap(step)
        return [step(tg.tensor(rng.standard_normal((STEPS, 3, SIZE), dtype=np.float32))).item() for _ in range(8)]

    np.testing.assert_allclose(run(tg.capture), run(lambda step: step), rtol=1e-5)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (-1, -2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_that_are_read_through_axes_and_scaled(axes: tuple[int, int], dtype: str) -> None:
    """In a large batch, in float32 and with a factor of another dtype."""
    rng = np.random.default_rng(0)
    w = tg.tensor(rng.standard_normal((SIZE, SIZE), dtype=np.float32))
    row = np.full((300, SIZE), [0.5, 2, 1, 0.25, -0.5], dtype)

    def step(xs: tg.Tensor) -> list[tg.Tensor]:
        scale, u = tg.tensor(row), tg.transpose(w, axes=axes)
        h, products = tg.zeros(300, SIZE), []
        for x in xs:
            products.append((h @ u + x) * scale)
            h = tg.tanh(products[-1]).astype("float32")
        return products

    captured = tg.capture(step)
    for _ in range(4):
        xs = tg.tensor(rng.standard_normal((STEPS, 300, SIZE), dtype=np.float32))
        for found, expected in zip(captured(xs), step(xs), strict=True):
            assert found.dtype == expected.dtype == dtype
            np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)


# ---- methods ----


def _doubling(factor: float) -> Any:
    @tg.capture
    def step(self: Any, x: Any) -> Any:
        return x * self.scale * factor

    return step


class Base:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    first, second = _doubling(2.0), _doubling(3.0)  # of one name
    step = _doubling(2.0)


class Above(Base):
    own = _doubling(5.0)

    @tg.capture
    def step(self, x: Any) -> Any:
        return super().step(x) * 5.0


def test_methods_of_one_name_and_copies_of_objects_have_steps_of_their_own() -> None:
    x, one = tg.ones(1), Above(1.0)
    for _ in range(4):
        assert [f(x).item() for f in (one.first, one.second, one.own, one.step)] == [2, 3, 5, 10]
    ten = copy.copy(one)
    ten.scale = 10.0
    for _ in range(4):
        assert (ten.step(x).item(), one.step(x).item()) == (100, 10)


def test_a_captured_class_method_and_an_object_that_can_keep_nothing() -> None:
    class Counted:
        scale = 3.0

        @classmethod
        @tg.capture
        def step(cls, x: Any) -> Any:
            return x * cls.scale

    class Slotted:
        __slots__ = ("scale",)
        step = _doubling(2.0)

    for scale in (3.0, 3.0, 3.0, 4.0):
        Counted.scale = scale
        assert Counted.step(tg.ones(1)).item() == scale
    with pytest.raises(TypeError, match="a Slotted has no __dict__"):
        Slotted().step(tg.ones(1))


# ---- bare arrays that become tensors ----


def test_a_buffer_that_is_filled_anew_and_made_a_tensor_is_read_anew() -> None:
    buffer = np.zeros(3, np.float32)

    def step(x: Any) -> Any:
        return x * tg.tensor(buffer)

    captured = tg.capture(step)

    def check(number: float) -> None:
        buffer[:] = number
        assert captured(tg.ones(3)).tolist() == [number] * 3

    for number in (1, 2, 2, 2, 3, 2, 4, 5):
        check(number)
    with pytest.warns(UserWarning, match="recorded 5 times for one shape of arguments, as buffer changed"):
        check(6)


def test_a_step_that_hands_a_tensor_to_numpy_is_refused_with_its_line() -> None:
    step = tg.capture(lambda x: x * np.asarray(x))
    step(tg.ones(2))
    with pytest.raises(tg.CaptureError, match=r"copies an array to the host, test_capture_edges.py:\d"):
        step(tg.ones(2))


# ---- places ----


def test_an_attribute_that_a_class_inherits_may_be_set_on_it_later() -> None:
    class Base:
        k = 2.0

    class Config(Base):
        pass

    captured = tg.capture(lambda x: x * Config.k)
    assert [captured(tg.ones(1)).item() for _ in range(3)] == [2.0] * 3
    Config.k = 5.0
    assert captured(tg.ones(1)).item() == 5.0


@pytest.mark.parametrize(("swaps", "held_at"), [((2,), ()), ((4, 6), ()), ((5,), ()), ((7,), (6,))])
def test_an_array_that_somebody_else_was_given_is_theirs(swaps: tuple[int, ...], held_at: tuple[int, ...]) -> None:
    """Weights swapped with their averages, which no step reaches, and swapped back later, and looked at in between."""

    def run(wrap: Any) -> list[Any]:
        p, average = tg.tensor([1.0, 2.0], requires_grad=True), tg.tensor([11.0, 12.0])
        opt = optim.SGD([p], lr=0.1)

        def step(x: Any) -> Any:
            opt.zero_grad()
            (p * p * x).sum().backward()
            opt.step()
            return x * 1

        step, look, found = wrap(step), wrap(lambda x: (p * p * x).sum()), []
        for k in range(9):
            if k in swaps:
                p.data, average.data = average.data, p.data
            if k > 2:
                look(tg.ones(2))
            held = p.detach() if k in held_at else None
            step(tg.full(2, k + 1.0))
            del held
            found.append(_bare((p, average, p.grad)))
        return found

    assert run(tg.capture(exact=True)) == run(lambda step: step)


def test_a_place_that_gets_another_array_each_time_is_not_laid_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    p = tg.tensor([1.0, 2.0], requires_grad=True)

    @tg.capture
    def step(x: Any) -> Any:
        p.grad = None
        (p * p * x).sum().backward()
        p.data = p.data - 0.1 * p.grad.data
        return x * 1

    for _ in range(4):
        step(tg.ones(2))
    monkeypatch.setattr(type(step.replay), "_ready", lambda self: pytest.fail("laid out anew"))
    for _ in range(4):
        p.data = p.data * 0.5
        step(tg.ones(2))


def test_an_operation_with_the_name_of_the_engines_is_what_the_user_makes_of_it() -> None:
    @tg.op
    def stack(xp: Any, a: Any, b: Any, *, axis: int = 0) -> Any:
        return xp.concatenate([b, a], axis)

    @tg.op(name="expand_dims")
    def backwards(xp: Any, x: Any) -> Any:
        return x[::-1]

    def step(x: Any) -> Any:
        return stack(x * 2, x * 3), tg.stack([backwards(x * 2), backwards(x * 3)])

    x, captured = tg.tensor([1.0, 2.0]), tg.capture(step)
    for _ in range(4):
        assert [y.tolist() for y in captured(x)] == [y.tolist() for y in step(x)]


def test_gradients_that_are_constants_add_up() -> None:
    w = tg.ones(3, requires_grad=True)

    def step(x: Any) -> Any:
        v = w * x
        return tg.grad((v * v).mean() - v.mean() + v.sum() * 0.1 + w.sum(), w)

    captured = tg.capture(step)
    for k in range(4):
        x = tg.tensor([1.0, 2.0, float(k)])
        np.testing.assert_array_equal(captured(x).numpy(), step(x).numpy())


# ---- what joins lines that only look alike ----


def gates(work: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda x: work(*tg.split(x * 1.0, 3, axis=-1))


def of_integers(x: Any) -> Any:
    i = x.astype("int64") + 1
    return i[:, :1] * 2, i[:, 1:] * 0.5


def of_booleans(x: Any) -> Any:
    m = x > 1.5
    return m[:, :1] * 2, m[:, 1:2] * 3, ~m[:, 2:]


def counted(x: Any) -> Any:
    right, small = 0, 0
    for row in tg.tile(x, (8, 10)):
        right, small = right + (row > 0).sum(), small + row.astype("int8").sum()
    return right, small


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "step",
    [
        gates(lambda a, b, c: (a * a, b * b, c)),
        gates(lambda a, b, c: (a + a, b + b, tg.tanh(c))),
        gates(lambda a, b, c: (a > 0.3, b > 2.5, c > 3.5)),
        of_integers,
        of_booleans,
        counted,
    ],
)
def test_lines_that_only_look_alike_stay_apart(step: Any, exact: bool) -> None:
    captured = tg.capture(step, exact=exact)
    for x in ([[1.0, 2.0, 3.0]], [[3.0, 1.0, -2.0]]) * 3:
        for found, expected in zip(captured(tg.tensor(x)), step(tg.tensor(x)), strict=True):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
            assert found.dtype == expected.dtype


@pytest.mark.parametrize("exact", [False, True])
def test_time_steps_of_other_dtypes_stay_apart(exact: bool) -> None:
    def step(*parts: Any) -> list[Any]:
        done = []
        with tape.timeline() as mark:
            for t, part in enumerate(parts):
                mark(t)
                done.append(tg.tanh(part) * 2 + 1)
        return done

    captured = tg.capture(step, exact=exact)
    parts = [tg.tensor([0.1]), tg.tensor([0.2], dtype="float64")] * 2
    for _ in range(4):
        assert [y.dtype for y in captured(*parts)] == [np.float32, np.float64] * 2


# ---- kernels and arrays that look at themselves ----


def by_kind(xp: Any, x: Any) -> Any:
    return x * 2 if isinstance(x, np.ndarray) else x * 3


def by_attribute(xp: Any, x: Any) -> Any:
    return x * 2 if hasattr(x, "sum") else x * 3


def by_trying(xp: Any, x: Any) -> Any:
    try:
        return xp.select([x > 0], [x * 2])
    except TypeError:
        return x * 3


@pytest.mark.parametrize("kernel", [by_kind, by_attribute, by_trying])
def test_kernels_take_the_branch_that_they_took(kernel: Any) -> None:
    captured = tg.capture(tg.op(kernel))
    assert [captured(tg.ones(2)).tolist() for _ in range(4)] == [[2.0, 2.0]] * 4


def rounded_between(xp: Any, x: Any) -> Any:
    y = xp.exp(x)
    xp.multiply(y, np.float64(1 / 3), out=y)  # computed in float64, kept in float32
    return xp.multiply(y, y)


def test_kernels_round_where_they_rounded() -> None:
    captured, x = tg.capture(tg.op(rounded_between)), np.random.default_rng(0).standard_normal(1000).astype("f4")
    for _ in range(4):
        np.testing.assert_array_equal(captured(tg.tensor(x)).numpy(), rounded_between(np, x))


@pytest.mark.parametrize("reduce", [np.sum, np.mean, np.var, np.std])
def test_reductions_of_numpy_are_recorded(reduce: Any) -> None:
    def step(x: Any) -> Any:
        return x * reduce(x.data, axis=0)

    captured, rng = tg.capture(step), np.random.default_rng(0)
    for _ in range(4):
        x = tg.tensor(rng.standard_normal((3, 4)).astype("f4"))
        np.testing.assert_array_equal(captured(x).numpy(), step(x).numpy())


def test_what_arrays_cannot_do_while_they_are_recorded_is_said() -> None:
    def sorted_in_place(x: Any) -> Any:
        numbers = x.data * -1.0
        numbers.sort()
        return tg.tensor(numbers)

    def caught(x: Any) -> Any:
        try:
            return x.data.take([0]) * x
        except AttributeError:
            return x

    for step, told in (
        (sorted_in_place, "writes into an array"),
        (lambda x: x.data.take([0]) * x, "calls take of an array"),
        (caught, "calls take of an array"),
        (lambda x: x.data.tobytes(), "calls tobytes of an array"),
        (lambda x: x * x.data.flags.c_contiguous, "arrays have no 'flags'"),
        (lambda x: x * np.mean(x.data, dtype="float64"), r"calls numpy\.mean on an array"),
        (lambda x: x[x.data.argsort()], "sorts an array as NumPy does"),
    ):
        captured = tg.capture(step)
        captured(tg.tensor([1.0, 2.0]))
        with pytest.raises(CaptureError, match=rf"{told}.*, test_capture_edges\.py:\d"):
            captured(tg.tensor([1.0, 2.0]))


def test_an_array_can_be_copied_while_it_is_recorded() -> None:
    w = tg.tensor([1.0, 2.0])

    @tg.capture
    def step(x: Any) -> Any:
        before = copy.deepcopy(w.data), copy.copy(w.data)
        w.data += x.data
        return before

    for k in range(4):
        for before in step(tg.ones(2)):
            np.testing.assert_array_equal(before, np.array([1.0, 2.0], "f4") + np.float32(k))


# ---- buffers, words, dictionaries ----

BUFFER, MASK, SHAPE = np.array([2, 3]), np.array([False, True]), np.array([2, 3])
BUFFERS: dict[str, Callable[[Any], Any]] = {
    "lengths": lambda x: nn.last(x, lengths=BUFFER),
    "mask": lambda x: nn.mse_loss(x[:, :, 0], tg.zeros(5, 2), mask=nn.length_mask(BUFFER, 5)),
    "ignored": lambda x: nn.cross_entropy(x[0], BUFFER % 3, ignore_index=1),
    "numbers of NumPy": lambda x: x * (BUFFER * 2)[:, None],
    "a part": lambda x: x[0] * tg.tensor(BUFFER[:1]),
    "a choice": lambda x: tg.where((BUFFER > 2)[:, None], x, 0.0),
    "indices": lambda x: x[BUFFER + 0],
    "an operation": lambda x: x * BUFFER[:, None],
    "an operation and NumPy": lambda x: (x * BUFFER[:, None]).sum() / BUFFER.sum(),
}
SHAPING: dict[str, Callable[[Any], Any]] = {  # shapes and indices that make constants
    "a choice of rows": lambda x: x[:, MASK],
    "a choice of rows made anew": lambda x: tg.ones(5, 2)[:, MASK] * x[:, :1, 0],
    "columns made anew": lambda x: x[..., :2] * tg.arange(5.0)[None, BUFFER],
    "a shape": lambda x: tg.reshape(x[0], SHAPE),
    "widths": lambda x: tg.pad(x[0], BUFFER),
    "repeats": lambda x: tg.repeat(x, BUFFER, 1),
}


@pytest.mark.parametrize("name", [*BUFFERS, *SHAPING])
def test_a_buffer_that_is_filled_anew_is_read_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in SHAPING:  # which are looked at also if they are large
        monkeypatch.setattr("tinygrad_rnn.replay.recording._SMALL", 0)
    x, step = tg.tensor(np.arange(30.0).reshape(5, 2, 3)), (BUFFERS | SHAPING)[name]
    captured = tg.capture(step)
    for numbers in ([2, 3], [2, 3], [2, 3], [1, 4], [4, 2], [4, 2]):
        BUFFER[:], MASK[:] = numbers, np.array(numbers) > 1
        SHAPE[:] = numbers if 3 in numbers else [6, 1]
        np.testing.assert_array_equal(captured(x).numpy(), step(x).numpy())


@pytest.mark.parametrize("step", [lambda x, mask: tg.where(mask, x, 0), lambda x, mask: x * mask])
def test_a_large_mask_that_is_filled_anew_needs_no_new_recording(step: Callable[..., Any]) -> None:
    mask, weight = np.ones((200, 100), bool), tg.ones(200, 100, requires_grad=True)
    captured = tg.capture(lambda x: tg.grad(step(weight * x, mask).sum(), [weight])[0])
    replays = []
    for k in range(6):
        mask[:] = np.arange(100) % 6 > k
        np.testing.assert_array_equal(captured(tg.ones(200, 100)).numpy(), mask)
        replays += [captured.replay] if k else []
    assert all(replay is replays[0] for replay in replays)


# Losses whose gradient for w is made of the buffer alone.
LINEAR: dict[str, Callable[[Any, Any, Any], Any]] = {
    "product": lambda w, x, buffer: (w * buffer).sum(),
    "product with a part": lambda w, x, buffer: (w[:2] * buffer[1:]).sum(),
    "matrix product": lambda w, x, buffer: w @ buffer,
    "quotient": lambda w, x, buffer: (w / buffer).sum(),
    "policy gradient": lambda w, x, buffer: (tg.log_softmax(x * w)[:, 0] * buffer).mean(),
    "rows": lambda w, x, buffer: w[buffer].sum(),
    "places": lambda w, x, buffer: w[:, None][buffer, 0].sum(),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_gradient_that_is_made_of_a_buffer_alone_is_made_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_rnn.replay.recording._SMALL", 0)  # as for large arrays: no recording is made again
    x, buffer = tg.tensor(np.arange(9.0).reshape(3, 3)), np.ones(3, int)
    ws = [tg.tensor([0.5, 1.0, -1.0], dtype="float64", requires_grad=True) for _ in range(2)]

    def step(x: Any, w: Any) -> None:
        w.grad = None
        LINEAR[name](w, x, buffer).backward()

    captured = tg.capture(lambda x: step(x, ws[0]))
    for numbers in ([1, 1, 1], [1, 1, 1], [1, 1, 1], [2, 1, 1], [1, 2, 2]):
        buffer[:] = numbers
        captured(x)
        step(x, ws[1])
        np.testing.assert_allclose(*(w.grad.numpy() for w in ws if w.grad is not None), rtol=1e-14)
    assert sum(captured._recorded.values()) == 1


def test_a_large_mask_is_read_anew_and_picks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it chooses element by element, that needs no new recording; where it picks elements, it does."""
    monkeypatch.setattr("tinygrad_rnn.replay.recording._SMALL", 0)
    mask, x = np.ones(3, bool), tg.tensor([1.0, 2.0, 3.0])
    w = tg.tensor([0.5, 1.0, -1.0], requires_grad=True)
    for use, count in ((lambda: tg.where(mask, w**3, w * w), 1), (lambda: (w**3)[mask] * x[mask], 3)):

        def step(use: Any = use) -> Any:
            (g,) = tg.grad(use().sum(), [w], create_graph=True)
            return g, tg.grad((g * g).sum(), w)

        captured = tg.capture(step)
        for numbers in ([1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 1]):
            mask[:] = numbers
            for found, expected in zip(captured(), step(), strict=True):
                np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
        assert sum(captured._recorded.values()) == count


def test_a_memory_map_is_an_argument_like_other_arrays() -> None:
    captured = tg.capture(lambda x: tg.tensor(x) * x)
    data, buffer = np.arange(36.0).reshape(12, 3).view(np.memmap), np.empty(3).view(np.memmap)
    for row in data:
        buffer[:] = row
        for x in (row, buffer):
            np.testing.assert_array_equal(captured(x).numpy(), row**2)


def test_words_for_a_number_that_may_change() -> None:
    captured = tg.capture(lambda x, s: x * {"0.5": 2.0}.get(str(s), 1.0))
    for s in (0.5, 0.5, 0.5, 0.25, 0.5):
        assert captured(tg.ones(1), s).item() == (2.0 if s == 0.5 else 1.0)


def test_dictionaries_of_ones_own_kind() -> None:
    class Batch(dict[str, Any]):
        __getattr__ = dict.__getitem__

    known = defaultdict(float, a=1.0)
    named, ordered = tg.capture(lambda b: b.x * known.get("a", 9.0)), tg.capture(lambda d: d)
    for _ in range(3):
        assert named(Batch(x=tg.ones(1))).item() == 1.0
        assert isinstance(ordered(OrderedDict(x=tg.ones(1))), OrderedDict)
    del known["a"]
    assert named(Batch(x=tg.ones(1))).item() == 9.0
    assert known == {}


def test_a_buffer_that_the_step_makes_and_refills_is_refused() -> None:
    p = tg.ones(3, requires_grad=True)

    def step(x: Any) -> Any:
        buffer, loss = np.empty(3, np.float32), tg.tensor(0.0)
        for t in range(3):
            buffer[:] = t
            loss = loss + ((p - 1) ** 2 * buffer * x).sum()
        return loss

    captured = tg.capture(step)
    assert captured(tg.ones(3)).item() == step(tg.ones(3)).item()
    with pytest.raises(CaptureError, match="writes into a bare array between operations that read it"):
        captured(tg.ones(3))


def test_dates_may_be_in_reach() -> None:
    dates = np.array(["2026-11-29"], "datetime64[D]")
    captured = tg.capture(lambda x: x * (1.0 if dates is not None else 0.0))
    assert [captured(tg.ones(1)).item() for _ in range(4)] == [1.0] * 4


# ---- memory: joins, views and gaps ----


def rows_of_the_old(x: Any) -> Callable[[Any], Any]:
    q = tg.tensor(np.ones((2, 8), np.float32))

    def step(x: Any) -> Any:
        joined = tg.stack([q[0], q[1]])
        q.data = q.data * 0.5
        return joined * 1.0, joined, q * 1.0

    return step


def holes(x: Any) -> Any:
    y = x / tg.where(tg.tensor(np.arange(128).reshape(16, 8) % 5 == 0), 0.0, 1.0)
    return [tg.stack([f(y[:, ::2]), f(y[:, 1::2])], axis=-1) for f in (tg.isnan, tg.isinf, tg.isfinite, tg.negative)]


def unsigned(x: Any) -> Any:
    z = tg.concatenate([x, 7 * x], axis=1).astype("uint32")
    return [tg.stack([-z[:, ::4], -z[:, 1::4]], axis=-1)]


def backwards(x: Any) -> Any:
    y = x * 2
    return [tg.tanh(y[:, 0:5]) + 0 * tg.tanh(y[:, 5:3]).sum()]


@pytest.mark.parametrize(
    "make",
    [rows_of_the_old, lambda x: holes, lambda x: unsigned, lambda x: backwards],
    ids=["rows", "holes", "u", "5:3"],
)
def test_what_lies_where_changes_no_number(make: Any) -> None:
    x = tg.tensor(np.arange(128, dtype=np.float32).reshape(16, 8))
    eager, captured = make(x), tg.capture(make(x))
    with np.errstate(all="ignore"):
        for _ in range(4):
            for found, expected in zip(captured(x), eager(x), strict=True):
                np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)


def test_a_view_of_what_is_written_is_read_before() -> None:
    w, v = tg.tensor(np.eye(3, dtype=np.float32) * 2), tg.tensor(np.eye(3, dtype=np.float32))

    @tg.capture
    def halve(x: Any) -> None:
        w.data = w.data * 0.5

    @tg.capture
    def use(x: Any) -> Any:
        w.data = w.data * 0.9
        return x @ v

    x = tg.ones(1, 3)
    for step in (use, halve, halve, halve):
        step(x)
    v.data = w.data.T  # of the array that replays write
    for _ in range(3):
        expected = (x @ v).numpy()
        np.testing.assert_allclose(use(x).numpy(), expected, rtol=1e-6)


def test_a_fresh_array_of_which_there_is_a_view_is_not_written() -> None:
    def step(x: Any) -> Any:
        y = x * 2
        first = y[0]
        y.data += 1
        return first

    captured = tg.capture(step)
    captured(tg.ones(2, 2))
    with pytest.raises(CaptureError, match="writes into"):
        captured(tg.ones(2, 2))


def test_a_choice_by_a_tiny_number() -> None:
    captured = tg.capture(lambda x, s: tg.where(s, x, 2 * x))
    for s in (1e-60, 1e-60, 0.0, 1e-60):
        assert captured(tg.ones(1), s).item() == (1.0 if s else 2.0)


def test_an_array_that_is_its_own_index() -> None:
    captured = tg.capture(lambda parents: parents[parents] + 0)
    for shift in range(4):
        parents = np.roll([2, 0, 1, 1], shift)
        np.testing.assert_equal(captured(tg.tensor(parents)).numpy(), parents[parents])


@pytest.mark.parametrize("keys", [[0, 1, 2], [1, 3, 5], [2, 1, 0], [0, 1, 3], [0, (slice(None), 3)]], ids=str)
def test_a_stack_lies_where_its_pieces_are_only_if_they_are_alike_and_evenly_spaced(keys: Any) -> None:
    weight = tg.tensor(np.random.default_rng(0).standard_normal((6, 6)))

    def stacked(x: Any) -> Any:
        return tg.stack([weight[key] for key in keys]) @ x

    captured, x = tg.capture(stacked), tg.tensor(np.eye(6))
    for _ in range(4):
        np.testing.assert_array_equal(captured(x).numpy(), stacked(x).numpy())


def test_factors_of_other_shapes_are_not_joined_over_time() -> None:
    def step(x: Any, factors: Any) -> Any:
        scaled = []
        with tape.timeline() as mark:
            for t in range(2):
                mark(t)
                scaled.append(x[t] * factors[t])
        return scaled

    captured, random = tg.capture(step), np.random.default_rng(0)
    for _ in range(4):
        x, factors = (tg.tensor(random.standard_normal(shape)) for shape in ((2, 2, 3), (2, 3)))
        for found, expected in zip(captured(x, factors), step(x, factors), strict=True):
            np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_a_refusal_that_the_step_catches_is_a_refusal() -> None:
    def step(x: Any, s: float) -> Any:
        with suppress(RuntimeError):
            print(x.sum().item())
        return x * s

    def by_number(x: Any, s: float) -> Any:
        try:
            return x * {0.5: 3.0}[s]
        except (CaptureError, KeyError):
            return x * 7

    captured = tg.capture(step)
    captured(tg.ones(2), 0.5)
    with pytest.raises(CaptureError, match=r"reads an array's numbers, test_capture_edges.py:\d"):
        captured(tg.ones(2), 0.5)
    captured = tg.capture(by_number)
    assert [captured(tg.ones(1), s).item() for s in (0.5, 0.5, 0.5, 1.5)] == [3, 3, 3, 7]


def test_a_refusal_outside_of_a_recording_is_none_of_the_next_recording() -> None:
    kept: list[Any] = []

    def keeping(x: Any, s: float) -> Any:
        kept.append(s)
        return x * s

    captured, doubled = tg.capture(keeping), tg.capture(lambda x: x * 2)
    captured(tg.ones(1), 0.5)
    with pytest.raises(CaptureError, match="changes the length of kept"):
        captured(tg.ones(1), 0.5)
    with pytest.raises(CaptureError, match="asks whether a number that may change is true"):
        bool(kept[-1])
    assert [doubled(tg.ones(1)).item() for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("exact", [True, False])
def test_a_list_of_numbers_may_be_stacked_with_a_tensor(exact: bool) -> None:
    w, numbers = tg.tensor([2.0, 3.0], requires_grad=True), [5.0, 6.0]

    def step(x: Any) -> Any:
        w.grad = None
        (tg.stack([w * x, numbers]) ** 2).sum().backward()
        return tg.stack([x, numbers]), w.grad

    captured = tg.capture(step, exact=exact)
    for k in range(5):
        numbers[0] = 5.0 + k // 3
        x = tg.full(2, float(k))
        assert _bare(captured(x)) == _bare(step(x))
