"""Checkpointed BPTT is unrolling: the same numbers bit for bit, in all that one can do with a graph."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_cells import Tokens
from peaks import peak_memory

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, tape
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.bptt.memory import kept_bytes
from tinygrad_rnn.bptt.schedule import lengths
from tinygrad_rnn.plan import BoundRule
from tinygrad_rnn.record import Watcher
from tinygrad_rnn.tree import tree_leaves, tree_map

F64: dict[str, Any] = {"dtype": "float64"}
D, H = 3, 4


class Own(nn.Module):
    """A user's cell: a nested state with an integer and a part that passes through, and no projection."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.w = tg.tensor(random.standard_normal((D, H)), requires_grad=True)
        self.u = tg.tensor(random.standard_normal((H, H)) / 2, requires_grad=True)

    def input_projection(self, x: Any) -> Any:
        return x

    def initial_state(self, z: Any) -> Any:
        zeros = tg.zeros(z.shape[0], H, dtype="float64")
        return {"h": zeros, "more": [zeros + 0.5, tg.zeros(z.shape[0], 1, dtype="int64")]}

    def step(self, z: Any, state: Any) -> Any:
        same, count = state["more"]
        h = tg.tanh(z @ self.w + state["h"] @ self.u + same)
        return (h * h).sum(axis=-1, keepdims=True), {"h": h, "more": [same, count + 1]}


CELLS: dict[str, Callable[[], Any]] = {
    "rnn": lambda: nn.RNNCell(D, H, **F64),
    "lstm": lambda: nn.LSTMCell(D, H, **F64),
    "gru": lambda: nn.GRUCell(D, H, **F64),
    "gru before": lambda: nn.GRUCell(D, H, reset="before", **F64),
    "layer norm": lambda: nn.LayerNormLSTMCell(D, H, **F64),
    "own": Own,
    "zoneout": lambda: nn.Zoneout(nn.LSTMCell(D, H, **F64), 0.3),
    "recurrent dropout": lambda: nn.RecurrentDropout(nn.LSTMCell(D, H, **F64), 0.3),
    "variational": lambda: nn.VariationalDropout(nn.LSTMCell(D, H, **F64), 0.3, 0.3, 0.3),
    "output dropout": lambda: nn.CellDropout(nn.GRUCell(D, H, **F64), output=0.4),
    "skips": lambda: nn.SkipThroughTime(nn.RNNCell(D, H, **F64), (-1, -3)),
    "float32": lambda: nn.LSTMCell(D, H),
}


def chained(cell: Any, xs: Any, state: Any, sizes: list[int], mask: Any, reverse: bool) -> Any:
    """``unroll`` for one segment after another: all graphs kept."""
    bounds = [0, *accumulate(sizes)]
    outputs = []
    tail = xs[-1:] if reverse else xs[:1]  # where a run of its own would begin
    assert len(tail) == 1
    for start, stop in pairwise(bounds):
        part = slice(len(xs) - stop, len(xs) - start) if reverse else slice(start, stop)
        ys, state = bptt.unroll(cell, xs[part], state, None if mask is None else mask[part], reverse=reverse)
        outputs.append(ys)
    return tg.concatenate(outputs[::-1] if reverse else outputs), state


def leaves(data: np.ndarray, state: Any) -> tuple[Tensor, Any]:
    """Inputs and a state that get gradients."""
    xs = tg.tensor(data, requires_grad=True)
    return xs, tree_map(lambda x: tg.tensor(x, requires_grad=x.dtype.kind == "f"), state)


def learn(cell: Any, run: Callable[..., Any], data: np.ndarray, state: Any) -> dict[str, np.ndarray]:
    """Outputs, state and all gradients of a loss that depends on both."""
    tg.manual_seed(1)
    cell.zero_grad()
    xs, begin = leaves(data, state)
    outputs, after = run(xs, begin)
    weights = tg.tensor(np.random.default_rng(2).standard_normal(outputs.shape), dtype=outputs.dtype)
    floats = [x for x in tree_leaves(after) if isinstance(x, Tensor) and x.dtype.kind == "f"]
    loss = (outputs * weights).sum()
    for leaf in floats:
        loss = loss + (leaf * leaf * leaf).sum()
    loss.backward()
    found = {"outputs": outputs, "xs": xs.grad, **{f"after {i}": x for i, x in enumerate(tree_leaves(after))}}
    found |= {f"begin {i}": x.grad for i, x in enumerate(tree_leaves(begin)) if x.requires_grad}
    found |= {name: p.grad for name, p in cell.named_parameters()}
    return {name: x.numpy() if isinstance(x, Tensor) else np.asarray(x) for name, x in found.items() if x is not None}


