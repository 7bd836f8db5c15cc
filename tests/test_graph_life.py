"""What a graph holds: what is freed and when, copies, and refusal of what is gone or was overwritten."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import assert_equal, gradients, leaf, lstm_loss

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim, writes
from tinygrad_rnn.tape import GraphError

# ---- freeing ----


@contextmanager
def no_garbage() -> Iterator[None]:
    """What was made and dropped inside was freed by counting references: nothing is left for the cycle collector."""
    while gc.collect():  # what the tests before left, and what is left of that
        pass
    gc.disable()
    try:
        yield
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_dropping_a_graph_before_backward_leaves_no_cycle() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((6, 2, 3), np.float32)
    lstm_loss(cell, xs)  # makes the plans
    with no_garbage():
        loss = lstm_loss(cell, xs)
        del loss


def test_dropping_a_graph_after_backward_leaves_no_cycle() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((6, 2, 3), np.float32)
    lstm_loss(cell, xs).backward()
    with no_garbage():
        loss = lstm_loss(cell, xs)
        loss.backward(retain_graph=True)
        loss.backward()
        del loss
        cell.zero_grad()


def test_dropping_a_graph_of_gradients_leaves_no_cycle() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((6, 2, 3), np.float32)
    parameters = list(cell.parameters())

    def penalty() -> Tensor:
        return sum((g * g).sum() for g in tg.grad(lstm_loss(cell, xs), parameters, create_graph=True))

    tg.grad(penalty(), parameters)
    with no_garbage():
        first, second = penalty(), penalty()
        grads = tg.grad(second, parameters)
        del first, second, grads


def test_a_refused_backward_leaves_no_cycle() -> None:
    x = leaf(3)
    y = x.sin().sum()
    y.backward()
    with pytest.raises(GraphError):
        y.backward()
    with no_garbage():
        z = x.sin().sum()
        z.backward()
        with suppress(GraphError):
            z.backward()
        del z


def test_what_no_rule_names_is_freed_at_once() -> None:
    x = leaf(3)
    y = x * 2
    alive = weakref.ref(y.data)
    z = y.tanh()  # its rule names the output, not the input
    del y
    assert alive() is None
    z.sum().backward()


def test_backward_frees_what_it_passed() -> None:
    x = leaf(3)
    y = x.tanh()
    alive = weakref.ref(y.data)
    loss = y.sum()
    del y
    assert alive() is not None
    loss.backward()
    assert alive() is None


def test_retain_graph_keeps_what_was_saved() -> None:
    x = leaf(3)
    loss = x.tanh().sum()
    loss.backward(retain_graph=True)
    (once,) = gradients(x)
    loss.backward()
    assert_equal(gradients(x), [once])


# ---- a graph that is gone ----


def test_a_state_carried_past_its_backward_is_refused_with_the_cure() -> None:
    cell = nn.RNNCell(3, 4)
    xs = np.ones((5, 2, 3), np.float32)
    outputs, state = bptt.unroll(cell, xs)
    outputs.sum().backward()
    before = [p.grad.numpy() for p in cell.parameters() if p.grad is not None]
    outputs, state = bptt.unroll(cell, xs, state)
    with pytest.raises(GraphError) as caught:
        outputs.sum().backward()
    message = str(caught.value)
    assert "tanh#" in message  # the operation
    assert "[2, 4]" in message  # the tensor's shape
    assert "time step 4" in message
    assert "detach" in message
    assert "retain_graph=True" in message
    assert_equal(gradients(*cell.parameters()), before)


def test_a_second_backward_touches_no_gradient() -> None:
    """Also not of leaves that are met before the freed part of the graph."""
    x, late = leaf(3), leaf(3)
    shared = x.sin()
    (shared * 2).sum().backward()
    before = gradients(x)
    mixed = (shared * late).sum() + (late * late).sum()
    with pytest.raises(GraphError, match="sin#"):
        mixed.backward()
    assert late.grad is None
    assert x.grad is None
    assert before


def test_a_refused_backward_keeps_older_gradients_as_they_were() -> None:
    x = leaf(3)
    y = x.sin()
    y.sum().backward()
    kept, values = x.grad, x.grad.numpy()
    with pytest.raises(GraphError):
        (y.sum() + (x * x).sum()).backward()
    assert x.grad is kept
    assert_equal([x.grad.numpy()], [values])


def test_detached_windows_go_on_for_ever() -> None:
    cell, state = nn.LSTMCell(3, 4), None
    for _ in range(3):
        outputs, state = bptt.unroll(cell, np.ones((5, 2, 3), np.float32), state)
        outputs.sum().backward()
        state = bptt.detach(state)


# ---- arrays that were overwritten ----


def test_a_write_into_a_leaf_that_a_live_graph_saved_is_refused() -> None:
    w, v = leaf(3), leaf(3)
    y = (w * v).sum()
    with tg.no_grad():
        w.data -= 0.1
    with pytest.raises(GraphError, match=r"multiply#.*changed in place"):
        y.backward()
    assert w.grad is None
    assert v.grad is None


@pytest.mark.parametrize(
    "use",
    [lambda v, w: v + w, lambda v, w: w * 1.0, lambda v, w: tg.stack([v, w]), lambda v, w: tg.concatenate([v, w])],
    ids=["add", "scale", "stack", "concatenate"],
)
def test_a_write_into_a_leaf_whose_values_no_rule_needs_is_allowed(use: Callable[[Tensor, Tensor], Tensor]) -> None:
    v, w = leaf(3), leaf(3)
    y = use(v, w).sum()
    w.data -= 0.1
    y.backward()
    assert_equal(gradients(w), [np.ones(3)])


def test_a_look_at_the_numbers_is_no_write() -> None:
    w, v = leaf(3), leaf(3)
    y = (w * v).sum()
    assert w.data.sum() < 9
    assert y.data.shape == ()
    leaf(3).data = w.data
    y.backward(retain_graph=True)
    wide = tg.tensor(np.ones(3, np.longdouble)).reshape(3)
    assert wide.data.sum() == 3
    w.data[0] = 7.0
    with pytest.raises(GraphError, match=r"saved 'a', an array of shape \[3\] that was changed in place"):
        y.backward()
    (w * v).sum().backward()


def test_a_write_between_two_graphs_is_refused_by_the_older_one_alone() -> None:
    w = leaf(3)
    for write in (through_its_elements, through_itself):
        older = (w * w).sum()
        write(w)
        w.grad = None
        newer = (w * w).sum()
        w.data.sum()
        newer.backward()
        assert_equal(gradients(w), [2 * w.data])
        with pytest.raises(GraphError, match="changed in place"):
            older.backward()


def test_notes_of_arrays_do_not_pile_up() -> None:
    def write(x: Tensor) -> None:
        graph = x * x  # a write into what no graph has saved needs no note
        x.data -= 1
        del graph

    kept = leaf(3)
    write(kept)
    before = len(writes._lent), len(writes._writes)
    for _ in range(5):
        write(leaf(3))
        write(kept)
        assert leaf(3, 3)[0].data.shape == (3,)
    assert (len(writes._lent), len(writes._writes)) == before


def test_notes_of_rows_that_are_gone_do_not_pile_up_and_lose_no_write() -> None:
    w = leaf(2000, 2)
    y = w * w
    w[7].data[:] = 5.0
    for k in range(2000):
        assert w[k].data.shape == (2,)
    assert len(writes._lent) < 600
    with pytest.raises(GraphError, match="changed in place since"):
        y.sum().backward()


def test_a_write_before_the_graph_is_allowed() -> None:
    w = leaf(3)
    w.data -= 0.1
    (w * w).sum().backward()
    assert_equal(gradients(w), [2 * w.data])


def test_a_write_into_a_row_of_what_a_live_graph_saved_is_refused() -> None:
    w, v = leaf(3, 3), leaf(3, 3)
    y, row = (w * v).sum(), w.detach()[0]
    row.data[:] = 7.0
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


def test_a_new_array_leaves_the_older_graph_exact() -> None:
    w, v = leaf(3), leaf(3)
    old = w.numpy()
    y = (w * v).sum()
    w.data = w.data - 0.1
    y.backward()
    assert_equal(gradients(w, v), [v.data, old])


def through_an_alias(w: Tensor) -> None:
    alias = w.detach()
    alias.data -= 0.1


def through_itself(w: Tensor) -> None:
    w.data -= 0.1


def through_its_elements(w: Tensor) -> None:
    w.data[...] -= 0.1


def through_a_row(w: Tensor) -> None:
    w.data[0, 0] = 5.0


def through_a_view(w: Tensor) -> None:
    w.detach().data.T[0] = 5.0


def through_a_passing_view(w: Tensor) -> None:
    w.T.data[0] = 5.0
    w.data.sum()


def through_a_passing_row(w: Tensor) -> None:
    w[0].data[:] = 5.0


def through_an_exchange(w: Tensor) -> None:
    w.data[...] = w.data[::-1].copy()  # after which the same numbers are there


def through_numpy(w: Tensor) -> None:
    array = w.data
    tg.ones(2).data.sum()  # of no consequence
    np.copyto(array, 5.0)


@pytest.mark.parametrize(
    "write",
    [
        through_itself,
        through_an_alias,
        through_its_elements,
        through_a_row,
        through_a_view,
        through_numpy,
        through_a_passing_view,
        through_a_passing_row,
        through_an_exchange,
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda v, w: (v * w).sum(),
        lambda v, w: (v @ w.T).sum(),
        lambda v, w: (v * w.reshape(9).reshape(3, 3)).sum(),
        lambda v, w: (v * w[0]).sum(),
        lambda v, w: (v * w[:, ::-1]).sum(),
        lambda v, w: tg.einsum("ij,ij->", v, w),
        lambda v, w: tg.linear(v, w).sum(),
        lambda v, w: (tg.split(w, 3, axis=1)[0] * v).sum(),
        lambda v, w: (v.reshape(9, 1, 1) * w[0].broadcast_to(shape=(2, 3))).sum(),
        lambda v, w: tg.conv2d(w.reshape(1, 1, 3, 3), v[:2, :2].reshape(1, 1, 2, 2)).sum() + v.sum(),
    ],
    ids=["leaf", "transposed", "reshaped", "row", "flipped", "einsum", "linear", "split", "broadcast", "windows"],
)
@pytest.mark.parametrize("trainable", [True, False], ids=["leaf", "constant"])
def test_old_and_new_values_never_mix(
    use: Callable[[Tensor, Tensor], Tensor], write: Callable[[Tensor], None], trainable: bool
) -> None:
    """After a write through ``data`` backward raises or is exact, whichever view of the array the graph saved."""
    v, w = leaf(3, 3), leaf(3, 3)
    w.requires_grad = trainable
    use(v, w).backward()
    (expected,) = gradients(v)
    y = use(v, w)
    write(w)
    try:
        y.backward()
    except GraphError:
        assert v.grad is None
    else:
        np.testing.assert_allclose(gradients(v)[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "write",
    [lambda w: (w * 5.0).sum().backward(), lambda w: tg.clip_grad_norm_([w], 1e-3)],
    ids=["accumulation", "clipping"],
)
def test_a_gradient_that_a_graph_saved_is_not_changed(write: Callable[[Tensor], Any]) -> None:
    """``w * w.grad`` saves the gradient's array, which the next backward adds to and which clipping scales."""
    w = leaf(3)
    w.sin().sum().backward()
    slope = w.grad.numpy()
    penalty = (w * w.grad).sum()
    write(w)
    try:
        (g,) = tg.grad([penalty], [w])
    except GraphError:
        return
    assert_equal([g.numpy()], [slope])


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.RMSprop, optim.Adagrad, optim.AdamW])
def test_an_optimiser_step_inside_a_window_leaves_the_older_graph_exact(optimizer: Any) -> None:
    cell = nn.LSTMCell(3, 4, dtype="float64")
    xs = np.random.default_rng(2).standard_normal((6, 2, 3))
    opt = optimizer(cell.parameters(), lr=0.1)

    def losses() -> tuple[Tensor, Tensor]:
        outputs, _ = bptt.unroll(cell, xs)
        return outputs[:3].sum(), outputs.sum()

    start = cell.state_dict()
    early, late = losses()
    late.backward()
    expected = gradients(*cell.parameters())
    early, late = losses()
    early.backward(retain_graph=True)
    opt.step()
    assert any((cell.state_dict()[name] != start[name]).any() for name in start)
    opt.zero_grad()
    late.backward()
    assert_equal(gradients(*cell.parameters()), expected)


