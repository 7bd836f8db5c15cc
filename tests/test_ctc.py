"""CTC equals PyTorch's, and the sum over all alignments written out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, nn
from tinygrad_rnn.tape import clock


@dataclass
class Case:
    """Logits (T, B, C), rows of labels, lengths, and the blank."""

    logits: np.ndarray
    labels: np.ndarray
    inputs: np.ndarray
    lengths: np.ndarray
    blank: int

    @property
    def feasible(self) -> np.ndarray:
        """Whether there is time for all labels, and for a blank between two that are equal."""
        repeats = [(row[1:n] == row[: max(n - 1, 0)]).sum() for row, n in zip(self.labels, self.lengths, strict=True)]
        return np.asarray(self.inputs >= self.lengths + repeats)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps, batch, classes = draw(st.integers(1, 10)), draw(st.integers(1, 4)), draw(st.integers(2, 5))
    width, blank = draw(st.integers(0, 4)), draw(st.integers(0, classes - 1))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    logits = draw(st.sampled_from([1.0, 10.0])) * rng.standard_normal((steps, batch, classes))
    labels = rng.integers(0, classes - 1, (batch, width))
    labels += labels >= blank
    return Case(
        logits, labels, rng.integers(0, steps + 1, batch), rng.integers(0, width + 1, batch), blank
    )  # fmt: skip


def ours(case: Case, labels: Any = None, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The loss, and the gradient of its sum for the logits."""
    x = tg.tensor(case.logits, requires_grad=True)
    labels = case.labels if labels is None else labels
    loss = nn.ctc_loss(tg.log_softmax(x), labels, case.inputs, case.lengths, blank=case.blank, **options)
    loss.sum().backward()
    return loss.numpy(), x.grad.numpy()


def theirs(case: Case, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    torch = pytest.importorskip("torch")
    x = torch.tensor(case.logits, requires_grad=True)
    arrays = (torch.tensor(a) for a in (case.labels, case.inputs, case.lengths))
    loss = torch.nn.functional.ctc_loss(x.log_softmax(-1), *arrays, blank=case.blank, **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def assert_close(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    finite = expected[np.isfinite(expected)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, abs(finite).max(initial=0.0)))


# ---- against PyTorch ----


@settings(deadline=None, max_examples=200)
@given(
    case=cases(),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    zero_infinity=st.booleans(),
    joined=st.booleans(),
)
def test_losses_and_gradients_equal_pytorch(case: Case, reduction: str, zero_infinity: bool, joined: bool) -> None:
    labels = np.concatenate([row[:n] for row, n in zip(case.labels, case.lengths, strict=True)]) if joined else None
    loss, gradient = ours(case, labels, reduction=reduction, zero_infinity=zero_infinity)
    expected_loss, expected_gradient = theirs(case, reduction=reduction, zero_infinity=zero_infinity)
    assert_close(loss, expected_loss)
    rows = slice(None) if zero_infinity else case.feasible  # PyTorch's gradient of an infinite loss is NaN
    assert_close(gradient[:, rows], expected_gradient[:, rows])
    assert not gradient[:, ~case.feasible].any()
    assert np.isfinite(loss).all() or not zero_infinity


def test_lengths_may_be_left_out() -> None:
    rng = np.random.default_rng(0)
    case = Case(rng.standard_normal((9, 3, 5)), rng.integers(1, 5, (3, 4)), np.full(3, 9), np.full(3, 4), 0)
    x = tg.log_softmax(tg.tensor(case.logits))
    assert_close(nn.ctc_loss(x, case.labels).numpy(), theirs(case)[0])
    assert_close(nn.ctc_loss(x, tg.tensor(case.labels), [9, 9, 9], (4, 4, 4)).numpy(), theirs(case)[0])


def test_a_long_input_in_float32() -> None:
    """1,000 steps: probabilities near e^-2000, gradients that sum to 0 for each step."""
    rng = np.random.default_rng(0)
    case = Case(
        2 * rng.standard_normal((1000, 2, 20)),
        rng.integers(1, 20, (2, 30)),
        np.array([1000, 700]),
        np.array([30, 9]),
        0,
    )
    expected, expected_gradient = theirs(case, reduction="none")
    case.logits = case.logits.astype("float32")
    loss, gradient = ours(case, reduction="none")
    assert loss.dtype == gradient.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=3e-3)  # PyTorch's float32 is 1.3e-3 away
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-4)


# ---- against the definition ----