def problem(name: str, steps: int, batch: int, seed: int, masked: bool) -> tuple[Any, np.ndarray, Any, Any]:
    tg.manual_seed(seed)
    random = np.random.default_rng(seed)
    cell = CELLS[name]()
    data = random.standard_normal((steps, batch, D)).astype("float32" if name == "float32" else "float64")
    _, state = bptt.unroll(cell, data[:1])  # of the right structure
    state = tree_map(lambda x: x.numpy() if isinstance(x, Tensor) else x, state)
    return cell, data, state, random.random((steps, batch)) < 0.7 if masked else None


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(list(CELLS)),
    steps=st.integers(1, 13),
    batch=st.integers(1, 3),
    how=st.sampled_from(["default", "segments", "budget"]),
    fraction=st.floats(0, 1),
    masked=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_unrolling_bit_for_bit(
    name: str, steps: int, batch: int, how: str, fraction: float, masked: bool, reverse: bool, seed: int
) -> None:
    cell, data, state, mask = problem(name, steps, batch, seed, masked)
    plan = bptt.memory_plan(cell, steps, batch, inputs=data[0])
    options: dict[str, Any] = {}
    if how == "segments":
        options = {"segments": 1 + int(fraction * (steps - 1))}
        sizes = list(lengths(bptt.schedule.even(steps, options["segments"])))
    elif how == "budget":  # which decides about sizes that this test need not know
        with pytest.raises(ValueError, match="the smallest budget") as error:
            bptt.checkpointed(cell, *leaves(data, state), budget=0, mask=mask)
        smallest = int(str(error.value).split()[-2].replace(",", ""))
        options = {"budget": int(smallest + fraction**2 * plan.plain.bytes)}
        sizes = [steps]
    else:
        sizes = list(lengths(plan.sqrt.schedule))
    found = learn(
        cell, lambda xs, s: bptt.checkpointed(cell, xs, s, mask=mask, reverse=reverse, **options), data, state
    )
    exact = learn(cell, lambda xs, s: chained(cell, xs, s, sizes, mask, reverse), data, state)
    plain = learn(cell, lambda xs, s: bptt.unroll(cell, xs, s, mask, reverse=reverse), data, state)
    assert found.keys() == exact.keys() == plain.keys()
    unit = np.finfo(data.dtype).eps
    for key, value in found.items():
        if how != "budget" or name in ("own", "variational"):  # which have no product over time
            np.testing.assert_array_equal(value, exact[key], err_msg=key, strict=True)
        size = 1 + np.abs(plain[key]).max(initial=0)
        np.testing.assert_allclose(value, plain[key], rtol=0, atol=500 * unit * size, err_msg=key, strict=True)