# ---- copies ----


def test_a_copy_of_a_leaf_is_a_leaf_of_its_own() -> None:
    """Two leaves must never share an id: their gradients would flow together, and both would be frozen."""
    w = leaf(3)
    for other in (copy.deepcopy(w), pickle.loads(pickle.dumps(w)), copy.copy(w)):
        (w * 2 + other * 5).sum().backward()
        assert_equal(gradients(w, other), [np.full(3, 2.0), np.full(3, 5.0)])
        other.requires_grad = False
        (w * 2).sum().backward()
        assert_equal(gradients(w), [np.full(3, 2.0)])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_result_keeps_its_history_or_is_refused(duplicate: Callable[[Tensor], Tensor]) -> None:
    w = leaf(3)
    y = w * 2
    try:
        other = duplicate(y)
    except GraphError:
        return
    other.sum().backward()
    assert_equal(gradients(w), [np.full(3, 2.0)])


# ---- arrays of the caller ----

USES: dict[str, Any] = {  # of a tensor, and of bare arrays: numbers, indices, and a mask
    "product": lambda x, a, i, m: x * a,
    "matmul": lambda x, a, i, m: a @ x.T,
    "layer": lambda x, a, i, m: nn.LSTM(3, 3)(a[None]).outputs * x,
    "where": lambda x, a, i, m: tg.where(m, x, 0),
    "einsum": lambda x, a, i, m: tg.einsum("ij,ij->i", x, a),
    "mse": lambda x, a, i, m: nn.mse_loss(x, a, mask=m),
    "bce": lambda x, a, i, m: nn.binary_cross_entropy_with_logits(x, a, mask=m),
    "cross entropy": lambda x, a, i, m: nn.cross_entropy(x, i, weight=a[0]),
    "rows": lambda x, a, i, m: x[i],
    "pairs": lambda x, a, i, m: x[i, i],
    "picked": lambda x, a, i, m: x[m],
    "embedding": lambda x, a, i, m: tg.embedding(i, x),
}


