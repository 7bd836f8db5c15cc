"""Where the gradient goes: each measurement against a computation by hand, PyTorch, or what is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict
from closeness import close, drawn

import tinygrad_rnn as tg
from tinygrad_rnn import GraphError, Tensor, bptt, flow, nn

T, B, F, H = 6, 3, 2, 4
XS = drawn(T, B, F)


def rnn(scale: float = 1.0) -> nn.RNNCell:
    cell = nn.RNNCell(F, H, dtype="float64")
    cell.weight_hh.data = scale * drawn(H, H)
    return cell


def tanh_run(cell: nn.RNNCell) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States h_0, ..., h_T and the Jacobians of each row, J_t = diag(1 - h_t^2) W, by hand."""
    w, u, b = cell.weight_hh.numpy(), cell.weight_ih.numpy(), cell.bias.numpy()
    hs = [np.zeros((B, H))]
    for x in XS:
        hs.append(np.tanh(hs[-1] @ w.T + x @ u.T + b))
    return hs, [(1 - h * h)[:, :, None] * w for h in hs[1:]]


def kept(cell: Any, xs: Any = XS) -> tuple[list[Any], Any]:
    """The states after each step, and the last output."""
    state, states, output = None, [], None
    for x in xs:
        output, state = cell(x, state)
        states.append(state)
    return states, output


# ---- gradient norms ----


def test_gradient_norms_of_a_tanh_network_are_those_by_hand() -> None:
    cell = rnn()
    states, output = kept(cell)
    found = flow.gradient_norms((output**2).sum(), states).norms["h"]
    hs, jacobians = tanh_run(cell)
    g, expected = 2 * hs[-1], []
    for t in reversed(range(T)):
        expected.append(np.sqrt((g * g).sum()))
        g = np.einsum("bij,bi->bj", jacobians[t], g)
    close(found, np.array(expected[::-1]))


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_kept_states_and_a_record_give_the_same_norms(cell: Any) -> None:
    made = cell(F, H, dtype="float64")
    states, output = kept(made)
    run = bptt.unroll(made, XS, record=True)
    by_hand, by_record = (
        flow.gradient_norms((y**2).sum(), s).norms for y, s in ((output, states), (run.outputs[-1], run))
    )
    assert by_hand.keys() == by_record.keys() == ({"h", "c"} if cell is nn.LSTMCell else {"h"})
    for name, values in by_hand.items():
        close(by_record[name], values)
        assert (values > 0).all()


def test_gradient_norms_are_an_array_over_time() -> None:
    run = nn.unroll(nn.LSTMCell(2, 3), np.ones((6, 1, 2), np.float32), record=True)
    found = flow.gradient_norms(run.outputs[-1].sum(), run)
    assert len(found) == 6
    assert max(found) == np.asarray(found).max()
    np.testing.assert_allclose(np.asarray(found) ** 2, found.norms["h"] ** 2 + found.norms["c"] ** 2)
    hs = [tg.ones(2, requires_grad=True)]
    hs.append(hs[0] * 3)
    assert list(flow.gradient_norms(hs[1].sum(), hs)) == pytest.approx([18**0.5, 2**0.5])


def test_kept_gradients_are_those_of_the_states() -> None:
    cell = nn.LSTMCell(F, H, dtype="float64")
    states, output = kept(cell)
    loss = (output**3).sum()
    expected = {name: tg.grad(loss, [getattr(s, name) for s in states], retain_graph=True) for name in "hc"}
    run = bptt.unroll(cell, XS, record=True)
    found = flow.gradient_norms((run.outputs[-1] ** 3).sum(), run, keep=True)
    for name, gradients in expected.items():
        close(found.gradients[name], np.stack([g.numpy() for g in gradients]))
    early = flow.gradient_norms(run.outputs[1].sum(), run, keep=True).gradients
    assert early["h"].shape == (T, B, H)
    assert not early["h"][2:].any()
    assert flow.gradient_norms(run.outputs.sum(), run).gradients is None


def test_norms_show_themselves_in_a_line_for_each_state() -> None:
    cell = nn.RNNCell(1, 2, bias=False, dtype="float64", nonlinearity=lambda a: a)
    cell.weight_hh.data = 0.05 * np.eye(2)
    run = bptt.unroll(cell, np.zeros((9, 1, 1)), record=True)
    title, row = repr(flow.gradient_norms(3 * run.outputs[-1].sum(), run)).splitlines()
    assert title == "GradientNorms of 9 steps, a shade for each power of ten"
    assert row == "h |  :-=*#%@| 1.7e-10 to 4.2"
    run = bptt.unroll(cell, np.zeros((500, 1, 1)), record=True)
    assert repr(flow.gradient_norms(run.outputs[:250].sum(), run)).count("@") == 36  # of 72