def read(path: tuple[int, ...], blank: int) -> list[int]:
    """Runs of a symbol count once, and blanks are left out."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def written_out(scores: np.ndarray, labels: list[int], blank: int) -> float:
    """-log of the sum over all alignments of the product of their scores e^x."""
    steps, classes = scores.shape
    paths = [path for path in itertools.product(range(classes), repeat=steps) if read(path, blank) == labels]
    with np.errstate(divide="ignore"):
        total = np.log(sum(np.exp(sum(scores[t, c] for t, c in enumerate(path))) for path in paths))
    return -float(total)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_the_sum_over_all_alignments(blank: int) -> None:
    """Also of scores that are not normalised, and of probabilities that are 0."""
    scores = np.random.default_rng(0).standard_normal((5, 1, 3))
    scores[2, 0, 1] = scores[3, 0, 0] = -np.inf
    a, b = (label for label in range(3) if label != blank)
    for labels in ([], [a], [b, b], [a, b], [a, a, b], [b, a, b], [a, a, a], [a, b, a, b, a], [b, b, b]):
        loss = nn.ctc_loss(tg.tensor(scores), np.array([labels], dtype=int), blank=blank, reduction="none")
        assert loss.item() == pytest.approx(written_out(scores[:, 0], labels, blank), rel=1e-12)


def test_derivatives_of_order_one_and_two() -> None:
    """For the log-probabilities themselves, where PyTorch's gradient is another one (see the docstring)."""
    scores = np.random.default_rng(0).standard_normal((5, 3, 4))
    labels, inputs, lengths = np.array([[1, 1, 2], [3, 2, 0], [0, 0, 0]]), [5, 4, 3], [3, 2, 0]
    for reduction in ("none", "mean"):
        tg.check(lambda x, r=reduction: nn.ctc_loss(x, labels, inputs, lengths, reduction=r), scores)


def test_the_gradient_is_the_posterior_of_each_class_at_each_step() -> None:
    x = tg.tensor(np.random.default_rng(0).standard_normal((6, 2, 4)), requires_grad=True)
    nn.ctc_loss(x, np.array([[1, 2, 2], [3, 1, 0]]), [6, 4], [3, 2], reduction="sum").backward()
    posterior = -x.grad.data
    assert (posterior >= 0).all()
    np.testing.assert_allclose(posterior.sum(axis=-1), [[1, 1]] * 4 + [[1, 0]] * 2, atol=1e-12)


# ---- lengths, padding, what cannot be ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_padding_may_hold_anything(bad: float) -> None:
    rng = np.random.default_rng(0)
    scores, labels = np.log(rng.random((7, 3, 4))), rng.integers(1, 4, (3, 3))
    inputs, lengths = np.array([7, 4, 0]), np.array([3, 1, 0])
    found = []
    for filling, label in ((0.0, 1), (bad, 99), (bad, -1)):
        for b in range(3):
            scores[inputs[b] :, b] = filling
            labels[b, lengths[b] :] = label
        x = tg.tensor(scores, requires_grad=True)
        loss = nn.ctc_loss(x, labels, inputs, lengths)
        loss.backward()
        found.append((loss.item(), x.grad.numpy()))
    for loss_value, gradient in found[1:]:
        assert loss_value == found[0][0]
        np.testing.assert_array_equal(gradient, found[0][1])
    for b in range(3):
        assert not found[0][1][inputs[b] :, b].any()


def test_a_target_that_does_not_fit_has_an_infinite_loss_and_no_gradient() -> None:
    """Two equal labels need a blank between them, so "1 1" does not fit into two steps."""
    rng = np.random.default_rng(0)
    case = Case(
        rng.standard_normal((2, 3, 3)), np.array([[1, 1], [1, 2], [2, 2]]), np.array([2, 2, 1]), np.array([2, 2, 2]), 0
    )
    assert case.feasible.tolist() == [False, True, False]
    loss, gradient = ours(case, reduction="none")
    assert np.isinf(loss).tolist() == [True, False, True]
    assert ours(case)[0] == ours(case, reduction="sum")[0] == np.inf
    zeroed, same = ours(case, reduction="none", zero_infinity=True)
    np.testing.assert_array_equal(zeroed, np.where(case.feasible, loss, 0))
    np.testing.assert_array_equal(gradient, same)
    assert gradient[:, 1].any()
    assert not gradient[:, [0, 2]].any()


def test_no_labels_at_all_means_only_blanks() -> None:
    x = tg.log_softmax(tg.tensor(np.random.default_rng(0).standard_normal((4, 2, 3))))
    for labels, lengths in ((np.zeros((2, 0), int), None), (np.ones((2, 3), int), [0, 0]), (np.zeros(0, int), [0, 0])):
        loss = nn.ctc_loss(x, labels, None, lengths, reduction="none")
        np.testing.assert_allclose(loss.data, -x.data[:, :, 0].sum(axis=0), rtol=1e-12)


def test_an_empty_batch_has_no_losses() -> None:
    loss = nn.ctc_loss(tg.zeros(4, 0, 3), np.zeros((0, 2), int), reduction="none")
    assert loss.shape == (0,)


def test_the_graph_does_not_grow_with_the_steps() -> None:
    counts = []
    for steps in (5, 50):
        before = clock()
        nn.ctc_loss(tg.zeros(steps, 1, 3, requires_grad=True), np.array([[1, 2]]), [4])
        counts.append(clock() - before)
    assert counts[0] == counts[1]