@pytest.mark.parametrize("size", [(16, 64), (32, 128)])
def test_of_usual_size_only_projections_are_rounded_otherwise(size: tuple[int, int]) -> None:
    """Where BLAS rounds a row of a product alike however many there are, as it does for blocks of rows."""
    batch, hidden = size
    cell = nn.LSTMCell(hidden, hidden)
    data = np.random.default_rng(0).standard_normal((256, batch, hidden), dtype=np.float32)
    state = nn.LSTMState(*np.zeros((2, batch, hidden), dtype=np.float32))
    found = learn(cell, lambda xs, s: bptt.checkpointed(cell, xs, s), data, state)
    plain = learn(cell, lambda xs, s: bptt.unroll(cell, xs, s), data, state)
    for weight in (cell.weight_ih, cell.weight_ih.T):
        x = np.random.default_rng(1).standard_normal((256 * batch, weight.shape[1]), dtype=np.float32)
        parts = [tg.linear(part, weight.data) for part in np.split(x, 16)]
        if not np.array_equal(tg.linear(x, weight.data), np.concatenate(parts)):
            pytest.skip("this BLAS rounds rows otherwise in products of other heights")
    for key, value in found.items():
        if key in ("weight_ih", "bias"):
            np.testing.assert_allclose(value, plain[key], rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(value, plain[key], err_msg=key)


# ---- what one can do with a graph ----


def small(**options: Any) -> tuple[Any, Tensor, Callable[[], Tensor], Callable[[], Tensor]]:
    """A cell, inputs, and its loss by either way."""
    cell, xs = Own(), tg.tensor(np.random.default_rng(3).standard_normal((11, 2, D)), requires_grad=True)

    def loss(run: Callable[..., Any], **options: Any) -> Tensor:
        outputs, state = run(cell, xs, **options)
        total: Tensor = outputs.sum() + (state["h"] * state["h"]).sum()
        return total

    return cell, xs, lambda: loss(bptt.checkpointed, **options), lambda: loss(bptt.unroll)


def deep() -> dict[str, int]:
    """A budget for which segments are made again in several levels."""
    return {
        "budget": bptt.memory_plan(
            Own(), 11, 2, inputs=tg.ones(2, D, dtype="float64", requires_grad=True)
        ).smallest_budget
        + 99
    }


WAYS: list[Callable[[], dict[str, int]]] = [dict, lambda: {"segments": 11}, lambda: {"segments": 1}, deep]


@pytest.mark.parametrize("way", WAYS)
def test_a_retained_graph_is_made_again_each_time(way: Callable[[], dict[str, int]]) -> None:
    cell, xs, ours, plain = small(**way())
    loss, expected = ours(), tg.grad(plain(), [xs, cell.w, cell.u])
    for retain in (True, True, False):
        for found, g in zip(tg.grad(loss, [xs, cell.w, cell.u], retain_graph=retain), expected, strict=True):
            np.testing.assert_array_equal(found.numpy(), g.numpy())
    with pytest.raises(tg.GraphError, match="was freed by an earlier backward"):
        loss.backward()


@pytest.mark.parametrize("way", WAYS)
def test_gradients_can_be_differentiated_again(way: Callable[[], dict[str, int]]) -> None:
    cell, xs, ours, plain = small(**way())

    def second(loss: Tensor) -> list[np.ndarray]:
        gs = tg.grad(loss, [xs, cell.u], create_graph=True)
        total = loss + sum(((g * g).sum() for g in gs), tg.zeros((), dtype="float64"))
        return [g.numpy() for g in tg.grad(total, [xs, cell.w, cell.u])]

    for found, expected in zip(second(ours()), second(plain()), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_horizon_cuts_where_it_cuts_plain_unrolling() -> None:
    cell, _, ours, plain = small(segments=3)
    gradients = []
    for make in (ours, plain):
        loss = make()
        steps = list(tape.state.steps)
        cell.zero_grad()
        loss.backward(horizon=tape.state.marks[len(steps) - 1 - steps[::-1].index(5)])
        gradients.append(cell.u.grad.numpy())
    np.testing.assert_array_equal(*gradients)


def test_an_output_in_the_middle_can_be_all_that_is_wanted() -> None:
    cell, xs, _, _ = small()
    for options in ({"segments": 4}, deep()):
        found = tg.grad(bptt.checkpointed(cell, xs, **options).outputs[2].sum(), [xs, cell.u])
        expected = tg.grad(bptt.unroll(cell, xs).outputs[2].sum(), [xs, cell.u])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_tensors_in_the_dark_get_their_gradients() -> None:
    """Leaves and results that no attribute of the cell holds, and what a cell lets out sideways."""
    hidden = tg.tensor(np.full(H, 0.3), requires_grad=True)
    made = hidden * hidden

    class Secretive(Own):
        def step(self, z: Any, state: Any) -> Any:
            output, state = super().step(z, state)
            self.aside.append(state["h"])
            return output * made.sum(), state | {"h": state["h"] * hidden}

    gradients = []
    for run in (bptt.unroll, bptt.checkpointed):
        cell = Secretive()
        cell.aside = []
        outputs, _ = run(cell, np.ones((9, 2, D)))
        loss = outputs.sum() + sum(((h * h).sum() for h in cell.aside), tg.zeros((), dtype="float64"))
        gradients.append(tg.grad(loss, [hidden, cell.u, cell.w], retain_graph=True))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-13)


def test_two_layers_one_on_the_other() -> None:
    cells = nn.GRUCell(D, H, **F64), nn.VariationalDropout(nn.LSTMCell(H, H, **F64), input=0.2)
    gradients = []
    for run in (bptt.unroll, bptt.checkpointed):
        tg.manual_seed(4)
        h = tg.tensor(np.random.default_rng(5).standard_normal((12, 2, D)))
        for cell in cells:
            h = run(cell, h).outputs
        gradients.append(tg.grad((h * h).sum(), [p for cell in cells for p in cell.parameters()]))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)


