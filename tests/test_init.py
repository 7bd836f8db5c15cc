"""How parameters begin: each distribution against its definition, and against PyTorch's."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.nn import init

SHAPE = (40, 10)
DRAWS: dict[str, tuple[Any, ...]] = {  # with the settings that they cannot do without
    "constant": (0.5,),
    "uniform": (),
    "normal": (),
    "fan_in_uniform": (10,),
    "xavier_uniform": (),
    "xavier_normal": (),
    "kaiming_uniform": (),
    "kaiming_normal": (),
    "orthogonal": (),
    "identity": (),
}
RANDOM = [name for name in DRAWS if name not in ("constant", "identity")]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- orthogonal ----


@settings(deadline=None, max_examples=40)
@given(
    hidden=st.integers(1, 12), width=st.integers(1, 12), blocks=st.integers(1, 4), gain=st.sampled_from([1.0, 0.5, 2.0])
)
def test_each_block_is_orthogonal(hidden: int, width: int, blocks: int, gain: float) -> None:
    """W^T W = I, times the gain squared; of a block that is wider than high, W W^T = I."""
    weight = init.orthogonal((blocks * hidden, width), gain, blocks, rng(), np.float64)
    for w in np.split(weight, blocks):
        gram = w.T @ w if hidden >= width else w @ w.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(min(hidden, width)), atol=1e-12)


@pytest.mark.parametrize(("make", "gates"), [(nn.RNNCell, 1), (nn.LSTMCell, 4), (nn.GRUCell, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_recurrent_weight_of_a_cell_may_be_drawn_orthogonal(make: Any, gates: int, dtype: str) -> None:
    cell = make(3, 7, dtype=dtype)
    w = cell.weight_hh
    assert init.orthogonal_(w, blocks=gates) is w
    assert w.dtype == dtype
    for block in np.split(w.data.astype("float64"), gates):
        np.testing.assert_allclose(block.T @ block, np.eye(7), atol=1e-5 if dtype == "float32" else 1e-12)
    assert abs(w.data[:7] - w.data[-7:]).max() > 0.1 or gates == 1  # the blocks differ
    x = np.ones((5, 2, 3), dtype)
    tg.bptt.unroll(cell, x).outputs.sum().backward()
    assert w.grad is not None


def test_orthogonal_matrices_are_uniform_and_not_only_those_with_a_positive_diagonal() -> None:
    """Half of all rotations and reflections have a negative entry in any given place, and half have determinant -1."""
    drawn = np.stack([init.orthogonal((3, 3), generator=rng(seed), dtype=np.float64) for seed in range(400)])
    assert abs((drawn[:, 0, 0] > 0).mean() - 0.5) < 0.1
    assert abs((np.linalg.det(drawn) > 0).mean() - 0.5) < 0.1
    np.testing.assert_allclose((drawn**2).mean(axis=0), 1 / 3, atol=0.06)


def test_orthogonal_kernels_of_a_convolution() -> None:
    flat = init.orthogonal((4, 3, 2, 2), dtype=np.float64).reshape(4, 12)
    np.testing.assert_allclose(flat @ flat.T, np.eye(4), atol=1e-12)


def test_a_product_of_orthogonal_matrices_keeps_the_size_of_a_vector() -> None:
    """What they are for: after 200 steps a linear recurrence is as large as at first."""
    w, x = init.orthogonal((20, 20), dtype=np.float64), rng().standard_normal(20)
    assert np.linalg.norm(np.linalg.matrix_power(w, 200) @ x) == pytest.approx(np.linalg.norm(x))


# ---- identity, bounds and variances ----


def test_identity() -> None:
    np.testing.assert_array_equal(init.identity((4, 4)), np.eye(4, dtype="float32"), strict=True)
    np.testing.assert_array_equal(init.identity((6, 3), 0.5, blocks=2), np.tile(0.5 * np.eye(3), (2, 1)))
    np.testing.assert_array_equal(init.identity((2, 3)), np.eye(2, 3))


@settings(deadline=None, max_examples=40)
@given(
    blocks=st.integers(1, 4),
    out=st.integers(1, 9),
    inputs=st.integers(1, 9),
    window=st.lists(st.integers(1, 3), max_size=2),
)
def test_fans_are_those_of_pytorch(blocks: int, out: int, inputs: int, window: list[int]) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(out, inputs, *window))
    assert init.fans((blocks * out, inputs, *window), blocks) == expected


@pytest.mark.parametrize("shape", [(60, 50), (8, 6, 3, 3)])
@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"])
def test_bounds_and_deviations_are_those_of_pytorch(name: str, shape: tuple[int, ...]) -> None:
    """A million of PyTorch's numbers tell its bound and its deviation; ours come from a generator that gives 1."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    options = {"nonlinearity": "relu"} if "kaiming" in name else {"gain": 1.3}
    samples = torch.stack([getattr(torch.nn.init, f"{name}_")(torch.empty(shape), **options) for _ in range(300)])

    class Extreme:
        """A generator that draws the largest number of a uniform distribution, and one deviation of a normal one."""

        def uniform(self, low: float, high: float, shape: Any) -> np.ndarray:
            assert low == -high
            return np.full(shape, high)

        def standard_normal(self, shape: Any) -> np.ndarray:
            return np.ones(shape)

    ours = getattr(init, name)(shape, **({} if "kaiming" in name else options), generator=Extreme())
    expected = samples.abs().max() if "uniform" in name else samples.std()
    assert float(ours.max()) == pytest.approx(expected.item(), rel=5e-3)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"])