@pytest.mark.parametrize("kind", [np.ndarray, np.memmap])
@pytest.mark.parametrize("name", USES)
def test_a_buffer_may_be_filled_anew_before_backward(name: str, kind: Any) -> None:
    """As in a loop over a stream: graphs hold what was in it when it was used."""
    x = tg.tensor(np.arange(12, dtype=np.float32).reshape(4, 3) / 12, requires_grad=True)

    def gradient(then: int | None) -> np.ndarray:
        tg.manual_seed(0)
        numbers = np.random.default_rng(0).random((4, 3), dtype=np.float32)
        buffers = [x.view(kind) for x in (numbers, np.array([0, 2, 1, 0]), numbers > 0.5)]
        loss = USES[name](x, *buffers).sum()
        for buffer in buffers if then is not None else ():
            buffer.fill(then)
        return tg.grad(loss, x).numpy()

    for then in (0, 1):
        np.testing.assert_array_equal(gradient(then), gradient(None))


def test_a_large_array_that_stays_the_same_is_copied_once() -> None:
    matrix, h = np.eye(200, dtype=np.float32), tg.ones(2, 200, requires_grad=True)
    uses = [h @ matrix for _ in range(3)]
    matrix *= 2
    uses += [h @ matrix for _ in range(3)]
    assert len({id(y.node.saved["b"]) for y in uses if isinstance(y.node, tg.tape.Node)}) == 2
    assert tg.grad(sum(y.sum() for y in uses), h)[0, 0].item() == 3 * 1 + 3 * 2