def test_raw_arrays_are_taken_too() -> None:
    scores = np.log(np.full((4, 2, 3), 1 / 3))
    loss = nn.ctc_loss(scores, np.array([[1, 2], [1, 1]]))
    assert_close(loss.numpy(), nn.ctc_loss(tg.tensor(scores), np.array([[1, 2], [1, 1]])).numpy())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"log_probabilities": np.zeros((5, 3))}, ShapeError, r"\(5, 3\) must be \(time, batch, classes\)"),
        ({"log_probabilities": np.zeros((0, 2, 3))}, ShapeError, r"at least one time step"),
        ({"targets": np.ones((3, 2), int)}, ShapeError, r"3 rows of targets, but 2 .*: targets\.T for"),
        ({"targets": np.ones((2, 2))}, ShapeError, r"targets must be integers"),
        ({"targets": np.ones((2, 2, 1), int)}, ShapeError, r"targets must be integers"),
        ({"targets": np.ones(4, int)}, ShapeError, r"4 labels one after another need .* not \[2, 1\]"),
        ({"targets": np.array([[1, 3], [1, 1]])}, ValueError, r"label 3 is not among 3 classes"),
        ({"targets": np.array([[-1, 1], [1, 1]])}, ValueError, r"label -1 is not among 3 classes"),
        ({"targets": np.array([[1, 0], [1, 1]])}, ValueError, r"or it is the blank, 0"),
        ({"input_lengths": [5, 6]}, ValueError, "row 1 has length 6, but input_lengths run from 0 to 5"),
        ({"input_lengths": [5]}, ShapeError, r"input_lengths must be 2 integers"),
        ({"input_lengths": [5.0, 4.0]}, ShapeError, r"input_lengths must be 2 integers, not float64"),
        ({"target_lengths": [2, -1]}, ValueError, "row 1 has length -1, but target_lengths run from 0 to 2"),
        ({"target_lengths": [3, 1]}, ValueError, "row 0 has length 3, but target_lengths run from 0 to 2"),
        ({"blank": 3}, ValueError, r"blank 3 is not among 3 classes"),
        ({"blank": -1}, ValueError, r"blank -1 is not among"),
        ({"reduction": "average"}, ValueError, r"the reduction is"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], error: Any, match: str) -> None:
    good: dict[str, Any] = {
        "log_probabilities": np.zeros((5, 2, 3)),
        "targets": np.array([[1, 2], [1, 1]]),
        "input_lengths": [5, 4],
        "target_lengths": [2, 1],
    }
    nn.ctc_loss(**good)
    with pytest.raises(error, match=match):
        nn.ctc_loss(**{**good, **change})


def test_float16_is_float32_rounded() -> None:
    x = np.random.default_rng(0).standard_normal((9, 3, 4)).astype("float16")
    labels, inputs, lengths = np.array([[1, 2, 3], [2, 2, 2], [1, 1, 1]]), [9, 2, 5], [3, 2, 1]  # one has no time
    for reduction in ("none", "mean"):
        losses, gradients = [], []
        for dtype in ("float16", "float32"):
            logits = tg.tensor(x.astype(dtype), requires_grad=True)
            scores = tg.log_softmax(logits)
            loss = nn.ctc_loss(scores, labels, inputs, lengths, reduction=reduction, zero_infinity=True)
            assert loss.dtype == dtype
            losses.append(loss.numpy())
            gradients.append(tg.grad(loss.sum(), logits).numpy())
        np.testing.assert_allclose(*losses, rtol=0.01)
        np.testing.assert_allclose(*gradients, atol=0.01)


# ---- reading the best path ----


@settings(deadline=None, max_examples=60)
@given(
    path=st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=8), blank=st.integers(0, 3)
)
def test_the_best_path_is_read_as_alignments_are(path: list[list[int]], blank: int) -> None:
    best = np.array(path)
    scores = np.eye(4)[best]
    lengths = [len(path), len(path) // 2]
    expected = [read(tuple(best[: lengths[b], b]), blank) for b in range(2)]
    assert nn.ctc_greedy_decode(tg.tensor(scores), lengths, blank=blank) == expected


def test_training_finds_the_labels() -> None:
    """A table of logits, and nothing else, comes to say what it should."""
    tg.manual_seed(1)
    x, labels = tg.randn(12, 2, 4, requires_grad=True), np.array([[1, 1, 3], [2, 0, 0]])
    opt = tg.optim.Adam([x], lr=0.3)
    for _ in range(60):
        opt.zero_grad()
        loss = nn.ctc_loss(tg.log_softmax(x), labels, None, [3, 1])
        loss.backward()
        opt.step()
    assert loss.item() < 0.1
    assert nn.ctc_greedy_decode(x) == [[1, 1, 3], [2]]