def test_gains_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-12)
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))


def test_blocks_of_xavier_have_the_variance_of_a_matrix_by_itself() -> None:
    generators = rng(), rng()
    stacked = init.xavier_uniform((4 * 30, 30), blocks=4, generator=generators[0])
    single = np.concatenate([init.xavier_uniform((30, 30), generator=generators[1]) for _ in range(4)])
    np.testing.assert_array_equal(stacked, single)


def test_uniform_and_normal_have_the_bounds_and_the_deviation_that_were_asked_for() -> None:
    u, z = init.uniform((200, 200), 0.3, rng()), init.normal((200, 200), 0.3, rng())
    assert abs(u).max() <= 0.3
    assert u.std() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    assert z.std() == pytest.approx(0.3, rel=0.02)
    assert abs(z.mean()) < 0.01
    assert abs(init.fan_in_uniform((200, 200), 25, rng())).max() == pytest.approx(0.2, rel=1e-3)


# ---- generators, dtypes, parameters in place ----


@pytest.mark.parametrize("name", DRAWS)
def test_arrays_are_float32_unless_told_otherwise(name: str) -> None:
    for dtype in ("float32", "float64"):
        options = {} if dtype == "float32" else {"dtype": dtype}
        array = getattr(init, name)(SHAPE, *DRAWS[name], **options)
        assert (array.shape, array.dtype) == (SHAPE, dtype)


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_decides_everything_and_the_seed_does_without_one(name: str) -> None:
    draw: Callable[..., np.ndarray] = partial(getattr(init, name), SHAPE, *DRAWS[name])
    np.testing.assert_array_equal(draw(generator=rng(3)), draw(generator=rng(3)))
    assert (draw(generator=rng(3)) != draw(generator=rng(4))).any()
    tg.manual_seed(5)
    first, second = draw(), draw()
    draw(generator=rng(3))
    tg.manual_seed(5)
    np.testing.assert_array_equal(draw(), first)
    np.testing.assert_array_equal(draw(), second)
    assert (first != second).any()


@pytest.mark.parametrize("name", DRAWS)
def test_in_place_draws_the_same_numbers_in_the_dtype_of_the_parameter(name: str) -> None:
    options = {} if name not in RANDOM else {"generator": 1}
    for dtype in ("float32", "float64"):
        p = tg.zeros(SHAPE, dtype=dtype, requires_grad=True)
        before = p.data
        given = {key: rng(1) for key in options}
        assert getattr(init, f"{name}_")(p, *DRAWS[name], **given) is p
        given = {key: rng(1) for key in options}
        expected = getattr(init, name)(SHAPE, *DRAWS[name], **given, dtype=dtype)
        np.testing.assert_array_equal(p.data, expected, strict=True)
        assert p.requires_grad
        assert p.data is not before  # a graph that used the old values still has them
        assert not before.any()