def test_a_part_of_the_state_that_the_cell_detaches_is_left_out() -> None:
    class Stabilised(nn.RNNCell):
        def step(self, z: Any, state: Any) -> Any:
            h, m = state
            output, h = super().step(z, h)
            return output, (h, (m + abs(z).max()).detach())

        def initial_state(self, z: Any) -> Any:
            return super().initial_state(z), super().initial_state(z)

    run = bptt.unroll(Stabilised(F, H, dtype="float64"), XS, record=True)
    assert set(run.record) == {"0", "1"}
    assert set(flow.gradient_norms(run.outputs.sum(), run).norms) == {"0"}
    with tg.no_grad():
        run = bptt.unroll(nn.LSTMCell(F, H, dtype="float64"), XS, record=True)
    with pytest.raises(GraphError, match="'h' is a constant: no weight, input or state behind it requires a gradient"):
        flow.gradient_norms(tg.ones((), requires_grad=True) * 1, run)


def test_gradient_norms_equal_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = nn.LSTMCell(F, H, dtype="float64"), torch.nn.LSTMCell(F, H, dtype=torch.float64)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in nn.torch_state_dict(ours).items()}, strict=False)
    state, states, loss = None, [], 0.0
    for x in torch.tensor(XS):
        state = theirs(x, state)
        for leaf in state:
            leaf.retain_grad()
        states.append(state)
        loss = loss + (state[0] ** 3).sum()
    loss.backward()
    run = bptt.unroll(ours, XS, record=True)
    found = flow.gradient_norms((run.outputs**3).sum(), run)
    for k, name in enumerate("hc"):
        close(found.norms[name], np.array([s[k].grad.norm().item() for s in states]))


def cubes(outputs: Any) -> Any:
    return (outputs**3).sum()


@pytest.mark.parametrize("make", [nn.LSTMCell, nn.GRUCell, nn.CoupledLSTMCell, nn.MGUCell, nn.RHNCell, nn.RNNCell])
def test_both_parts_of_the_gradient_are_all_of_it(make: Any) -> None:
    cell = make(F, H, dtype="float64")
    found = flow.gradient_paths(cubes, cell, XS)
    run = bptt.unroll(cell, XS, record=True)
    expected = flow.gradient_norms(cubes(run.outputs), run, keep=True).gradients
    assert found.state == ("c" if "c" in expected else "h")
    close(found.direct + found.recurrent, expected[found.state])
    close(found.norms["total"], flow.gradient_norms(cubes(run.outputs), run).norms[found.state])
    assert not found.recurrent[-1].any()


@pytest.mark.parametrize(("make", "gate"), [(nn.LSTMCell, "f"), (nn.CoupledLSTMCell, "f"), (nn.GRUCell, "z")])
def test_the_direct_part_is_multiplied_by_one_gate_in_each_step(make: Any, gate: str) -> None:
    cell = make(F, H, dtype="float64")
    run = bptt.unroll(cell, XS, record=True)
    open_gates = run.record[gate].numpy()
    last = flow.gradient_paths(lambda outputs: cubes(outputs[-1]), cell, XS)
    for t in range(T):
        close(last.direct[t], open_gates[t + 1 :].prod(axis=0) * last.direct[-1])
    every = flow.gradient_paths(cubes, cell, XS).direct
    h = run.outputs.numpy()
    own = 3 * h**2  # of the output of each step
    if "c" in run.record:
        own *= run.record["o"].numpy() * (1 - np.tanh(run.record["c"].numpy()) ** 2)
    carried = np.zeros((B, H))
    for t in reversed(range(T)):
        carried = own[t] + (open_gates[t + 1] * carried if t + 1 < T else 0)
        close(every[t], carried)


def test_a_simple_network_has_no_direct_path_and_a_leaky_one_has_its_leak() -> None:
    assert not flow.gradient_paths(lambda outputs: cubes(outputs[-1]), nn.RNNCell(F, H), XS).direct[:-1].any()
    leaky = nn.LeakyRNNCell(F, H, leak=0.25, dtype="float64")
    found = flow.gradient_paths(lambda outputs: cubes(outputs[-1]), leaky, XS)
    close(found.direct[:-1], 0.75 * found.direct[1:])
    assert repr(found).startswith(f"GradientPaths to h of {T} steps, a shade for each power of ten\ndirect    |")