def test_a_whole_layer() -> None:
    layer = nn.LSTM(D, H, num_layers=2, bidirectional=True, dropout=0.3, h0="learned", **F64)
    data = np.random.default_rng(5).standard_normal((100, 3, D))
    found, peaks = [], []
    for run in (bptt.unroll, bptt.checkpointed):
        tg.manual_seed(4)
        with peak_memory() as peak:
            outputs, state = layer.unrolled_by(run)(data, lengths=[100, 4, 0])
            gradients = tg.grad((outputs * outputs).sum() + state.c.sum(), list(layer.parameters()))
            peaks.append(peak())
        found.append([outputs, *state, *gradients])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)
    assert peaks[1] < 0.7 * peaks[0], peaks
    with pytest.raises(TypeError, match="record"):
        layer(data, record=True)
    with pytest.raises(TypeError, match="unrolled_by: it takes a function with unroll's arguments, not 3"):
        layer.unrolled_by(3)


# ---- as it was at the time ----


@pytest.mark.parametrize("options", [{}, {"segments": 9}])
def test_parameters_and_flags_are_those_of_the_time(options: dict[str, int]) -> None:
    cell = nn.Zoneout(nn.LSTMCell(D, H, **F64), 0.5)
    data, gradients = np.ones((9, 2, D)), []
    for change in (False, True):
        tg.manual_seed(6)
        loss = bptt.checkpointed(cell, data, **options).outputs.sum()
        before = {name: p.data for name, p in cell.named_parameters()}
        leaves = list(cell.parameters())
        if change:
            cell.eval()
            for p in leaves:
                p.data = p.data * 2
            after = [p.data for p in leaves]
            tg.randn(3)
        gradients.append([g.numpy() for g in tg.grad(loss, leaves)])
        if change:
            assert not cell.training
            assert not cell.cell.training
            assert all(p.data is array for p, array in zip(leaves, after, strict=True))
            following = tg.rand(2).numpy()
            tg.manual_seed(6)
            bptt.checkpointed(nn.Zoneout(nn.LSTMCell(D, H, **F64), 0.5), data)
        for name, p in cell.named_parameters():
            p.data = before[name]
    assert following.shape == (2,)
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_way_back_leaves_the_random_generator_alone() -> None:
    cell = nn.Zoneout(nn.LSTMCell(D, H), 0.5)
    numbers = []
    for backward in (False, True):
        tg.manual_seed(7)
        loss = bptt.checkpointed(cell, np.ones((9, 2, D), dtype="float32")).outputs.sum()
        if backward:
            loss.backward()
        numbers.append(tg.rand(3).numpy())
    np.testing.assert_array_equal(*numbers)


def test_what_changed_out_of_sight_raises() -> None:
    cell, xs, ours, _ = small()
    loss = ours()
    cell.u.data -= 0.1
    with pytest.raises(tg.GraphError, match="in place"):
        loss.backward()
    factor = tg.tensor(np.array([0.5]), requires_grad=True)

    class Louder(Own):
        def step(self, z: Any, state: Any) -> Any:
            output, state = super().step(z, state)
            return output * factor, state

    loss = bptt.checkpointed(Louder(), xs).outputs.sum()
    factor.data = factor.data * 2
    with pytest.raises(tg.GraphError, match=r"time steps 6 to 8 were run again .* came out otherwise"):
        loss.backward()


def test_other_threads_may_record_meanwhile() -> None:
    stop = threading.Event()

    def busy() -> None:
        x = tg.ones(2, requires_grad=True)
        while not stop.is_set():
            (x * x).sum().backward()

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        _, xs, ours, plain = small()
        for _ in range(5):
            np.testing.assert_array_equal(tg.grad(ours(), xs).numpy(), tg.grad(plain(), xs).numpy())
    finally:
        stop.set()
        thread.join()


# ---- memory ----


def peak(run: Callable[[], Any]) -> int:
    with peak_memory() as most:
        run()
        return most()