@pytest.mark.parametrize("second", [0.0, 0.1, 1])
def test_two_numbers_as_for_pytorch_are_refused(second: float) -> None:
    weight = nn.parameter(np.ones((2, 2)))
    for draw in (init.uniform_, init.normal_):
        with pytest.raises(TypeError, match=r"init: the generator is one of NumPy's, not .*where PyTorch's take two"):
            draw(weight, -0.1, second)
    assert (weight.numpy() == 1).all()


def test_every_draw_has_its_form_in_place() -> None:
    functions = {
        n for n, f in inspect.getmembers(init, inspect.isfunction) if not n.startswith("_") and not n.endswith("_")
    }
    assert functions - {"fans", "calculate_gain", "fnmatchcase"} == set(DRAWS)
    assert all(hasattr(init, f"{name}_") for name in DRAWS)


def test_apply_draws_by_name_and_the_first_pattern_counts() -> None:
    model = nn.Sequential(nn.LSTMCell(3, 5, dtype="float64"), nn.Linear(5, 2))
    before = model.state_dict()
    rules = {
        "*.weight_hh": partial(init.orthogonal_, blocks=4),
        "*.weight*": init.xavier_uniform_,
        "layers.0.bias": partial(init.constant_, value=0.25),
    }
    drawn = init.apply_(model, rules)
    assert drawn == ["layers.0.weight_ih", "layers.0.weight_hh", "layers.0.bias", "layers.1.weight"]
    after = model.state_dict()
    assert {name for name in before if (before[name] == after[name]).all()} == {"layers.1.bias"}
    block = after["layers.0.weight_hh"][5:10]
    np.testing.assert_allclose(block.T @ block, np.eye(5), atol=1e-12)
    assert (after["layers.0.bias"] == 0.25).all()


def test_apply_refuses_a_pattern_that_matches_nothing_and_changes_nothing() -> None:
    model = nn.Linear(2, 3)
    before = model.state_dict()
    with pytest.raises(KeyError, match=r"no parameter matches 'wieght'; there are weight, bias"):
        init.apply_(model, {"bias": partial(init.constant_, value=0.0), "wieght": init.xavier_uniform_})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: init.xavier_uniform((3,)),
        lambda: init.kaiming_normal((0, 3)),
        lambda: init.orthogonal((10, 3), blocks=3),
        lambda: init.identity((4, 4), blocks=0),
        lambda: init.calculate_gain("cubic"),
    ],
)
def test_what_makes_no_sense_is_refused(draw: Any) -> None:
    with pytest.raises(ValueError, match=r"has no fans|no gain for"):
        draw()


# ---- biases of gates ----

GATED: dict[str, Any] = {  # the cell, and its gates with their equations: what keeps the state, and what replaces it
    "LSTM": (nn.LSTMCell, "f", "i"),
    "LSTM, projected": (partial(nn.LSTMCell, proj_size=2), "f", "i"),
    "peephole LSTM": (nn.PeepholeLSTMCell, "f", "i"),
    "coupled LSTM": (nn.CoupledLSTMCell, "f", ""),
    "layer-norm LSTM": (nn.LayerNormLSTMCell, "f", "i"),
    "basic layer-norm LSTM": (nn.LayerNormBasicLSTMCell, "f", "i"),
    "GRU": (nn.GRUCell, "z", ""),
    "GRU, reset before": (partial(nn.GRUCell, reset="before"), "z", ""),
    "layer-norm GRU": (nn.LayerNormGRUCell, "z", ""),
    "per-gate layer-norm GRU": (nn.LayerNormPerGateGRUCell, "z", ""),
    "minimal gated unit": (nn.MGUCell, "", "f"),
    "minimal GRU": (nn.MinGRUCell, "", "z"),
}


def gates_without_weights(cell: nn.WeightedCell) -> dict[str, np.ndarray]:
    """The gates where neither input nor state matters, nor what a normalisation rescales: each tells its bias."""
    rescaled = ["bias"] * isinstance(cell, nn.LayerNormPerGateGRUCell)
    for name, p in cell.named_parameters():
        if name.startswith(("weight_", "peephole")) or name in ("bias_hn", *rescaled):
            init.constant_(p, 0.0)
    z = cell.input_projection(tg.ones(1, cell.input_size, dtype="float64"))
    return {name: gate.numpy()[0] for name, gate in cell.full_step(z, cell.initial_state(z))[2].items()}