def test_the_direct_part_equals_that_of_pytorch_without_gates() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = nn.LSTMCell(F, H, dtype="float64"), torch.nn.LSTMCell(F, H, dtype=torch.float64)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in nn.torch_state_dict(ours).items()}, strict=False)
    for cut in (True, False):
        h = c = torch.zeros(B, H, dtype=torch.float64)
        states, loss = [], 0.0
        for x in torch.tensor(XS):
            h, c = theirs(x, (h.detach() if cut else h, c))
            c.retain_grad()
            states.append(c)
            loss = loss + (h**3).sum()
        loss.backward()
        found = flow.gradient_paths(cubes, ours, XS)
        close(found.direct if cut else found.direct + found.recurrent, np.stack([s.grad.numpy() for s in states]))


def test_paths_are_those_of_a_cell_that_has_recurrent_weights() -> None:
    with pytest.raises(TypeError, match="gradient_paths: a cell with weights of its own is needed, not a Zoneout"):
        flow.gradient_paths(cubes, nn.Zoneout(nn.GRUCell(F, H)), XS)
    with pytest.raises(
        TypeError, match=r"gradient_paths: a cell is .* GRU\(2, 4\) is none; .* its cell is layer\.cell"
    ):
        flow.gradient_paths(cubes, nn.GRU(F, H), XS)

    class Spelled(nn.RNNCell):
        def full_step(self, z: Any, state: Any) -> Any:
            h = tg.tanh(tg.linear(state, self.weight_hh, z))
            return h, h, {}

    with pytest.raises(TypeError, match=r"the step of Spelled makes no use of self\.recur.*write self\.recur\(h, z\)"):
        flow.gradient_paths(cubes, Spelled(F, H, dtype="float64"), XS)

    class Nameless(nn.RNNCell):
        def full_step(self, z: Any, state: Any) -> Any:
            h, _, gates = super().full_step(z, state[0])
            return h, (h, h), gates

        def initial_state(self, z: Any) -> Any:
            return super().initial_state(z), super().initial_state(z)

    with pytest.raises(TypeError, match="gradient_paths: a state c or h is needed, a field of a NamedTuple, not 0, 1"):
        flow.gradient_paths(cubes, Nameless(F, H, dtype="float64"), XS)


def test_measuring_disturbs_nothing() -> None:
    cell = rnn()
    run = bptt.unroll(cell, XS, record=True)
    loss = (run.outputs**2).mean()
    flow.gradient_norms(loss, run)
    flow.omega(loss, run)
    flow.omega(loss, run, immediate=[cell.weight_hh])
    assert all(p.grad is None for p in cell.parameters())
    loss.backward()
    again = (bptt.unroll(cell, XS).outputs ** 2).mean()
    for g, p in zip(tg.grad(again, list(cell.parameters())), cell.parameters(), strict=True):
        close(p.grad, g.numpy())


def test_states_behind_the_loss_have_norm_0_and_vanished_ones_are_measured() -> None:
    run = bptt.unroll(rnn(), XS, record=True)
    found = flow.gradient_norms(run.outputs[2].sum(), run).norms["h"]
    assert (found[:3] > 0).all()
    assert found[3:].tolist() == [0, 0, 0]
    x = tg.full((3,), 1e-20, requires_grad=True)
    close(flow.gradient_norms((x * 1e-25).sum(), [x * 1.0, x]).norms["h"][1] * 1e25, np.float64(3**0.5), 1e-5)
    with pytest.warns(UserWarning, match="no gradient reaches any of the states; slices of stacked outputs are new"):
        assert flow.gradient_norms((x * 2).sum(), [x * 1.0]).norms["h"].tolist() == [0]


@pytest.mark.parametrize("wrap", [nn.SkipThroughTime, lambda cell: nn.VariationalDropout(cell, 0.2, 0.2, 0.2)])
def test_the_cells_own_state_is_measured_within_wrappers(wrap: Any) -> None:
    run = bptt.unroll(wrap(nn.LSTMCell(F, H)), XS.astype(np.float32), record=True)
    assert set(flow.gradient_norms(run.outputs.sum(), run).norms) == {"h", "c"}
    assert flow.omega(run.outputs.sum(), run).shape == ()


