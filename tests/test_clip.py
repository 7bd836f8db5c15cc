"""Clipping: what it does to numbers of any size, when it waits for a device, and what its report says."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import strict
from closeness import close, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim, tape
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.record import Watcher

CLIPS: dict[str, Callable[..., tg.ClipReport]] = {
    "together": tg.clip_grad_norm_,
    "each": lambda ps, bound, **options: tg.clip_grad_norm_(ps, bound, per_parameter=True, **options),
    "value": tg.clip_grad_value_,
}


def with_gradients(*gradients: Any, home: str = "numpy") -> dict[str, Tensor]:
    """Parameters a, b, c, ... with these gradients."""
    found = {}
    for name, gradient in zip("abcdefgh", gradients, strict=False):
        found[name] = tg.tensor(np.zeros_like(gradient), backend=home, requires_grad=True)
        found[name].grad = tg.tensor(gradient, backend=home)
    return found


def gradients(parameters: dict[str, Tensor]) -> list[np.ndarray]:
    return [p.grad.numpy() for p in parameters.values() if p.grad is not None]


def clipped_by_hand(gs: list[np.ndarray], kind: str, bound: float) -> list[np.ndarray]:
    """In float64, which is wide enough for the squares of all float32 numbers."""
    wide = [g.astype(np.float64) for g in gs]
    if kind == "value":
        return [np.clip(g, -bound, bound) for g in wide]
    lengths = [np.sqrt((g * g).sum()) for g in wide]
    if kind == "together":
        lengths = [np.sqrt(sum(n * n for n in lengths))] * len(wide)
    return [g * min(1.0, bound / n) if n else g for g, n in zip(wide, lengths, strict=True)]


def flat(gs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([g.astype(np.float64).ravel() for g in gs])


@pytest.fixture(params=["numpy", "strict"])
def home(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with strict.registered():
        yield tg.backend.get(request.param)


SIZES = [1.0, 1e20, 1e-30, 3e38]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", CLIPS)
def test_gradients_of_any_size_are_clipped_as_by_hand(kind: str, size: float, home: Backend) -> None:
    raw = [drawn(3, 4).clip(-1, 1), drawn(5).clip(-1, 1), np.zeros(2), np.float64(0.5), np.zeros((0, 3))]
    gs = [np.asarray(g * size, np.float32) for g in raw]
    for bound in (0.1 * size, 0.7, 1e30):
        ps = with_gradients(*gs, home=home.name)
        report = CLIPS[kind](ps.items(), bound)
        expected = clipped_by_hand(gs, kind, bound)
        for found, wanted, g in zip(gradients(ps), expected, gs, strict=True):
            assert found.dtype == g.dtype
            close(found / size, wanted / size, 1e-6)
        before, after = flat(gs), flat(expected)
        lengths = np.sqrt(before @ before), np.sqrt(after @ after)
        assert report[:2] == pytest.approx(lengths, rel=1e-5)
        cosine = (before / lengths[0]) @ (after / lengths[1])
        assert report.angle == pytest.approx(math.acos(min(1.0, cosine)), abs=1e-3)
        assert report.nonfinite == ()


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_squares_that_float64_cannot_hold(size: float, home: Backend) -> None:
    ps = with_gradients(np.array([3.0, 4.0]) * size, np.array([12.0]), home=home.name)
    report = tg.clip_grad_norm_(ps.values(), 1.0, per_parameter=True)
    close(gradients(ps)[0], np.array([0.6, 0.8]) if size > 1 else np.array([3e-200, 4e-200]))
    close(gradients(ps)[1], np.ones(1))
    assert report.norm == pytest.approx(max(5 * size, 12.0))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=4), min_size=1, max_size=4),
    st.floats(1e-3, 1e3),
    st.sampled_from(sorted(CLIPS)),
)
def test_nothing_is_left_above_the_bound(numbers: list[list[float]], bound: float, kind: str) -> None:
    gs = [np.array(row, np.float32) for row in numbers]
    ps = with_gradients(*gs)
    report = CLIPS[kind](ps.values(), bound)
    for found, wanted in zip(gradients(ps), clipped_by_hand(gs, kind, bound), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-30)
    assert 0 <= report.clipped_norm <= report.norm
    assert 0 <= report.angle <= math.pi / 2


# ---- what is not finite ----


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", CLIPS)
def test_by_default_it_raises_with_the_name_and_changes_nothing(kind: str, bad: float, home: Backend) -> None:
    ps = with_gradients(np.array([30.0]), np.array([[1.0, bad]]), np.array([4.0]), np.array(bad), home=home.name)
    held, before = [p.grad for p in ps.values()], gradients(ps)
    with pytest.raises(FloatingPointError, match="the gradient of b, d is not finite; nothing was changed"):
        CLIPS[kind](ps.items(), 1.0)
    for p, g, numbers in zip(ps.values(), held, before, strict=True):
        assert p.grad is g
        np.testing.assert_array_equal(p.grad.numpy(), numbers)


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.Adam])
def test_a_skipped_step_changes_nothing_at_all(optimiser: Any, home: Backend) -> None:
    ps = with_gradients(np.array([3.0, 4.0]), np.array([2.0]), home=home.name)
    opt = optimiser(ps.values(), lr=0.1, weight_decay=0.1)
    assert tg.clip_grad_norm_(ps.items(), 1.0, on_nonfinite="skip").clipped
    opt.step()
    before = [p.numpy() for p in ps.values()]
    slots = opt.state_dict()
    ps["b"].grad = tg.tensor(np.array([math.nan]), backend=home.name)
    report = tg.clip_grad_norm_(ps.items(), 1.0, on_nonfinite="skip")
    opt.step()
    assert report.nonfinite == ("b",)
    assert np.isnan(report[:3]).all()
    for p, old in zip(ps.values(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    np.testing.assert_equal(opt.state_dict(), slots)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", CLIPS)
def test_zero_makes_all_gradients_zero_or_clips_them(kind: str, bad: float, home: Backend) -> None:
    ps = with_gradients(np.array([3.0, 4.0]), np.array(bad, np.float32), home=home.name)
    report = CLIPS[kind](ps.items(), 1.0, on_nonfinite="zero")
    assert [g.tolist() for g in gradients(ps)] == [[0, 0], 0]
    assert [g.dtype.name for g in gradients(ps)] == ["float64", "float32"]
    assert report.nonfinite == ("b",)
    assert not report.clipped
    ps["a"].grad = tg.tensor(np.array([3.0, 4.0]), backend=home.name)
    assert CLIPS[kind](ps.items(), 1.0, on_nonfinite="zero")[:] == CLIPS[kind](
        with_gradients(np.array([3.0, 4.0]), np.array(0.0)).items(), 1.0
    )
    close(gradients(ps)[0], np.ones(2) if kind == "value" else np.array([0.6, 0.8]))


# ---- when the host waits ----


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize(("on_nonfinite", "waits"), [("raise", 1), ("skip", 1), ("zero", 0)])
def test_how_often_the_host_waits(kind: str, on_nonfinite: str, waits: int) -> None:
    with strict.registered():
        ps = with_gradients(*(drawn(4, n) for n in range(1, 6)), home="strict")
        before = strict.tally.host_copies
        report = CLIPS[kind](ps.items(), 0.1, on_nonfinite=on_nonfinite)
        assert strict.tally.host_copies - before == waits
        assert report.clipped
        assert strict.tally.host_copies - before > waits
        read = strict.tally.host_copies
        assert report.norm > report.clipped_norm
        assert strict.tally.host_copies == read


def test_all_that_is_done_to_gradients_is_done_by_operations() -> None:
    """A watcher sees every step, so it can be recorded and replayed."""

    class Names(Watcher):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def forward(self, op: Any, inputs: Any, attributes: Any, result: Any) -> None:
            self.seen.append(op.name)

    ps = with_gradients(np.ones(3), np.ones(2))
    with tape.watching(Names()) as names:
        tg.clip_grad_norm_(ps.items(), 1.0)
    assert names.seen == ["norms", "refuse_nonfinite", "factors", "scaled", "scaled"]


# ---- the report, and gradients that are shared ----


def test_a_report_is_a_tuple_that_is_computed_late() -> None:
    ps = with_gradients(np.array([3.0, 4.0]))
    report = tg.clip_grad_norm_(ps.values(), 1.0)
    assert pickle.loads(pickle.dumps(report)) == report
    assert len(report) == 4
    norm, clipped_norm, angle, nonfinite = report
    assert (norm, clipped_norm, angle, nonfinite) == report == (5.0, 1.0, 0.0, ())
    assert repr(report) == "ClipReport(norm=5.0, clipped_norm=1.0, angle=0.0, nonfinite=())"
    assert report not in ((5.0, 1.0, 0.0), 5.0)
    assert hash(report) == hash((5.0, 1.0, 0.0, ()))
    assert len({report, tg.clip_grad_norm_(with_gradients(np.array([3.0, 4.0])).values(), 1.0)}) == 1


def test_scaling_all_alike_turns_nothing_at_all() -> None:
    """The angle is 0, and not what rounding makes of it."""
    for seed in range(20):
        ps = with_gradients(drawn(3, 4, seed=seed), drawn(5, seed=seed + 100))
        assert tg.clip_grad_norm_(ps.values(), 1.0).angle == 0.0


def test_a_gradient_that_two_parameters_share_is_scaled_once() -> None:
    ps = with_gradients(np.array([3.0, 4.0]), np.array([0.0, 0.0]))
    ps["b"].grad = ps["a"].grad
    tg.clip_grad_norm_(ps.values(), 1.0)
    for g in gradients(ps):
        close(g, np.array([3.0, 4.0]) / 50**0.5)


@pytest.mark.parametrize("history", [False, True])
def test_a_gradient_is_clipped_in_place_unless_it_has_a_history(history: bool) -> None:
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    (w * w / 2).sum().backward(create_graph=history)
    g = w.grad
    tg.clip_grad_norm_([w], 1.0)
    assert (w.grad is g) is not history
    assert g.tolist() == ([3.0, 4.0] if history else [np.float32(0.6), np.float32(0.8)])


# ---- messages ----


def test_clipped_messages_equal_a_loop_written_by_hand() -> None:
    """h_t = tanh(h_{t-1} W^T + x_t); what each step sends back to h_{t-1} is held within the bound."""
    steps, bound, w, x, target = 12, 0.3, 2.0 * drawn(4, 4), drawn(12, 2, 4), drawn(12, 2, 4, seed=1)
    weight = tg.tensor(w, requires_grad=True)
    h, states = tg.zeros(2, 4, dtype="float64"), [np.zeros((2, 4))]
    loss = tg.zeros((), dtype="float64")
    for t in range(steps):
        h = tg.tanh(tg.linear(tg.clip_message(h, bound=bound), weight, x[t]))
        loss = loss + ((h - target[t]) ** 2).sum()
        states.append(h.numpy())
    loss.backward()
    gradient, message, met = np.zeros_like(w), np.zeros((2, 4)), 0
    for t in reversed(range(steps)):
        g = (message + 2 * (states[t + 1] - target[t])) * (1 - states[t + 1] ** 2)
        gradient += g.T @ states[t]
        met += int((abs(g @ w) > bound).sum())
        message = np.clip(g @ w, -bound, bound)
    assert met > 10
    close(weight.grad, gradient)


# ---- by small numbers ----


def parameters(*numbers: Any, dtype: str = "float32") -> list[Tensor]:
    """A leaf for each gradient."""
    return list(with_gradients(*(np.asarray(g, dtype) for g in numbers)).values())


def norm(ps: list[Tensor]) -> float:
    return math.hypot(*(float(x) for p in ps if p.grad is not None for x in p.grad.data.ravel()))


def test_clipping_scales_all_gradients_alike() -> None:
    ps = parameters([3.0, 0.0], [[4.0]], 12.0)
    report = tg.clip_grad_norm_(ps, 6.5)
    assert (report.norm, report.angle, report.nonfinite, report.clipped) == (13.0, 0.0, (), True)
    assert report.clipped_norm == pytest.approx(6.5)
    assert [p.grad.tolist() for p in ps if p.grad is not None] == [[1.5, 0.0], [[2.0]], 6.0]


def test_small_gradients_are_left_exactly_as_they_are() -> None:
    ps = parameters([3.0, 4.0])
    for bound in (5.0, 6.0, math.inf):
        report = tg.clip_grad_norm_(ps, bound)
        assert (report.norm, report.clipped_norm, report.clipped) == (5.0, 5.0, False)
    assert ps[0].grad.tolist() == [3, 4]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e19, 1e20, 3e38])
def test_gradients_whose_squares_overflow_are_clipped_and_not_zeroed(dtype: str, size: float) -> None:
    ps = parameters([size, -size], size, np.zeros(3), dtype=dtype)
    report = tg.clip_grad_norm_(ps, 1.0)
    assert report.norm == pytest.approx(size * 3**0.5, rel=1e-6)
    assert norm(ps) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e-38])
def test_tiny_gradients_are_measured(size: float) -> None:
    ps = parameters([size, size], [size, size])
    report = tg.clip_grad_norm_(ps, size)
    assert report.norm == pytest.approx(2 * size, rel=1e-5)
    assert norm(ps) == pytest.approx(size, rel=1e-5)


def test_norms_of_nothing() -> None:
    assert tg.clip_grad_norm_([], 1.0) == (0.0, 0.0, 0.0, ())
    assert tg.clip_grad_norm_([tg.ones(2, requires_grad=True)], 1.0).norm == 0.0
    assert tg.clip_grad_norm_(parameters([0.0, 0.0], np.zeros(0)), 1.0).norm == 0.0
    assert tg.clip_grad_value_(parameters([0.0, 0.0], np.zeros(0)), 1.0).norm == 0.0


def test_a_single_tensor_and_named_parameters_are_taken() -> None:
    (p,) = parameters([3.0, 4.0])
    assert tg.clip_grad_norm_(p, 1.0).norm == 5.0
    model = nn.Linear(2, 1)
    model(np.ones((1, 2), np.float32)).sum().backward()
    assert tg.clip_grad_norm_(model.named_parameters(), 1.0).clipped_norm == pytest.approx(1.0)


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_nothing_changes(clip: Any, bad: float) -> None:
    ps = parameters([3.0, 4.0], [[1.0, bad]], [30.0])
    named = list(zip(["good", "cell.bias", "large"], ps, strict=True))
    before = [p.grad.numpy() for p in ps if p.grad is not None]
    with pytest.raises(FloatingPointError, match=r"the gradient of cell\.bias is not finite"):
        clip(named, 1.0)
    with pytest.raises(FloatingPointError, match=r"parameter 1 \[1, 2\]"):
        clip(ps, 1.0)
    for p, g in zip(ps, before, strict=True):
        np.testing.assert_array_equal(p.grad.data, g)


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
def test_what_is_not_finite_may_be_skipped(clip: Any) -> None:
    ps = parameters([3.0, 4.0], [math.nan])
    report = clip(zip("ab", ps, strict=True), 1.0, on_nonfinite="skip")
    assert report.nonfinite == ("b",)
    assert not report.clipped
    assert all(p.grad is None for p in ps)
    optim.SGD(ps, lr=1.0).step()
    assert ps[0].tolist() == [0, 0]


def test_clipping_of_each_parameter_turns_the_gradient() -> None:
    ps = parameters([30.0, 40.0], [0.5])
    report = tg.clip_grad_norm_(ps, 1.0, per_parameter=True)
    found = [p.grad.data for p in ps if p.grad is not None]
    np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-6)
    assert found[1].tolist() == [0.5]
    before, after = np.array([30, 40, 0.5]), np.array([0.6, 0.8, 0.5])
    cosine = before @ after / np.sqrt((before @ before) * (after @ after))
    assert report.angle == pytest.approx(math.acos(cosine), rel=1e-6)
    assert report.norm == pytest.approx(np.sqrt(before @ before))
    assert report.clipped_norm == pytest.approx(np.sqrt(after @ after))


def test_clipping_of_each_element_turns_the_gradient() -> None:
    ps = parameters([3.0, -0.5], [[-4.0]], 2.0)
    report = tg.clip_grad_value_(ps, 1.0)
    assert [p.grad.tolist() for p in ps if p.grad is not None] == [[1.0, -0.5], [[-1.0]], 1.0]
    assert all(isinstance(p.grad.data, np.ndarray) for p in ps if p.grad is not None)
    before, after = np.array([3, -0.5, -4, 2]), np.array([1, -0.5, -1, 1])
    cosine = before @ after / np.sqrt((before @ before) * (after @ after))
    assert report.angle == pytest.approx(math.acos(cosine), rel=1e-6)
    assert report.norm == pytest.approx(np.sqrt(before @ before))
    assert report.clipped_norm == pytest.approx(np.sqrt(after @ after))
    assert tg.clip_grad_value_(ps, 1.0).angle == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
def test_wrong_bounds_are_refused(clip: Any) -> None:
    ps = parameters([3.0])
    for bound in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be above 0"):
            clip(ps, bound)
        with pytest.raises(
            ValueError, match=r"clip_message: x f\d\d\[1\]: the bound must be above 0, not .*, test_clip"
        ):
            tg.clip_message(ps[0], bound)
    with pytest.raises(ValueError, match="on_nonfinite"):
        clip(ps, 1.0, on_nonfinite="ignore")


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
def test_only_one_list_of_parameters_is_taken(clip: Any) -> None:
    """A weight and a bias in a list of their own are not the name of a parameter and that parameter."""
    layer = nn.Linear(2, 2)
    layer(tg.ones(1, 2)).sum().backward()
    before = layer.bias.grad.numpy()
    for wrong in (
        [layer.parameters()],
        [list(layer.parameters())],
        [tuple(layer.parameters())],
        dict(layer.named_parameters()),
        [("weight", np.ones(2))],
        [layer],
        "ab",
        5,
    ):
        with pytest.raises(TypeError, match=r"clip: parameters are Tensors, .*; those of two modules are one list"):
            clip(wrong, 1e-3)
    with pytest.raises(TypeError, match="not a dict"):
        clip({}, 1e-3)
    np.testing.assert_array_equal(layer.bias.grad.numpy(), before)


def test_a_clipped_message_is_the_identity_forward() -> None:
    x = tg.tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
    y = tg.clip_message(x, 0.5)
    np.testing.assert_array_equal(y.data, x.data)
    (y * np.array([10.0, 0.25, -10.0])).sum().backward()
    assert x.grad.tolist() == [0.5, 0.25, -0.5]


def test_a_clipped_message_bounds_each_step_of_a_recurrence() -> None:
    """Without it the gradient of h_0 would be 3**20."""
    h0 = tg.ones(1, dtype="float64", requires_grad=True)
    h = h0
    for _ in range(20):
        h = tg.clip_message(h, bound=1.0) * 3.0
    h.sum().backward()
    assert h0.grad.tolist() == [1.0]


def test_a_state_of_several_parts_is_not_passed_on_unclipped() -> None:
    h = tg.ones(2, requires_grad=True)
    for state in (nn.LSTMState(h, h), (h, h), {"h": h}):
        with pytest.raises(TypeError, match=r"^clip_message: "):
            tg.clip_message(state, 1.0)


def test_clipping_leaves_the_weights_of_a_graph_alone() -> None:
    w = tg.tensor(np.array([3.0, 4.0]), requires_grad=True)
    y = (w * w).sum()
    y.backward(retain_graph=True)
    tg.clip_grad_norm_([w], 1.0)
    w.grad = None
    y.backward()
    assert w.grad.tolist() == [6, 8]


@pytest.mark.parametrize("parameters", [nn.Linear(2, 2), "weights", 3.0])
def test_what_is_no_parameters_is_refused_with_the_cure(parameters: Any) -> None:
    with pytest.raises(TypeError, match=r"such as model\.parameters\(\), not a (Linear|str|float)"):
        tg.clip_grad_norm_(parameters, 1.0)


def test_a_bound_may_be_a_numpy_number() -> None:
    for clip in (tg.clip_grad_norm_, tg.clip_grad_value_):
        w = tg.tensor([3.0, 4.0], requires_grad=True)
        (w * w).sum().backward()
        clip([w], np.float64(1.0))
        assert w.grad.dtype == np.float32


def test_a_report_is_its_norm_where_a_number_is_wanted() -> None:
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    (w * w / 2).sum().backward()
    report = tg.clip_grad_norm_([w], 1.0)
    assert float(report) == 5.0
    assert f"{report:.2f}" == "5.00"
    assert f"{report}" == repr(report)


def test_a_tied_parameter_counts_once() -> None:
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    (w * w / 2).sum().backward()
    assert float(tg.clip_grad_norm_([w, w], 1.0)) == 5.0
    np.testing.assert_allclose(w.grad.numpy(), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_a_generator_that_was_read_before_is_noticed(clip: Callable[..., tg.ClipReport]) -> None:
    parameters = nn.Linear(2, 2).parameters()
    optim.SGD(parameters, lr=0.1)
    with pytest.warns(UserWarning, match="iterator of parameters is empty") as found:
        clip(parameters, 1.0)
    assert found[0].filename == __file__