@pytest.mark.parametrize("cell", [nn.LSTMCell(32, 64), nn.GRUCell(32, 64), nn.LayerNormLSTMCell(32, 64)], ids=repr)
def test_memory_is_as_predicted(cell: Any) -> None:
    """The graph to 15 %; peaks of whole steps, with inputs, outputs and what is on its way, to a third more."""
    steps, batch = 60, 32
    xs = tg.tensor(np.random.default_rng(8).standard_normal((steps, batch, 32), dtype=np.float32))
    plan = bptt.memory_plan(cell, steps, batch)
    projection = tg.tree.tree_leaves(cell.input_projection(xs))
    kept = kept_bytes(bptt.unroll(cell, xs)) + sum(z.data.nbytes for z in projection) - xs.data.nbytes
    assert abs(plan.plain.bytes - kept) < 0.15 * kept
    outputs = steps * batch * 64 * 4
    for way, options in [
        (plan.sqrt, {}),
        (plan.scheduled(3 * plan.smallest_budget), {"budget": 3 * plan.smallest_budget}),
    ]:
        most = peak(lambda o=options: bptt.checkpointed(cell, xs, **o).state)
        assert way.bytes * 0.6 < most < way.bytes * 1.4 + 2.2 * outputs


def test_the_way_back_needs_no_more_than_the_way_forward() -> None:
    cell, xs = nn.LSTMCell(64, 64), tg.randn(400, 16, 64)

    def step(run: Callable[..., Any], **options: Any) -> None:
        run(cell, xs, **options).state.h.sum().backward()

    plain = peak(lambda: step(bptt.unroll))
    assert peak(lambda: step(bptt.checkpointed)) < 0.25 * plain
    assert peak(lambda: step(bptt.checkpointed, budget=2**19)) < 0.23 * plain


def test_gradients_of_large_weights_are_summed_by_segments() -> None:
    merged: list[Any] = []

    class Merges(Watcher):
        def backward(self, rule: BoundRule, node: Any, contribution: Any) -> None:
            merged.append(node)

    cell = nn.RNNCell(3, 260)
    outputs, _ = bptt.checkpointed(cell, tg.randn(16, 16, 3), segments=4)
    with tape.watching(Merges()):
        outputs.sum().backward()
    assert merged.count(cell.weight_hh.node) == 4


def test_a_plan_reads_like_a_table() -> None:
    plan = bptt.memory_plan(nn.LSTMCell(3, 5), T=100, B=2, budget=40_000)
    table = repr(plan)
    assert table.splitlines()[0].startswith("LSTMCell(3, 5), T=100, B=2: ")
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["plain", "sqrt", "scheduled"]
    assert "budget: 39 KiB, which scheduled fits" in table
    assert plan.fit(40_000).bytes <= 40_000
    assert plan.fit(10**9).name == "plain"
    assert repr(plan._replace(budget=None)).splitlines()[-1].startswith("smallest budget: ")
    assert "smallest budget" in repr(plan._replace(budget=None, length=5000))  # whose schedule is the deepest


# ---- edges ----


def test_the_smallest_budget_does_for_long_sequences() -> None:
    cell, xs = nn.RNNCell(2, 2), tg.randn(512, 1, 2)
    plan = bptt.memory_plan(cell, 512, 1)
    outputs, _ = bptt.checkpointed(cell, xs, budget=plan.smallest_budget)
    assert np.allclose(outputs.numpy(), bptt.unroll(cell, xs).outputs.numpy())