def test_layers_record_each_by_itself() -> None:
    run = nn.LSTM(F, H, bidirectional=True)(XS.astype(np.float32), record=True)
    with pytest.raises(TypeError, match=r"run.record\[0\]"):
        flow.gradient_norms(run.outputs.sum(), run)
    with pytest.raises(TypeError, match="directions, each have a record"):
        flow.gradient_norms(run.outputs.sum(), run.record[0])
    assert set(flow.gradient_norms(run.outputs.sum(), run.record[0][1]).norms) >= {"h", "c"}


def test_gates_and_masked_sequences_have_norms_too() -> None:
    cell = nn.LSTMCell(F, H)
    run = bptt.unroll(cell, XS.astype(np.float32), record=True)
    assert flow.gradient_norms(run.outputs.sum(), {"f": run.record["f"]}).norms["f"][0] == 0  # c_0 is 0
    mask = np.arange(T)[:, None] < np.array([T, 2, 4])
    run = bptt.unroll(cell, XS.astype(np.float32), mask=mask, record=True)
    assert (flow.gradient_norms(run.outputs.sum(), run).norms["c"][:-1] > 0).all()
    assert (flow.gradient_norms(run.state.h.sum(), run).norms["c"] > 0).sum() == T - 1  # c_T itself goes nowhere
    short = bptt.unroll(cell, XS[:2, 1:2].astype(np.float32), record=True)  # the row that ends after two steps
    masked, alone = (
        flow.gradient_norms(r.outputs[:, row].sum(), {"i": r.record["i"]}).norms["i"]
        for r, row in ((run, 1), (short, 0))
    )
    close(masked, np.append(alone, np.zeros(T - 2)), 1e-6)


@pytest.mark.parametrize(
    ("states", "error", "words"),
    [
        (lambda run: [], TypeError, "not an empty one"),
        (lambda run: run.state, TypeError, "not a LSTMState"),
        (lambda run: run.record["h"], TypeError, "not a Tensor"),
        (
            lambda run: [run.state, bptt.detach(run.state)],
            GraphError,
            "the state h of step 1 of the list is a constant",
        ),
        (lambda run: {"h": run.record["h"] * 1.0}, GraphError, "'h' is no stack of states with history"),
    ],
)
def test_states_that_tell_nothing_are_refused(states: Callable[[Any], Any], error: Any, words: str) -> None:
    run = bptt.unroll(nn.LSTMCell(F, H), XS.astype(np.float32), record=True)
    with pytest.raises(error, match=words):
        flow.gradient_norms(run.outputs.sum(), states(run))


# ---- Jacobians ----


def test_jacobians_of_a_tanh_network_are_those_by_hand() -> None:
    cell = rnn()
    found = flow.jacobian_spectrum(cell, XS)
    expected = np.stack(tanh_run(cell)[1])
    close(found.jacobians, expected)
    close(found.singular_values, np.linalg.svd(expected)[1])
    close(found.spectral_radius, abs(np.linalg.eigvals(expected)).max(-1))
    whole = np.tile(np.eye(H), (B, 1, 1))
    for s in reversed(range(T)):
        whole = whole @ expected[s]
        close(found.product(T, s), whole)
        close(found.product_singular_values[s], np.linalg.svd(whole)[1])
    close(found.product(4, 1), expected[3] @ expected[2] @ expected[1])
    close(found.product(2, 2), np.tile(np.eye(H), (B, 1, 1)))
    for t, s in ((T + 1, 0), (1, 2), (2, -1)):
        with pytest.raises(ValueError, match="product: 0 <= s <= t <= 6"):
            found.product(t, s)


CELLS: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: nn.LSTMCell(F, H, dtype="float64"),
    "LSTM with projection": lambda: nn.LSTMCell(F, H, dtype="float64", proj_size=2),
    "GRU": lambda: nn.GRUCell(F, H, dtype="float64"),
    "skips": lambda: nn.SkipThroughTime(nn.RNNCell(F, H, dtype="float64"), taps=(-1, -3)),
    "residual": lambda: nn.Residual(nn.GRUCell(F, F, dtype="float64")),
}


