"""Modules: names, states, moving and loading, and what happens when something is wrong."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, bptt, nn, optim


class Model(nn.Module):
    """Modules and tensors in attributes, lists and dictionaries, one weight shared, one constant, one frozen."""

    def __init__(self) -> None:
        self.zeta = nn.Linear(2, 3)
        self.layers = [nn.Linear(3, 3), (nn.Linear(3, 3, bias=False), nn.Dropout(0.5))]
        self.heads = {"b": nn.Linear(3, 1), "a": tg.ones(3, requires_grad=True)}
        self.tied = self.zeta.weight
        self.constant = tg.ones(2)
        self.frozen = tg.ones(2, requires_grad=True)
        self.frozen.requires_grad = False
        self.name, self.sizes, self.table = "model", [1, 2], np.ones(3)

    def forward(self, x: Any) -> Tensor:
        return self.heads["b"](self.layers[0](self.zeta(x)))


NAMES = [
    "zeta.weight",
    "zeta.bias",
    "layers.0.weight",
    "layers.0.bias",
    "layers.1.0.weight",
    "heads.b.weight",
    "heads.b.bias",
    "heads.a",
]


# ---- parameters ----


def test_parameters_come_in_order_of_definition_and_once() -> None:
    model = Model()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert all(p is q for p, (_, q) in zip(model.parameters(), model.named_parameters(), strict=True))
    assert len(set(model.parameters())) == len(NAMES)
    assert all(isinstance(p, Tensor) and p.is_leaf for p in model.parameters())


def test_constants_and_frozen_parameters_are_saved_but_not_learned() -> None:
    assert list(Model().state_dict()) == [*NAMES, "constant", "frozen"]


def test_a_module_that_appears_twice_comes_once() -> None:
    cell = nn.LSTMCell(2, 3)
    stack = nn.Sequential(cell, nn.Dropout(), cell)
    assert [name for name, _ in stack.named_parameters()] == [
        "layers.0.weight_ih",
        "layers.0.weight_hh",
        "layers.0.bias",
    ]
    assert sum(module is cell for module in stack.modules()) == 1


def test_a_part_may_know_the_whole() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    model.layers[0].parent = model
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight", "layers.0.bias"]
    assert len(list(model.modules())) == 3
    assert not model.eval().layers[1].training
    parent, child = nn.Module(), nn.Module()
    parent.child, child.parent = child, parent
    assert repr(parent) == "Module(child: Module(parent: ...))"


def test_a_result_kept_in_an_attribute_is_no_parameter() -> None:
    """A model may keep its last activation, to look at; it is neither learned nor saved, nor in the way."""

    class Watched(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Any) -> Tensor:
            self.last = self.linear(x)
            return self.last

    model = Watched()
    model(np.ones((1, 2), np.float32)).sum().backward()
    names = ["linear.weight", "linear.bias"]
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == names
    model.zero_grad()
    optim.SGD(model.parameters(), lr=0.1)
    model.to(dtype="float64")


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        nn.Module()(1)


def test_sequential_applies_functions_too() -> None:
    model = nn.Sequential(nn.Linear(2, 3), tg.tanh, nn.Linear(3, 1))
    assert model(np.ones((5, 2), np.float32)).shape == (5, 1)
    assert len(model) == 3
    assert [model[0], model[1], model[-1]] == list(model) == model.layers


class Stack(nn.Module):
    """Blocks in a list of some kind."""

    def __init__(self, kind: Any) -> None:
        self.blocks = kind(nn.Linear(3, 3) for _ in range(2))
        self.blocks.append(nn.Dropout(0.5))

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_module_list_is_a_list_and_a_module() -> None:
    model, plain = Stack(nn.ModuleList), Stack(list)
    blocks = model.blocks
    assert list(model.state_dict()) == list(plain.state_dict())
    assert list(nn.torch_state_dict(model)) == list(plain.state_dict())
    assert [name for name, _ in blocks.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert repr(blocks) == "ModuleList(0: Linear(3, 3), 1: Linear(3, 3), 2: Dropout(0.5))"
    assert list(model.modules()) == [model, blocks, *blocks]
    assert (len(blocks), blocks[-1], blocks[:1]) == (3, blocks[2], [blocks[0]])
    assert not blocks.eval()[2].training
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(other.blocks, nn.ModuleList)
        assert other.blocks != blocks
        np.testing.assert_array_equal(other(tg.ones(1, 3)).data, model(tg.ones(1, 3)).data)
    with pytest.raises(NotImplementedError, match="ModuleList defines no forward"):
        blocks(1)


def test_a_captured_step_notices_what_is_added_to_a_module_list() -> None:
    model = Stack(nn.ModuleList).eval()
    step = tg.capture(lambda x: model(x))
    x = tg.ones(1, 3)
    for k in range(6):
        if k == 3:
            model.blocks.append(nn.Linear(3, 1))
        np.testing.assert_allclose(step(x).data, model(x).data, rtol=1e-6)


def test_zero_grad_forgets() -> None:
    model = Model()
    model(np.ones((1, 2), np.float32)).sum().backward()
    assert model.zeta.weight.grad is not None
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_train_and_eval_reach_every_module() -> None:
    model = Model()
    dropout = model.layers[1][1]
    assert model.training
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert not dropout.training
    assert model.train() is model
    assert all(module.training for module in model.modules())
    dropout.eval()
    assert model.training
    x = np.ones((50, 3), np.float32)
    np.testing.assert_array_equal(dropout(x), x)


def test_reprs_read_like_the_call() -> None:
    assert repr(nn.LSTMCell(2, 3)) == "LSTMCell(2, 3)"
    assert repr(nn.Linear(2, 3)) == "Linear(2, 3)"
    assert repr(type("Own", (nn.Linear,), {})(2, 3)) == "Own(2, 3)"
    assert repr(Model()) == (
        "Model(zeta: Linear(2, 3), layers.0: Linear(3, 3), layers.1.0: Linear(3, 3, bias=False), "
        "layers.1.1: Dropout(0.5), heads.b: Linear(3, 1))"
    )


def test_sizes_may_be_numpy_numbers() -> None:
    assert repr(nn.LayerNorm(np.int64(3))) == "LayerNorm(3)"
    assert repr(nn.LayerNorm(np.array([2, 3]))) == "LayerNorm((2, 3))"
    taps = -(2 ** np.arange(3))
    assert nn.SkipThroughTime(nn.RNNCell(2, 3), taps).taps == (-1, -2, -4)


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    """Target networks and stacks of equal layers are made this way: neither weights nor gradients are shared."""
    layer = nn.Linear(2, 2)
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(layer.weight.data, other.weight.data)
    other(layer(np.ones((1, 2), np.float32))).sum().backward()
    assert layer.weight.grad is not None
    assert other.weight.grad is not None
    np.testing.assert_allclose(other.bias.grad.data, [1, 1])
    np.testing.assert_allclose(layer.bias.grad.data, other.weight.data.sum(axis=0), rtol=1e-6)
    layer.weight.data = layer.weight.data * 0
    assert other.weight.data.any()


# ---- moving and loading ----


def test_to_dtype_keeps_the_tensors_and_drops_gradients() -> None:
    for spelled in ({"dtype": "float64"}, {"dtype": np.float64}, {"where": "float64"}, {"where": np.float64}):
        model = Model()
        model.heads["count"] = tg.tensor([1, 2])
        before = list(model.parameters())
        model(np.ones((1, 2), np.float32)).sum().backward()
        assert model.to(**spelled) is model
        assert [p is q for p, q in zip(model.parameters(), before, strict=True)] == [True] * len(NAMES)
        assert {p.dtype for p in model.parameters()} == {np.dtype("float64")}
        assert all(p.grad is None for p in model.parameters())
        assert model.heads["count"].dtype == np.int64
        model(np.ones((1, 2))).sum().backward()
        assert model.zeta.weight.grad.dtype == np.float64


@pytest.mark.parametrize("convert", ["to", "load_state_dict"])
def test_a_gradient_for_tensors_that_were_converted_meanwhile_is_not_lost_in_silence(convert: str) -> None:
    model, kept = nn.Linear(2, 3), tg.ones(3, requires_grad=True)
    loss = (model(tg.ones(1, 2)) * kept).sum()
    double = {name: array.astype("float64") for name, array in model.state_dict().items()}
    model.to("float64") if convert == "to" else model.load_state_dict(double)
    with pytest.raises(tg.GraphError, match=r"since the forward pass, 2 of its tensors, such as \[3\], were converted"):
        loss.backward()
    assert kept.grad is None
    (model(tg.ones(1, 2, dtype="float64")) * kept).sum().backward()
    assert model.weight.grad.dtype == np.float64


def test_to_nowhere_is_refused() -> None:
    with pytest.raises(
        (tg.BackendError, TypeError), match=r"to: 'cpu' is neither a backend, 'numpy' or 'cupy', nor a.*CUDA is 'cupy'"
    ):
        Model().to("cpu")
    for dtype in ("int64", bool, np.uint8):
        model = Model()
        with pytest.raises(TypeError, match=r"to: .* cannot hold weights; a floating-point dtype is needed"):
            model.to(dtype)
        assert {p.dtype for p in model.parameters()} == {np.dtype("float32")}


def test_a_state_dict_round_trip_is_exact() -> None:
    model, other = Model(), Model()
    state = model.state_dict()
    other.load_state_dict(state)
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, state[name], strict=True)
    state["zeta.weight"][...] = 7
    assert not (model.zeta.weight.data == 7).any()
    assert not (other.zeta.weight.data == 7).any()


def test_loading_keeps_the_tensors_that_an_optimiser_holds() -> None:
    model = Model()
    opt = optim.SGD(model.parameters(), lr=1.0)
    model.load_state_dict({name: array.astype(np.float64) for name, array in Model().state_dict().items()})
    start = model.state_dict()
    model(np.ones((1, 2))).sum().backward()
    opt.step()
    assert (model.zeta.weight.data != start["zeta.weight"]).any()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda s: s.pop("zeta.bias"), KeyError, r"missing \['zeta.bias'\]"),
        (lambda s: s.update(extra=np.ones(2)), KeyError, r"unknown \['extra'\]"),
        (lambda s: s.update({"frozen": np.ones((2, 1), np.float32)}), ShapeError, r"frozen is f32\[2,1\].*f32\[2\]"),
        (lambda s: s.update({"frozen": np.ones(2, int)}), ShapeError, r"frozen is i64\[2\]"),
        (lambda s: s.update({"frozen": "text"}), TypeError, None),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(change: Any, error: Any, match: str | None) -> None:
    model = Model()
    before = model.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    change(state)
    with pytest.raises(error, match=match):
        model.load_state_dict(state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], strict=True)


def test_loading_a_part_if_not_strict() -> None:
    model = Model()
    before = model.state_dict()
    model.load_state_dict({"zeta.bias": np.full(3, 5.0, np.float32), "extra": np.ones(1)}, strict=False)
    assert model.zeta.bias.tolist() == [5, 5, 5]
    np.testing.assert_array_equal(model.zeta.weight.data, before["zeta.weight"])
    with pytest.raises(ShapeError):
        model.load_state_dict({"zeta.bias": np.ones(4, np.float32)}, strict=False)


@pytest.mark.parametrize("wrong", ["a", None, 1j, [[1], [1, 2]]])
def test_what_is_no_array_is_named_and_changes_nothing(wrong: Any) -> None:
    model = nn.Linear(2, 1)
    before = model.state_dict()
    with pytest.raises(TypeError, match="load_state_dict: bias: tensor: "):
        model.load_state_dict({"weight": np.ones((1, 2), np.float32), "bias": wrong})
    np.testing.assert_equal(model.state_dict(), before)


def test_a_seed_makes_the_same_model_and_the_same_dropout() -> None:
    found = []
    for _ in range(2):
        tg.manual_seed(3)
        model = Model()
        found.append([*model.state_dict().values(), tg.randn(3).numpy(), nn.Dropout(0.5)(np.ones(20))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tg.randn(3).data != found[0][-2]).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Dropout(1.0),
        lambda: nn.Dropout(-0.1),
        lambda: nn.LSTMCell(3, 0),
        lambda: nn.LSTMCell(-1, 3),
        lambda: nn.RNNCell(3, 4, nonlinearity="cubic"),
        lambda: nn.cross_entropy(tg.ones(2, 3), np.array([0, 1]), reduction="median"),
    ],
)
def test_wrong_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"Dropout|Cell|cross_entropy"):
        make()


# ---- unrolling ----


def test_unroll_refuses_what_does_not_fit() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((5, 2, 3), np.float32)
    with pytest.raises(ValueError, match=r"no time steps.*\(0, 2, 3\)"):
        bptt.unroll(cell, xs[:0])
    for mask in (np.ones((5, 3), bool), np.ones((2, 5), bool), np.ones(5, bool)):
        with pytest.raises(ValueError, match=r"mask has shape .* \(5, 2\)"):
            bptt.unroll(cell, xs, mask=mask)


def test_a_state_may_be_a_plain_tuple_or_list() -> None:
    cell, xs, mask = nn.LSTMCell(3, 4), np.ones((5, 2, 3), np.float32), np.arange(5)[:, None] < [5, 3]
    h, c = tg.randn(2, 4), tg.randn(2, 4)
    for given in (None, mask):
        expected = bptt.unroll(cell, xs, nn.LSTMState(h, c), mask=given)
        for state in ((h, c), [h, c], (h.data, c.data)):
            found = bptt.unroll(cell, xs, state, mask=given)
            np.testing.assert_array_equal(found.outputs.data, expected.outputs.data)
            np.testing.assert_array_equal(found.state.c.data, expected.state.c.data)


def test_detach_keeps_the_structure() -> None:
    h, c = tg.ones(2, requires_grad=True) * 2, tg.ones(2, requires_grad=True) * 3
    state = bptt.detach({"layers": [nn.LSTMState(h, c), None], "step": 3})
    assert isinstance(state["layers"][0], nn.LSTMState)
    assert state["layers"][0].h.data is h.data
    assert not state["layers"][0].h.requires_grad
    assert state["layers"][1] is None
    assert state["step"] == 3


def test_functional_call_equals_pytorchs_and_leaves_the_module_alone() -> None:
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(3, 4, dtype="float64"), tg.tanh, nn.Linear(4, 2, dtype="float64"))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 4, dtype=torch.float64), torch.nn.Tanh(), torch.nn.Linear(4, 2, dtype=torch.float64)
    )
    x = np.random.default_rng(0).standard_normal((5, 3))
    names = [name.removeprefix("layers.") for name, _ in model.named_parameters()]
    with torch.no_grad():
        for name, p in zip(names, model.parameters(), strict=True):
            theirs.get_parameter(name).copy_(torch.from_numpy(p.numpy()))

    def ours_after_a_step() -> Any:  # a step of gradient descent that is differentiated itself (MAML)
        weights = dict(model.named_parameters())
        inner = (nn.functional_call(model, weights, tg.tensor(x)) ** 2).sum()
        grads = tg.grad(inner, [*weights.values()], create_graph=True)
        after = {name: p - 0.1 * g for (name, p), g in zip(weights.items(), grads, strict=True)}
        return (nn.functional_call(model, after, tg.tensor(x)) ** 2).mean()

    weights = dict(theirs.named_parameters())
    inner = (torch.func.functional_call(theirs, weights, torch.from_numpy(x)) ** 2).sum()
    grads = torch.autograd.grad(inner, [*weights.values()], create_graph=True)
    after = {name: p - 0.1 * g for (name, p), g in zip(weights.items(), grads, strict=True)}
    expected = (torch.func.functional_call(theirs, after, torch.from_numpy(x)) ** 2).mean()
    expected.backward()
    before = model.state_dict()
    loss = ours_after_a_step()
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-12)
    for name, p in zip(names, model.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), theirs.get_parameter(name).grad.numpy(), rtol=1e-9, atol=1e-12)
    assert all((before[name] == now).all() for name, now in model.state_dict().items())


def test_functional_call_returns_what_it_was_given_where_the_module_returns_its_own() -> None:
    class Start(nn.Module):
        def __init__(self) -> None:
            self.h0, self.c0 = nn.parameter([0.0, 0.0]), tg.zeros(1)

        def forward(self) -> Any:
            return self.h0, {"c": self.c0}

    h0 = tg.tensor([5.0, 5.0], requires_grad=True) * 1
    found, rest = nn.functional_call(Start(), {"h0": h0})
    assert found is h0
    assert rest["c"].tolist() == [0.0]


def test_functional_call_refuses_what_does_not_fit() -> None:
    model = nn.Linear(2, 3)
    before = model.weight.array
    with pytest.raises(KeyError, match=r"has no.*gain.*it has.*weight"):
        nn.functional_call(model, {"gain": tg.ones(1)}, tg.ones(1, 2))
    for wrong in (tg.ones(3), np.ones((3, 2))):
        with pytest.raises(ShapeError, match="weight is Tensor"):
            nn.functional_call(model, {"weight": wrong}, tg.ones(1, 2))
    with pytest.raises(ShapeError):
        nn.functional_call(model, {"weight": tg.ones(3, 2)}, tg.ones(1, 5))
    assert model.weight.array is before


def test_a_parameter_is_not_lost_to_an_array() -> None:
    model = nn.Linear(2, 2)
    for lost in (np.zeros((2, 2)), 1.0):
        with pytest.raises(TypeError, match=r"Linear\.weight is a parameter.*weight\.data"):
            model.weight = lost
    with tg.no_grad():
        model.weight -= 1.0
        model.weight **= 2
    model.bias = None
    assert [name for name, _ in model.named_parameters()] == ["weight"]


def test_what_is_no_layer_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"Sequential\(\*layers\).*not a list"):
        nn.Sequential([nn.Linear(2, 2)])
    assert repr(nn.Sequential(nn.Linear(2, 2), tg.tanh)) == "Sequential(Linear(2, 2), tanh)"
    with pytest.raises(TypeError, match=r"x is a Unrolled.*outputs, state"):
        nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))(tg.ones(5, 2, 3))
    with pytest.raises(TypeError, match="padding is a whole number, at least 0, not 'same'"):
        nn.Conv1d(2, 3, 3, padding="same")
    with pytest.raises(TypeError, match=r"Recurrent: a cell is an object with .*, but Linear\(3, 3\) is none"):
        nn.Recurrent(nn.Linear(3, 3))
    for wrong in ("a", None, [0.5]):
        with pytest.raises(TypeError, match="Dropout: a probability must be a number, not "):
            nn.Dropout(wrong)
        with pytest.raises(TypeError, match="MaxPool2d: kernel_size: an integer for height and width, or one for each"):
            nn.MaxPool2d(wrong)
        with pytest.raises(TypeError, match="Conv2d: stride: an integer for height and width, or one for each"):
            nn.Conv2d(1, 1, 3, stride=wrong)
    assert nn.LayerNorm(np.array([2, 3])).normalized_shape == (2, 3)
    for wrong, kind in ((-1, ValueError), (2.5, TypeError), ("a", TypeError), (None, TypeError)):
        for make, name in (
            (lambda n: nn.LayerNorm(n), "LayerNorm: normalized_shape"),
            (lambda n: nn.LayerNorm((2, n)), "LayerNorm: normalized_shape"),
            (lambda n: nn.Linear(n, 2), "Linear: in_features"),
            (lambda n: nn.Linear(2, n), "Linear: out_features"),
            (lambda n: nn.Embedding(n, 2), "Embedding: num_embeddings"),
            (lambda n: nn.LSTM(n, 2), "LSTMCell: input_size"),
            (lambda n: nn.LSTM(2, n), "LSTMCell: hidden_size"),
            (lambda n: nn.LSTM(2, 2, n), "LSTM: num_layers"),
            (lambda n: nn.LSTM(2, 2, proj_size=n), "LSTMCell: proj_size"),
            (lambda n: nn.LSTMCell(2, n, proj_size=1), "LSTMCell: hidden_size"),
            (lambda n: nn.GRUCell(2, n), "GRUCell: hidden_size"),
            (lambda n: nn.Conv1d(1, 2, n), "Conv1d: kernel_size"),
            (lambda n: nn.Conv1d(n, 2, 3), "Conv1d: in_channels"),
            (lambda n: nn.Conv2d(1, n, 3), "Conv2d: out_channels"),
        ):
            with pytest.raises(kind, match=f"{name} is a whole number, at least [01], not {wrong!r}"):
                make(wrong)
    with pytest.raises(TypeError, match="bias is True or False, not 'relu'"):
        nn.RNN(2, 3, 1, "relu")  # where PyTorch has the nonlinearity
    assert nn.RNN(2, 3, bias=np.bool_(False)).state_dict().keys() == nn.RNN(2, 3, bias=False).state_dict().keys()


def test_functional_call_with_the_modules_own_tensors_exchanged() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    (first, a), (second, b) = model.named_parameters()
    x = tg.randn(3, 2)
    found = nn.functional_call(model, {first: b, second: a}, x)
    np.testing.assert_allclose(found.numpy(), ((x @ b.T) @ a.T).numpy(), rtol=1e-6)


class Penalized(nn.Module):
    def __init__(self) -> None:
        self.cell = nn.LSTMCell(2, 3)

    def forward(self, xs: Any, unroll: Any) -> Any:
        shrunk = nn.functional_call(self.cell, {"bias": self.cell.bias / 2}, xs[0])[0]
        return unroll(self.cell, xs).outputs.sum() + shrunk.sum() + sum((p * p).sum() for p in self.parameters())


@pytest.mark.parametrize("unroll", [bptt.unroll, bptt.checkpointed])
def test_weights_that_are_results_are_parameters_within_functional_call(unroll: Any) -> None:
    model, xs = Penalized(), tg.randn(12, 2, 2)
    model(xs, unroll).backward()
    expected = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    nn.functional_call(model, {name: p * 1 for name, p in model.named_parameters()}, xs, unroll).backward()
    assert len(expected) == 3
    assert all(p.is_leaf for p in model.parameters())
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), expected[name], rtol=1e-5)


def test_two_tensors_cannot_have_one_name() -> None:
    model = nn.Module()
    model.parts = {"a.b": tg.ones(1), "a": {"b": tg.zeros(1)}}
    with pytest.raises(ValueError, match=r"Module: two tensors are called 'parts\.a\.b'"):
        model.state_dict()


def test_a_frozen_parameter_that_changed_its_dtype_has_no_gradient_when_it_is_thawed() -> None:
    layer = nn.Linear(2, 1)
    layer(tg.ones(1, 2)).sum().backward()
    layer.weight.requires_grad = False
    layer.to("float64").to("float32")
    layer.weight.requires_grad = True
    assert layer.weight.grad is None