def test_copies_keep_the_order_of_the_memory_and_every_bit() -> None:
    x = tg.ones(2, 200, requires_grad=True)
    turned, special = np.ones((200, 200), np.float32).T, np.zeros((200, 200), np.float32)
    special[0, 0] = np.nan

    def kept(array: np.ndarray) -> Any:
        node = (x @ array).node
        assert isinstance(node, tg.tape.Node)
        return node.saved["b"]

    assert kept(turned).strides == turned.strides
    first = kept(special)
    assert kept(special) is first  # NaN equals itself here
    special[1, 1] = -0.0
    assert np.signbit(kept(special)[1, 1])
    wide = np.ones((200, 200), np.longdouble)  # no integers are as wide, so its bits are not compared
    assert kept(wide).tolist() == kept(wide).tolist() == wide.tolist()


def test_a_matrix_is_an_array_like_others() -> None:
    """NumPy's own ``matrix`` multiplies as matrices do; in a rule that would be wrong."""
    x = tg.ones(2, 2, requires_grad=True)
    assert tg.grad((x * np.array([[1, 2], [3, 4]]).view(np.matrix)).sum(), x).tolist() == [[1, 2], [3, 4]]


ROUNDS = """
import resource
import numpy as np
import tinygrad_rnn

for _ in range(3):  # arrays as large as those of all time steps may be
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1_250_000, np.float32) for _ in range(8)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules for freed memory")
def test_a_step_gets_the_memory_that_the_one_before_freed() -> None:
    """Else the system takes it back, and each of its pages costs a fault."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    root = Path(tg.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", ROUNDS], capture_output=True, text=True, cwd=root, env=environment)
    assert int(ran.stdout) < 1000, ran.stderr