@pytest.mark.parametrize("name", GATED)
def test_chrono_keeps_each_unit_for_a_time_drawn_evenly(name: str) -> None:
    """A gate of 1 - 1 / t keeps for t steps: t is uniform on [2, T)."""
    make, keeps, replaces = GATED[name]
    cell = make(3, 400, dtype="float64")
    before = cell.state_dict()
    assert init.chrono_(cell, 50, rng(3)) is cell
    t = 1 + rng(3).uniform(1, 49, 400)
    gates = gates_without_weights(cell)
    if keeps:
        np.testing.assert_allclose(gates[keeps], 1 - 1 / t, rtol=1e-9)
    if replaces:
        np.testing.assert_allclose(gates[replaces], 1 / t, rtol=1e-9)
    after = make(3, 400, dtype="float64")
    after.load_state_dict(before)
    for gate, value in gates_without_weights(after).items():
        if gate not in (keeps, replaces):
            np.testing.assert_array_equal(gates[gate], value, err_msg=gate)


@pytest.mark.parametrize("name", GATED)
def test_the_bias_of_each_gate_is_set_by_its_name(name: str) -> None:
    cell = GATED[name][0](3, 5, dtype="float64")
    for gate in cell.gate_names:
        for value in (0.75, np.linspace(-1, 1, 5)):
            other = copy.deepcopy(cell)
            p, _ = other.bias_of(gate)
            assert init.gate_bias_(other, gate, value) is other
            found, usual = gates_without_weights(other), gates_without_weights(copy.deepcopy(cell))
            squash = cell.activation if gate in ("g", "n") else lambda x: 1 / (1 + np.exp(-x))
            np.testing.assert_allclose(found[gate], squash(np.broadcast_to(value, 5)), rtol=1e-12)
            assert {n for n in found if (found[n] != usual[n]).any()} == {gate}
            assert p.dtype == np.float64


def test_biases_of_gates_in_a_whole_module() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, num_layers=2, bidirectional=True), nn.Linear(8, 2))
    init.gate_bias_(model, "f", 1.0)
    init.gate_bias_(nn.Residual(nn.GRUCell(3, 3)), "z", 1.0)
    biases = [p.numpy() for name, p in model.named_parameters() if name.endswith("bias") and p.size == 16]
    assert len(biases) == 4
    for bias in biases:
        assert (bias[4:8] == 1).all()
        assert (bias[:4] != 1).all()
        assert (bias[8:] != 1).all()
    tg.manual_seed(2)
    init.chrono_(model, 10)
    drawn = [p.numpy() for name, p in model.named_parameters() if name.endswith("bias") and p.size == 16]
    np.testing.assert_array_equal([bias[:4] for bias in drawn], [-bias[4:8] for bias in drawn])
    assert len({bias[4] for bias in drawn}) == 4


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: init.gate_bias_(nn.LSTMCell(3, 4), "z", 1.0), r"LSTMCell\(3, 4\) has no bias .* gates are i, f, g, o"),
        (lambda: init.gate_bias_(nn.LSTMCell(3, 4, bias=False), "f", 1.0), "no bias of a gate 'f'; .* need bias=True"),
        (lambda: init.gate_bias_(nn.Linear(3, 4), "f", 1.0), "its gates are none"),
        (lambda: init.chrono_(nn.RNNCell(3, 4), 10), "no cell that keeps its state by a gate"),
        (lambda: init.chrono_(nn.GRUCell(3, 4, bias=False), 10), r"chrono_: .* need bias=True"),
        (lambda: init.chrono_(nn.GRUCell(3, 4), 1), "T_max must be at least 2 steps, not 1"),
    ],
)
def test_a_gate_that_is_not_there_is_named(call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


def test_chrono_changes_no_cell_if_another_one_has_no_biases() -> None:
    model = nn.Sequential(nn.LSTMCell(3, 4), nn.GRUCell(4, 4, bias=False))
    before = model.state_dict()
    drawn = tg.random_state()
    with pytest.raises(ValueError, match=r"chrono_: .* need bias=True"):
        init.chrono_(model, 10)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert tg.random_state() == drawn