def test_no_graph_where_none_is_wanted() -> None:
    cell, xs, _, _ = small()
    with tg.no_grad():
        outputs, _ = bptt.checkpointed(cell, xs)
    assert not outputs.requires_grad
    np.testing.assert_array_equal(outputs.numpy(), bptt.unroll(cell, xs).outputs.numpy())
    tokens = Tokens()
    ids = np.array([[1, 2], [3, 4], [5, 6], [0, 1], [2, 2]])
    found, expected = (run(tokens, ids).outputs.sum() for run in (bptt.checkpointed, bptt.unroll))
    for a, b in zip(*(tg.grad(y, list(tokens.parameters())) for y in (found, expected)), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_said() -> None:
    cell, xs = nn.LSTMCell(D, H), np.ones((7, 2, D), dtype="float32")
    for segments in (0, 8):
        with pytest.raises(ValueError, match=f"segments run from 1 to 7, the number of time steps, not {segments}"):
            bptt.checkpointed(cell, xs, segments=segments)
    for wrong in (2.5, "2"):
        with pytest.raises(TypeError, match=f"segments says how many, a whole number, and cannot be {wrong!r}"):
            bptt.checkpointed(cell, xs, segments=wrong)
    with pytest.raises(TypeError, match="the budget is a number of bytes, and cannot be '1 MB'"):
        bptt.checkpointed(cell, xs, budget="1 MB")
    assert bptt.checkpointed(cell, xs, segments=np.int64(2)).outputs.shape == (7, 2, H)
    with pytest.raises(ValueError, match="segments or a budget, not both"):
        bptt.checkpointed(cell, xs, segments=2, budget=10**6)
    with pytest.raises(ValueError, match="the smallest budget that would do is") as error:
        bptt.checkpointed(cell, xs, budget=10)
    enough = int(str(error.value).split()[-2].replace(",", ""))
    bptt.checkpointed(cell, xs, budget=enough).outputs.sum().backward()
    with pytest.raises(ValueError, match=r"no time steps"):
        bptt.checkpointed(cell, xs[:0])
    with pytest.raises(ValueError, match="the mask has shape"):
        bptt.checkpointed(cell, xs, mask=np.ones((2, 7)))
    with pytest.raises(TypeError, match="does not fit; for this input it must be"):
        bptt.checkpointed(cell, xs, tg.ones(2, H))
    with pytest.raises(TypeError, match=r"checkpointed: a cell is .*layer\.unrolled_by\(bptt\.checkpointed\)\(xs\)"):
        bptt.checkpointed(nn.LSTM(D, H), xs)
    with pytest.raises(TypeError, match="give one step's inputs"):
        bptt.memory_plan(Own(), 5, 2)
    with pytest.raises(ValueError, match="T must be at least 1"):
        bptt.memory_plan(cell, 0, 2)


def test_checkpoints_within_checkpoints_are_refused() -> None:
    inner = nn.RNNCell(D, D, **F64)

    class Nested(Own):
        def step(self, z: Any, state: Any) -> Any:
            return super().step(bptt.checkpointed(inner, tg.stack([z] * 3)).outputs[-1], state)

    with pytest.raises(tg.GraphError, match="unroll that cell instead"):
        bptt.checkpointed(Nested(), np.ones((4, 2, D)))


def test_a_graph_that_waits_can_be_drawn_and_dropped() -> None:
    _, _, ours, _ = small(segments=5)
    loss = ours()
    assert "concatenate" in tg.draw(loss)
    gc.collect()
    del loss
    assert gc.collect() == 0


def test_on_a_device(device: Backend) -> None:
    cell = nn.Zoneout(nn.LSTMCell(D, H, backend=device.name), 0.3)
    xs = tg.ones(9, 2, D, backend=device.name, requires_grad=True)
    for options in ({}, {"budget": 2 * bptt.memory_plan(cell, 9, 2).smallest_budget}):
        bptt.checkpointed(
            cell, xs, **options
        ).outputs.sum().backward()  # with the masks of the first time, or it raises
    assert xs.grad is not None


def test_an_error_while_steps_are_run_again_is_not_put_on_a_rule() -> None:
    """Nor on that of the large weight whose gradient was merged before."""

    class Failing(nn.RNNCell):
        runs = 0

        def step(self, z: Any, state: Any) -> Any:
            self.runs += 1
            if self.runs > 8:
                raise ValueError("something of the cell's own")
            return super().step(z, state)

    with pytest.raises(tg.GraphError, match="something of the cell's own") as raised:
        bptt.checkpointed(Failing(2, 300), tg.randn(8, 16, 2), segments=4).outputs.sum().backward()
    assert "rule of" not in str(raised.value)


def test_an_attribute_that_is_a_type_of_numbers_takes_no_memory() -> None:
    @tg.op
    def recast(xp: Any, x: Any, *, dtype: Any) -> Any:
        return x.astype(dtype)

    recast.vjp(x=lambda g, x, dtype: g.astype(x.dtype))
    y = recast(tg.ones(3, requires_grad=True), dtype=np.float64)
    assert isinstance(y.node, tape.Node)
    assert [name for name, _ in y.node.arrays()] == ["x"]
    assert kept_bytes(y) > 0
