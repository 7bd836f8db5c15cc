"""Losses equal PyTorch's on what counts, and what does not count may hold anything (test_parity.py has more)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, nn

torch = pytest.importorskip("torch")

C = 5  # classes
NAMES = ["cross_entropy", "nll_loss", "mse_loss", "huber_loss", "binary_cross_entropy_with_logits"]
OF_CLASSES = ("cross_entropy", "nll_loss")
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
SHAPES = array_shapes(min_dims=1, max_dims=3, max_side=4)


def assert_close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * max(1.0, abs(expected).max(initial=0.0)))


def sample(name: str, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, some of them large, and targets that fit the loss."""
    rng = np.random.default_rng(seed)
    scores = 3 * rng.standard_normal((*shape, C) if name in OF_CLASSES else shape)
    if name in OF_CLASSES:
        return scores, rng.integers(C, size=shape)
    return scores, rng.random(shape) if "binary" in name else 3 * rng.standard_normal(shape)


def ours(
    name: str, scores: np.ndarray, target: Any, normalize: bool = True, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The loss, and the gradient of its sum; normalize: whether nll_loss gets scores by way of a log_softmax."""
    x = tg.tensor(scores, requires_grad=True)
    prediction = tg.log_softmax(x) if name == "nll_loss" and normalize else x
    loss = getattr(nn, name)(prediction, target, **options)
    loss.sum().backward()
    return loss.numpy(), x.grad.numpy()


def theirs(name: str, scores: np.ndarray, target: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    x = torch.tensor(scores, requires_grad=True)
    options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    prediction = torch.log_softmax(x, -1) if name == "nll_loss" else x
    y = torch.tensor(target)
    if name in OF_CLASSES:
        prediction, y = prediction.reshape(-1, C), y.reshape(-1)
    loss = getattr(torch.nn.functional, name)(prediction, y, **options)
    loss.sum().backward()
    found = loss.detach().numpy()
    return found.reshape(target.shape) if found.ndim else found, x.grad.numpy()


# ---- parity ----


@settings(deadline=None, max_examples=100)
@given(
    shape=SHAPES, seed=st.integers(0, 99), smoothing=st.sampled_from([0.0, 0.1, 0.6, 1.0]), weighted=st.booleans(),
    ignore=st.sampled_from([None, 0, -100]), reduction=REDUCTIONS,
)  # fmt: skip
def test_cross_entropy_with_all_its_settings(
    shape: tuple[int, ...], seed: int, smoothing: float, weighted: bool, ignore: int | None, reduction: str
) -> None:
    scores, target = sample("cross_entropy", shape, seed)
    rng = np.random.default_rng(seed)
    if ignore is not None:
        target[rng.random(shape) < 0.3] = ignore
    options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
    if weighted:
        options["weight"] = rng.random(C) + 0.1
    found = ours("cross_entropy", scores, target, ignore_index=ignore, **options)
    if ignore is not None and (target == ignore).all() and reduction == "mean":
        assert found[0] == 0  # PyTorch: NaN
        assert not found[1].any()
        return
    expected = theirs("cross_entropy", scores, target, ignore_index=-100 if ignore is None else ignore, **options)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


@settings(deadline=None, max_examples=60)
@given(shape=SHAPES, seed=st.integers(0, 99), delta=st.sampled_from([0.1, 1.0, 5.0]), reduction=REDUCTIONS)
def test_huber_loss(shape: tuple[int, ...], seed: int, delta: float, reduction: str) -> None:
    scores, target = sample("huber_loss", shape, seed)
    scores.flat[0] = target.flat[0] + delta  # where the two pieces meet
    found = ours("huber_loss", scores, target, delta=delta, reduction=reduction)
    expected = theirs("huber_loss", scores, target, delta=delta, reduction=reduction)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


@settings(deadline=None, max_examples=60)
@given(
    shape=SHAPES, seed=st.integers(0, 99), kind=st.sampled_from(["number", "last axis", "full"]), reduction=REDUCTIONS
)
def test_binary_cross_entropy_with_a_weight_for_positives(
    shape: tuple[int, ...], seed: int, kind: str, reduction: str
) -> None:
    name = "binary_cross_entropy_with_logits"
    scores, target = sample(name, shape, seed)
    size = {"number": (), "last axis": shape[-1:], "full": shape}[kind]
    weight = np.asarray(np.random.default_rng(seed).uniform(0.1, 5, size))
    found = ours(name, scores, target, pos_weight=float(weight) if kind == "number" else weight, reduction=reduction)
    expected = theirs(name, scores, target, pos_weight=weight, reduction=reduction)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


def test_binary_cross_entropy_of_extreme_logits_with_a_weight() -> None:
    scores, target = np.array([1e4, -1e4, 1e4, -1e4]), np.array([1.0, 0.0, 0.0, 1.0])
    found = ours("binary_cross_entropy_with_logits", scores, target, pos_weight=3.0, reduction="none")
    assert_close(found[0], np.array([0, 0, 1e4, 3e4]))
    assert_close(found[1], np.array([0, 0, 1.0, -3.0]))


# ---- masks and padding ----


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(NAMES), shape=SHAPES, seed=st.integers(0, 99), reduction=REDUCTIONS)
def test_a_mask_equals_pytorch_on_what_it_keeps(name: str, shape: tuple[int, ...], seed: int, reduction: str) -> None:
    scores, target = sample(name, shape, seed)
    mask = np.random.default_rng(seed + 1).random(shape) < 0.6
    found = ours(name, scores, target, mask=mask, reduction=reduction)
    if not mask.any():
        assert not found[0].any()
        assert not found[1].any()
        return
    expected = theirs(name, scores[mask], target[mask], reduction=reduction)
    assert_close(found[0][mask] if reduction == "none" else found[0], expected[0])
    assert_close(found[1][mask], expected[1])
    assert not found[1][~mask].any()
    if reduction == "none":
        assert not found[0][~mask].any()


RUBBISH: list[float] = [np.nan, np.inf, -np.inf, 1e300]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bad", RUBBISH)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_tensors", [False, True])
def test_padding_may_hold_anything(name: str, bad: float, reduction: str, as_tensors: bool) -> None:
    """NaN, infinity, and numbers of classes that do not exist change nothing, and have a gradient of 0."""
    scores, target = sample(name, (4, 3), 0)
    mask = np.arange(4)[:, None] < np.array([4, 2, 0])
    given_mask: Any = tg.tensor(mask) if as_tensors else mask
    loss, gradient = ours(name, scores, target, False, mask=given_mask, reduction=reduction)
    assert np.isfinite(loss).all()
    assert not gradient[~mask].any()
    assert gradient[mask].any()
    scores[~mask] = bad
    target[~mask] = -7 if name in OF_CLASSES else bad
    given_target: Any = tg.tensor(target) if as_tensors else target
    found = ours(name, scores, given_target, False, mask=given_mask, reduction=reduction)
    np.testing.assert_array_equal(found[0], loss)
    np.testing.assert_array_equal(found[1], gradient)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_ignored_targets_leave_their_scores_out(name: str) -> None:
    scores, target = sample(name, (6,), 0)
    target[1::2] = -1
    loss, gradient = ours(name, scores, target, False, ignore_index=-1)
    assert not gradient[1::2].any()
    for bad in RUBBISH:
        scores[1::2] = bad
        found = ours(name, scores, target, False, ignore_index=-1)
        np.testing.assert_array_equal(found[0], loss)
        np.testing.assert_array_equal(found[1], gradient)


def test_a_mask_and_an_ignored_class_together() -> None:
    scores, target = sample("cross_entropy", (8,), 0)
    mask = np.array([1, 1, 0, 0, 1, 1, 1, 1], bool)
    target[[0, 2]] = -1
    kept = mask & (target != -1)
    found = ours("cross_entropy", scores, target, mask=mask, ignore_index=-1)
    expected = theirs("cross_entropy", scores[kept], target[kept])
    assert_close(found[0], expected[0])
    assert_close(found[1][kept], expected[1])


@pytest.mark.parametrize("dtype", ["u1", "i1", "i4", "i8"])
def test_an_ignored_index_that_the_dtype_of_the_targets_cannot_hold(dtype: str) -> None:
    scores, target = sample("cross_entropy", (4,), 0)
    found = ours("cross_entropy", scores, target.astype(dtype), ignore_index=-1000)
    assert_close(found[0], theirs("cross_entropy", scores, target)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_may_weigh(name: str) -> None:
    scores, target = sample(name, (4, 3), 0)
    weights = np.random.default_rng(1).random((4, 3))
    weights[0] = 0
    losses, _ = ours(name, scores, target, reduction="none")
    for dtype in ("float32", "float64"):
        mask = weights.astype(dtype)
        assert_close(
            ours(name, scores, target, mask=mask)[0], np.asarray((losses * mask).sum() / mask.sum(dtype=float))
        )
        assert_close(ours(name, scores, target, mask=mask, reduction="sum")[0], np.asarray((losses * mask).sum()))


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_over_nothing_is_0_and_teaches_nothing(name: str) -> None:
    scores, target = sample(name, (4, 3), 0)
    for reduction in ("mean", "sum"):
        loss, gradient = ours(name, scores, target, mask=np.zeros((4, 3), bool), reduction=reduction)
        assert loss == 0
        assert not gradient.any()
        assert ours(name, scores[:0], target[:0], reduction=reduction)[0] == 0


# ---- derivatives and dtypes ----


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_order_one_and_two(name: str, masked: bool) -> None:
    scores, target = sample(name, (4, 3), 0)
    options: dict[str, Any] = {"mask": np.random.default_rng(1).random((4, 3))} if masked else {}
    if name == "cross_entropy":
        options |= {"label_smoothing": 0.2, "weight": np.arange(1.0, 1 + C)}
    if "binary" in name:
        options["pos_weight"] = 2.0
    loss: Callable[..., Any] = getattr(nn, name)
    tg.check(lambda x: loss(x, target, **options), scores)
    tg.check(lambda x: loss(x, target, reduction="none", **options), scores)


def test_a_target_may_be_learned_too() -> None:
    scores, target = sample("mse_loss", (3,), 0)
    for name in ("mse_loss", "huber_loss", "binary_cross_entropy_with_logits"):
        tg.check(getattr(nn, name), scores, target)


@pytest.mark.parametrize("name", NAMES)
def test_how_much_each_element_counts_may_be_learned(name: str) -> None:
    scores, target = sample(name, (4, 3), 0)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, (4, 3))
    tg.check(lambda x, m: getattr(nn, name)(x, target, mask=m), scores, weights)


def test_the_curvature_of_huber_at_0_is_1() -> None:
    """The target is met exactly: a loss built with |d| would lose its second derivative there."""
    x = np.array([1.0, 2.0])
    curvature = tg.hvp(
        lambda p: nn.huber_loss(p, tg.tensor(x), reduction="sum"), tg.tensor(x), tg.ones(2, dtype="float64")
    )
    np.testing.assert_array_equal(curvature.data, [1, 1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["float32", "integers"])
def test_float32_stays_float32(name: str, kind: str) -> None:
    scores, target = sample(name, (4, 3), 0)
    options: dict[str, Any] = {"mask": np.ones((4, 3))}
    if name in OF_CLASSES:
        options["weight"] = np.ones(C)
    else:
        target = (target > 0.5).astype(int if kind == "integers" else "float32")
    if "binary" in name:
        options["pos_weight"] = np.full(3, 2.0)
    x = tg.tensor(scores.astype("float32"), requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss: Tensor = getattr(nn, name)(x, target, reduction=reduction, **options)
        assert loss.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "setting"), [("cross_entropy", "label_smoothing"), ("huber_loss", "delta"), (NAMES[4], "pos_weight")]
)
def test_settings_may_be_numpy_numbers(name: str, setting: str) -> None:
    scores, target = sample(name, (4, 3), 0)
    x, y = scores.astype("float32"), target if name in OF_CLASSES else target.astype("float32")
    found: list[Tensor] = [getattr(nn, name)(x, y, **{setting: number(0.3)}) for number in (float, np.float64)]
    assert (found[1].dtype, found[1].item()) == (np.float32, found[0].item())


# ---- what does not fit ----


@pytest.mark.parametrize("shape", [(4,), (2, 4, 3), (4, 3, 1), (2,)])
def test_a_pos_weight_that_does_not_broadcast_to_the_logits_is_refused(shape: tuple[int, ...]) -> None:
    for logits in (tg.ones(4, 3), tg.ones(4, 1)):
        match = rf"pos_weight of shape {re.escape(str(shape))} does not broadcast to logits"
        with pytest.raises(ShapeError, match=match):
            nn.binary_cross_entropy_with_logits(logits, logits, pos_weight=np.ones(shape))


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_of_another_shape_is_refused(name: str) -> None:
    scores, target = sample(name, (4, 3), 0)
    for mask in (np.ones(3, bool), np.ones((3, 4), bool), np.ones((4, 1)), np.ones((4, 3, 1))):
        with pytest.raises(ShapeError, match=rf"{name}: the mask has shape .* losses of shape \(4, 3\)"):
            getattr(nn, name)(tg.tensor(scores), target, mask=mask)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_layer_returns_is_no_score(name: str) -> None:
    with pytest.raises(TypeError, match="a Unrolled is no array; one field of it is meant: outputs, state"):
        getattr(nn, name)(nn.LSTM(3, 4)(tg.ones(2, 3)), tg.ones(2, 4))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_targets_that_do_not_fit_are_refused(name: str) -> None:
    loss = getattr(nn, name)
    scores, target = sample(name, (4, 3), 0)
    x = tg.tensor(scores)
    for wrong in (target[:2], target.astype(float), target[..., None], target > 1):
        with pytest.raises(ShapeError, match=rf"{name}: targets .* must be integers of shape \(4, 3\)"):
            loss(x, wrong)
    for wrong in (C, -1):
        target[2, 1] = wrong
        with pytest.raises(IndexError, match=rf"target {wrong}"):
            loss(x, target)
        loss(x, target, ignore_index=wrong)
    for weight in (np.ones(4), 2.0):
        shape = re.escape(str(np.shape(weight)))
        with pytest.raises(ShapeError, match=rf"there are 5 classes, but weight has shape {shape}"):
            loss(x, np.zeros((4, 3), int), weight=weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: nn.cross_entropy(x, np.zeros(2, int), label_smoothing=1.5),
        lambda x: nn.huber_loss(x, x, delta=0.0),
        *(lambda x, name=name: getattr(nn, name)(x, x, reduction="average") for name in NAMES[2:]),
    ],
)
def test_wrong_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be|delta must be|the reduction is"):
        make(tg.ones(2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_gives_the_same(name: str) -> None:
    loss, rng = getattr(nn, name), np.random.default_rng(0)
    step = tg.capture(lambda x, target: loss(x, target), exact=True)
    for _ in range(4):
        x = tg.tensor(rng.standard_normal((6, 5)))
        target = tg.tensor(rng.integers(5, size=6) if name in OF_CLASSES else rng.random((6, 5)))
        assert step(x, target).item() == loss(x, target).item()


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_as_exact_as_the_scores(name: str) -> None:
    """Lists of Python floats take the dtype of the scores, and so are not rounded to float32 on the way."""
    scores, target = sample(name, (4,), 0)
    options: dict[str, Any] = {"mask": np.array([0.1, 0.0, 0.7, 1.3])}
    if name in OF_CLASSES:
        options["weight"] = np.array([0.1, 0.2, 0.3, 0.4, 0.7])
    if "binary" in name:
        options["pos_weight"] = np.array([0.1, 0.2, 0.3, 0.4])
    expected = getattr(nn, name)(tg.tensor(scores), target, **options)
    lists = {key: value.tolist() for key, value in options.items()}
    assert getattr(nn, name)(tg.tensor(scores), target.tolist(), **lists).item() == expected.item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_integers_count_as_the_numbers_they_are(name: str, dtype: str) -> None:
    """Differences of bytes do not wrap around, and fractions of a mask are not cut off."""
    scores = np.array([[3, 100, 7], [0, 1, 120]]).astype(dtype)
    target = np.array([1, 2]) if name in OF_CLASSES else np.array([[5, 1, 7], [1, 0, 1]]).astype(dtype)
    mask = np.array([0.5, 1]) if name in OF_CLASSES else np.array([[0.5, 1, 1], [0.25, 0, 1]])
    numbers = target if name in OF_CLASSES else target.astype(float)
    expected = getattr(nn, name)(scores.astype(float), numbers, mask=mask)
    assert getattr(nn, name)(scores, target, mask=mask).item() == expected.item()


@pytest.mark.parametrize("name", NAMES)
def test_a_masked_mean_of_more_than_float16_can_sum(name: str) -> None:
    """The loss and its gradient are those of float32, rounded: 70,000 is out of float16's range."""
    scores, target = (np.tile(a, (7000, *(1,) * (a.ndim - 1))) for a in sample(name, (10,), 0))
    mask = np.arange(70_000) % 10 < 9
    wide = ours(name, scores.astype("float32"), target, False, mask=mask)
    found = ours(
        name, scores.astype("float16"), target.astype("float16" if target.dtype.kind == "f" else int), False, mask=mask
    )
    np.testing.assert_allclose(found[0], wide[0], rtol=0.01)
    np.testing.assert_allclose(found[1], wide[1], rtol=0.05, atol=2e-7)
    assert found[0].dtype == np.float16


def test_the_target_that_pytorch_ignores_is_named_with_the_cure() -> None:
    scores, targets = tg.zeros(2, 3), tg.tensor([1, -100])
    for loss in (nn.cross_entropy, nn.nll_loss):
        with pytest.raises(IndexError, match=r"the target -100 is out of .* given ignore_index=-100, losses\.py"):
            loss(scores, targets)
        with pytest.raises(IndexError, match=r"the target -1 is out of range: they run from 0 to 2, losses"):
            loss(scores, tg.tensor([1, -1]))
        loss(scores, targets, ignore_index=-100)