@pytest.mark.parametrize("name", CELLS)
def test_jacobians_of_any_cell_equal_finite_differences(name: str) -> None:
    cell = CELLS[name]().eval()
    found = flow.jacobian_spectrum(cell, XS).jacobians
    with tg.no_grad():
        _, state = bptt.unroll(cell, XS[:3])
        leaves = tg.backend and nn.states.named(state)
        flat = np.concatenate([leaf.numpy().reshape(B, -1) for leaf in leaves.values()], axis=1)

        def after(vector: np.ndarray) -> np.ndarray:
            ends = np.cumsum([leaf.size // B for leaf in leaves.values()])[:-1]
            parts = iter(np.split(vector, ends, axis=1))
            moved = tg.tree.tree_map(lambda leaf: tg.tensor(next(parts).reshape(leaf.shape)), state)
            _, new = cell(XS[3], moved)
            return np.concatenate([leaf.numpy().reshape(B, -1) for leaf in nn.states.named(new).values()], axis=1)

        n, step = flat.shape[1], 1e-6
        for j in range(n):
            nudge = step * np.eye(n)[j]
            close(found[3][:, :, j], (after(flat + nudge) - after(flat - nudge)) / (2 * step), 1e-7)


def test_jacobians_start_from_a_given_state_and_from_one_sequence_without_a_batch() -> None:
    cell = nn.LSTMCell(F, H, dtype="float64")
    whole = flow.jacobian_spectrum(cell, XS).jacobians
    _, state = bptt.unroll(cell, XS[:2])
    close(flow.jacobian_spectrum(cell, XS[2:], state).jacobians, whole[2:])
    close(flow.jacobian_spectrum(cell, XS[:, 0]).jacobians, whole[:, :1])
    _, state_of_one = bptt.unroll(cell, XS[:2, 0])
    close(flow.jacobian_spectrum(cell, XS[2:, 0], state_of_one).jacobians, whole[2:, :1])
    with pytest.raises(tg.ShapeError, match="state"):
        flow.jacobian_spectrum(cell, XS[:, :2], state)


def test_steps_that_draw_random_numbers_have_no_jacobian() -> None:
    cell = nn.Zoneout(nn.RNNCell(F, H), 0.5)
    for measure in (flow.jacobian_spectrum, flow.lyapunov_exponents):
        with pytest.raises(ValueError, match=r"step 0 gave different states .* random numbers; call cell.eval\(\)"):
            measure(cell, XS.astype(np.float32))
    assert flow.jacobian_spectrum(cell.eval(), XS.astype(np.float32)).jacobians.shape == (T, B, H, H)


def test_measurements_on_a_device_equal_those_on_the_host() -> None:
    with strict.registered():
        cell = nn.LSTMCell(F, H, dtype="float64")
        there = nn.LSTMCell(F, H, dtype="float64", backend="strict")
        there.load_state_dict(cell.state_dict())
        found = []
        for made, xs in ((cell, XS), (there, tg.tensor(XS, backend="strict"))):
            run = bptt.unroll(made, xs, record=True)
            loss = (run.outputs**2).sum()
            before = strict.tally.host_copies
            penalty = flow.omega(loss, run)
            immediate = flow.omega(loss, run, immediate=[made.weight_hh])
            (loss + penalty + immediate).backward(retain_graph=True)
            assert strict.tally.host_copies == before
            norms = flow.gradient_norms(loss, run).norms
            assert strict.tally.host_copies - before <= 1
            kept = flow.gradient_norms(loss, run, keep=True).gradients
            assert kept is not None
            shares = flow.saturation(run, gates=["f"], edge=0.45)
            found.append(
                [
                    *norms.values(),
                    *kept.values(),
                    penalty,
                    immediate,
                    made.weight_hh.grad,
                    shares.left["f"],
                    shares.right["f"],
                ]
            )
            found[-1] += flow.jacobian_spectrum(made, xs)[:3]
        for x, y in zip(*found, strict=True):
            close(x, y.numpy() if isinstance(y, Tensor) else y)


# ---- Lyapunov exponents ----


class Map:
    """A cell that is a function of its state alone."""

    input_size = None

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def input_projection(self, x: Any) -> Any:
        return x

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        after = self.function(state)
        return after, after


def still(steps: int, rows: int) -> np.ndarray:
    return np.zeros((steps, rows, 1))


@pytest.mark.parametrize(
    ("rate", "exponent"), [(4.0, np.log(2)), (2.0, -np.inf), (3.2, np.log(abs(4 + 6.4 - 3.2**2)) / 2)]
)
def test_the_logistic_map_has_its_known_exponent(rate: float, exponent: float) -> None:
    """ln 2 at r = 4; at r = 3.2 a cycle of two, whose multiplier is 4 + 2r - r^2; at r = 2 a superstable point."""
    start = tg.tensor(np.array([[0.3]] if rate == 2 else np.linspace(0.1, 0.4, 20)[:, None]))
    found = flow.lyapunov_exponents(Map(lambda h: rate * h * (1 - h)), still(600, len(start)), start, warmup=200)
    if np.isinf(exponent):
        assert found.exponents < -10
    else:
        assert found.exponents.mean() == pytest.approx(exponent, abs=3e-3)
    assert found.over_time.shape == (400, len(start), 1)


def test_a_tanh_map_at_its_fixed_point() -> None:
    """h = tanh(2 h) has the exponent log(2 (1 - h*^2))."""
    point = 0.9
    for _ in range(200):
        point = np.tanh(2 * point)
    found = flow.lyapunov_exponents(
        Map(lambda h: tg.tanh(2.0 * h)), still(100, 1), tg.tensor(np.array([[0.5]])), warmup=60
    )
    close(found.exponents, np.array([[np.log(2 * (1 - point**2))]]))


def linear(w: np.ndarray) -> Map:
    return Map(lambda h: tg.linear(h, tg.tensor(w)))


def test_a_linear_network_has_the_logarithms_of_its_eigenvalues() -> None:
    w = drawn(4, 4) @ np.diag([2.0, 1.0, 0.5, 0.1]) @ np.linalg.inv(drawn(4, 4))
    found = flow.lyapunov_exponents(linear(w), still(400, 2), tg.zeros(2, 4, dtype="float64"), warmup=200)
    close(found.exponents, np.tile(np.log([2.0, 1.0, 0.5, 0.1]), (2, 1)), 1e-9)
    normal = np.linalg.qr(drawn(3, 3))[0] * 1.5  # a multiple of a rotation: all singular values are 1.5 in each step
    found = flow.lyapunov_exponents(linear(normal), still(5, 1), tg.zeros(1, 3, dtype="float64"))
    close(found.over_time, np.full((5, 1, 3), np.log(1.5)))
    symmetric = normal @ np.diag([3.0, 1.0, 0.2]) @ normal.T / 2.25
    found = flow.lyapunov_exponents(
        linear(symmetric), still(200, 1), tg.zeros(1, 3, dtype="float64"), count=2, warmup=99
    )
    close(found.exponents, np.log(np.linalg.svd(symmetric)[1][None, :2]), 1e-8)


def test_exponents_of_a_network_are_those_of_its_products() -> None:
    """Over a short time, the exponents' sum is the mean of log |det J|, whatever the directions."""
    cell = rnn(2.0)
    found = flow.lyapunov_exponents(cell, XS).exponents.sum(axis=1)
    close(found, np.mean([np.log(abs(np.linalg.det(j))) for j in tanh_run(cell)[1]], axis=0))
    lost = flow.lyapunov_exponents(linear(np.diag([1.0, 0.0])), still(5, 1), tg.zeros(1, 2, dtype="float64"))
    assert lost.exponents[0, 1] == -np.inf


@pytest.mark.parametrize(("options", "words"), [({"count": 5}, "from 1 to 4, not 5"), ({"warmup": 6}, "cannot be 6")])
def test_counts_and_warmups_that_do_not_fit_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        flow.lyapunov_exponents(rnn(), XS, **options)


# ---- saturation ----


def test_saturation_counts_what_a_loop_counts() -> None:
    cell = nn.LSTMCell(F, H, dtype="float64")
    cell.weight_ih.data = 6 * drawn(4 * H, F)
    run = bptt.unroll(cell, XS, record=True)
    mask = np.arange(T)[:, None] < np.array([5, 2, 4])
    for real in (None, mask):
        found = flow.saturation(run, gates=["i", "f", "o"], edge=0.1, mask=real)
        for name in ("i", "f", "o"):
            gate, rows = run.record[name].numpy(), np.ones((T, B), bool) if real is None else real
            for t in range(T):
                for unit in range(H):
                    values = [gate[t, b, unit] for b in range(B) if rows[t, b]]
                    for share, hits in (
                        (found.left, [v < 0.1 for v in values]),
                        (found.right, [v > 0.9 for v in values]),
                    ):
                        expected = sum(hits) / len(hits) if hits else np.nan
                        np.testing.assert_allclose(share[name][t, unit], expected)
        close(found.by_step()["f"][0][:5], found.left["f"].mean(axis=1)[:5])
        counted = run.record["f"].numpy()[np.ones((T, B), bool) if real is None else real]
        close(found.by_unit()["f"][1], (counted > 0.9).mean(axis=0))
    assert set(flow.saturation(run).left) >= {"i", "f", "o"}
    assert "c" not in flow.saturation(run).left
    assert flow.saturation(run).right["i"].max() > 0


def test_saturation_of_one_sequence_is_that_of_a_batch_of_one() -> None:
    cell = nn.LSTMCell(F, H)
    cell.weight_ih.data = 6 * drawn(4 * H, F).astype(np.float32)
    one, batch = (bptt.unroll(cell, xs.astype(np.float32), record=True) for xs in (XS[:, 0], XS[:, :1]))
    found, expected = flow.saturation(one), flow.saturation(batch)
    assert found.left["f"].any()
    np.testing.assert_array_equal(found.rows, expected.rows)
    for name, left in expected.left.items():
        np.testing.assert_array_equal(found.left[name], left)


def test_saturation_of_nothing_is_refused() -> None:
    run = bptt.unroll(rnn(), XS, record=True)
    with pytest.raises(ValueError, match="no record of values within 0 and 1; there are h"):
        flow.saturation(run)
    with pytest.raises(ValueError, match="no record of f"):
        flow.saturation(run, gates=["f"])
    with pytest.raises(
        ValueError, match=r"saturation: the values of h are not all in \[0, 1\], as those of a gate are"
    ):
        flow.saturation(run, gates=["h"])
    with pytest.raises(ValueError, match="edge"):
        flow.saturation(run, edge=0.5)


# ---- omega ----


def omega_by_hand(jacobians: list[np.ndarray], vs: list[np.ndarray]) -> float:
    """The sum over the steps back from h_{t+1} to h_t, t from 1, of the rows' mean."""
    total = 0.0
    for j, v in zip(jacobians[1:], vs[1:], strict=True):
        sent = np.einsum("bij,bi->bj", j, v)
        total += np.mean((np.linalg.norm(sent, axis=1) / np.linalg.norm(v, axis=1) - 1) ** 2)
    return total


def vectors(jacobians: list[np.ndarray], last: np.ndarray) -> list[np.ndarray]:
    """dE/dh_t for all t from 1, for a loss of the last state."""
    vs = [last]
    for j in reversed(jacobians[1:]):
        vs.append(np.einsum("bij,bi->bj", j, vs[-1]))
    return vs[::-1]


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_omega_and_its_derivatives_by_hand(scale: float) -> None:
    cell = rnn(scale)
    hs, jacobians = tanh_run(cell)
    vs = vectors(jacobians, 2 * hs[-1])
    runs = bptt.unroll(cell, XS, record=True), kept(cell)[0]
    losses = (runs[0].outputs[-1] ** 2).sum(), (runs[1][-1] ** 2).sum()
    for loss, states in zip(losses, runs, strict=True):
        whole = flow.omega(loss, states)
        immediate = flow.omega(loss, states, immediate=[cell.weight_hh])
        assert whole.item() == pytest.approx(omega_by_hand(jacobians, vs))
        assert immediate.item() == pytest.approx(whole.item())
        slopes = tg.grad(whole, list(cell.parameters()), retain_graph=True)
        (slope,) = tg.grad([immediate], [cell.weight_hh], retain_graph=True)
        assert tg.grad(immediate, cell.bias, allow_unused=True) is None

        def moved() -> float:  # dE/dh is a constant, all else moves
            return omega_by_hand(tanh_run(cell)[1], vs)

        for p, g in zip(cell.parameters(), slopes, strict=True):
            close(g, finite_difference(p, moved), 1e-6)

        def held() -> float:  # h_t is a constant too: the recurrent weights act in the last step alone
            w, u, b = cell.weight_hh.numpy(), cell.weight_ih.numpy(), cell.bias.numpy()
            after = [np.tanh(h @ w.T + x @ u.T + b) for h, x in zip(hs, XS, strict=False)]
            return omega_by_hand([(1 - h * h)[:, :, None] * w for h in after], vs)

        close(slope, finite_difference(cell.weight_hh, held), 1e-6)


def finite_difference(p: Tensor, function: Callable[[], float], step: float = 1e-5) -> np.ndarray:
    start, slope = p.numpy(), np.zeros(p.shape)
    for place in np.ndindex(*p.shape):
        values = []
        for sign in (1, -1):
            p.data = start.copy()
            p.data[place] += sign * step
            values.append(function())
        slope[place] = (values[0] - values[1]) / (2 * step)
    p.data = start
    return slope


def test_omega_of_an_lstm_takes_its_state_as_one_vector() -> None:
    """It sees the Jacobian of (h, c), in which what c sends by way of h is h's own."""
    cell = nn.LSTMCell(F, H, dtype="float64")
    run = bptt.unroll(cell, XS, record=True)
    loss = (run.outputs[-1] ** 2).sum() + run.state.c.sum()
    jacobians = list(flow.jacobian_spectrum(cell, XS).jacobians)
    last = np.concatenate([2 * run.state.h.numpy(), np.ones((B, H))], axis=1)
    expected = omega_by_hand(jacobians, vectors(jacobians, last))
    assert flow.omega(loss, run).item() == pytest.approx(expected)


def test_a_step_that_keeps_the_length_costs_nothing_and_one_without_gradient_counts_0() -> None:
    turn = tg.tensor(np.linalg.qr(drawn(4, 4))[0], requires_grad=True)
    h = tg.tensor(drawn(2, 4), requires_grad=True)
    states = [h, tg.linear(h, turn)]
    states.append(tg.linear(states[1], turn))
    found = flow.omega((states[2][0] * 1e-200).sum(), states)  # only of the first row, and nearly vanished
    assert found.item() == pytest.approx(0.0, abs=1e-20)
    assert flow.omega((states[2][0] * 1e-200).sum(), [states[0], states[1] * 1.0]).item() == 0.0
    doubled = [h, h * 2.0, h * 3.0]
    assert flow.omega(doubled[1].sum(), doubled[:2]).item() == 1.0
    zeroed = [h, (h * 0.0) * turn.sum()]
    penalty = flow.omega(zeroed[1].sum(), zeroed)
    assert penalty.item() == 1.0
    assert np.isfinite(tg.grad(penalty, turn).numpy()).all()


def test_omega_wants_states_in_order_of_time() -> None:
    states, output = kept(rnn())
    for given, words in (
        (states[:1], "two states or more"),
        (states[::-1], "the state of step 1 of the list was not made after that of step 0"),
    ):
        with pytest.raises(ValueError, match=words):
            flow.omega(output.sum(), given)
    with pytest.raises(ValueError, match="immediate takes parameters"):
        flow.omega(output.sum(), states, immediate=[output])


def test_a_step_of_training_with_omega_lowers_it() -> None:
    cell = rnn(0.3)
    optimizer = tg.optim.SGD([cell.weight_hh], lr=0.05)
    found = []
    for immediate in (None, [cell.weight_hh]):
        for _ in range(20):
            run = bptt.unroll(cell, XS, record=True)
            task_loss = (run.outputs[-1] ** 2).mean()
            penalty = flow.omega(task_loss, run, immediate)
            optimizer.zero_grad()
            (0.0 * task_loss + penalty).backward()
            optimizer.step()
            found.append(penalty.item())
    assert found[19] < 0.5 * found[0]
    assert found[-1] < found[20]


# ---- pictures ----


@pytest.mark.parametrize(
    "draw",
    [
        lambda run, ax: flow.gradient_norms(run.outputs[-1].sum(), run).plot(ax),
        lambda run, ax: flow.gradient_paths(cubes, nn.GRUCell(F, H, dtype="float64"), XS).plot(ax),
        lambda run, ax: flow.jacobian_spectrum(nn.LSTMCell(F, H, dtype="float64"), XS).plot(ax),
        lambda run, ax: flow.jacobian_spectrum(nn.LSTMCell(F, H, dtype="float64"), XS).plot_products(ax, row=1),
        lambda run, ax: flow.lyapunov_exponents(nn.LSTMCell(F, H, dtype="float64"), XS).plot(ax),
        lambda run, ax: flow.saturation(run, ["i", "f", "o"]).plot(ax),
    ],
)
def test_every_picture_has_its_words(draw: Callable[[Any, Any], Any], tmp_path: Any) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    run = bptt.unroll(nn.LSTMCell(F, H, dtype="float64"), XS, record=True)
    given = figures.Figure()
    ax = given.subplots()
    assert draw(run, ax) is given
    for figure in (given, draw(run, None)):
        (ax,) = figure.axes
        assert all((ax.get_title(), ax.get_xlabel(), ax.get_ylabel()))
        assert min(text.get_size() for text in (ax.title, ax.xaxis.label, ax.yaxis.label)) >= 15
        figure.savefig(tmp_path / "picture.png")


def test_saturation_needs_a_record() -> None:
    with pytest.raises(TypeError, match=r"unroll\(\.\.\., record=True\) returns it; this is of type Unrolled"):
        flow.saturation(nn.unroll(nn.LSTMCell(3, 4), tg.ones(2, 2, 3)))
