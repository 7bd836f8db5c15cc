"""State dicts with PyTorch's names: there, back, and from a file that PyTorch has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, nn

T, B, F, H = 5, 3, 4, 6
KINDS = ["RNN", "LSTM", "GRU"]


def state_of(module: Any) -> dict[str, np.ndarray]:
    """The state dict of PyTorch's module, in NumPy."""
    return {name: t.detach().numpy().copy() for name, t in module.state_dict().items()}


def build(model: Any, library: Any) -> None:
    """Embedding, a deep layer in a Sequential, cells in a list, and a head whose weight is the embedding's."""
    model.embedding = library.Embedding(7, H)
    model.body = library.Sequential(library.LSTM(H, H, 2, bidirectional=True))
    model.cells = getattr(library, "ModuleList", list)([library.LSTMCell(2 * H, F), library.GRUCell(F, H)])
    model.head = library.Linear(H, 7)
    model.head.weight = model.embedding.weight


class Tagger(nn.Module):
    """A model of many parts; PyTorch's has the same ones."""

    def __init__(self) -> None:
        build(self, nn)

    def forward(self, tokens: Any) -> Any:
        y = self.body(self.embedding(tokens))[0][-1]
        y, _ = self.cells[0](y)
        y, _ = self.cells[1](y)
        return self.head(y)


# ---- from PyTorch ----


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(KINDS), st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from(["float32", "float64"]))
def test_a_loaded_layer_gives_equal_outputs(kind: str, layers: int, bias: bool, both: bool, dtype: str) -> None:
    """And the dtype of what was loaded, whatever the layer had before."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, kind)(F, H, layers, bias=bias, bidirectional=both, dtype=getattr(torch, dtype))
    ours = getattr(nn, kind)(F, H, layers, bias=bias, bidirectional=both)
    nn.load_torch_state_dict(ours, state_of(theirs))
    x = drawn(T, B, F).astype(dtype)
    outputs = ours(x).outputs
    close(outputs, theirs(torch.tensor(x))[0], 1e-12 if dtype == "float64" else 1e-6)
    assert outputs.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_pytorchs_gives_equal_outputs(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    from safetensors.numpy import load_file

    theirs = getattr(torch.nn, kind)(F, H, 2, bidirectional=True)
    safetensors.save_file(theirs.state_dict(), tmp_path / "layer.safetensors")
    ours = getattr(nn, kind)(F, H, 2, bidirectional=True)
    nn.load_torch_state_dict(ours, load_file(tmp_path / "layer.safetensors"))
    x = drawn(T, B, F).astype("float32")
    close(ours(x).outputs, theirs(torch.tensor(x))[0], 1e-6)


@pytest.mark.parametrize("cell", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_cell_by_itself(cell: str) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = getattr(torch.nn, cell)(F, H), getattr(nn, cell)(F, H)
    nn.load_torch_state_dict(ours, theirs.state_dict())  # PyTorch's own tensors will do
    x, h = drawn(B, F).astype("float32"), drawn(B, H).astype("float32")
    given_state = (h, h) if cell == "LSTMCell" else h
    expected = theirs(torch.tensor(x), tuple(map(torch.tensor, given_state)) if cell == "LSTMCell" else torch.tensor(h))
    close(ours(x, given_state)[0], expected[0] if cell == "LSTMCell" else expected, 1e-6)


def test_layers_deep_within_a_model() -> None:
    """With prefixes; a tied weight may come by each of its names, or by one, as safetensors' save_model leaves it."""
    torch = pytest.importorskip("torch")

    class Reference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            build(self, torch.nn)

        def forward(self, tokens: Any) -> Any:
            y = self.body(self.embedding(tokens))[0][-1]
            y, _ = self.cells[0](y)
            return self.head(self.cells[1](y))

    reference, tokens = Reference(), np.arange(T * B).reshape(T, B) % 7
    state = state_of(reference)
    for left_out in ((), ("head.weight",), ("embedding.weight",)):
        ours = Tagger()
        nn.load_torch_state_dict(ours, {name: array for name, array in state.items() if name not in left_out})
        close(ours(tokens), reference(torch.tensor(tokens)), 1e-6)
    assert nn.torch_state_dict(ours).keys() == state.keys()


# ---- to PyTorch, and back ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_pytorch_loads_what_is_written(kind: str, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    ours = getattr(nn, kind)(F, H, 2, bias=bias, bidirectional=True, dtype="float64")
    theirs = getattr(torch.nn, kind)(F, H, 2, bias=bias, bidirectional=True, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in nn.torch_state_dict(ours).items()})
    x = drawn(T, B, F)
    close(ours(x).outputs, theirs(torch.tensor(x))[0], 1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RNN(F, H, 2, nonlinearity="relu"),
        lambda: nn.LSTM(F, H, bidirectional=True, proj_size=2),
        lambda: nn.GRU(F, H, 2, h0="learned"),
        lambda: nn.Recurrent(nn.LSTMCell(F, H), h0="learned"),
        lambda: nn.Bidirectional(nn.PeepholeLSTMCell(F, H), nn.GRUCell(F, H)),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.LayerNorm(3)), nn.Dropout(0.5)),
        Tagger,
    ],
)
def test_there_and_back_is_exact(make: Any) -> None:
    module, other = make(), make()
    nn.load_torch_state_dict(other, nn.torch_state_dict(module))
    found = other.state_dict()
    for name, array in module.state_dict().items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_names_are_pytorchs_in_pytorchs_layout() -> None:
    state = nn.torch_state_dict(nn.Sequential(nn.Linear(2, F), nn.GRU(F, H, 2, bidirectional=True)))
    assert state["1.weight_ih_l1_reverse"].shape == (3 * H, 2 * H)
    assert not state["1.bias_hh_l0"][: 2 * H].any()
    assert state["1.bias_hh_l0"][2 * H :].all()
    assert list(state)[:2] == ["0.weight", "0.bias"]
    assert len(state) == 18


def test_what_is_written_is_a_copy() -> None:
    module = nn.RNN(F, H)
    nn.torch_state_dict(module)["weight_hh_l0"][...] = 7
    assert not (module.state_dict()["layers.0.cell.weight_hh"] == 7).any()


# ---- what is said ----


def test_it_says_what_it_sums() -> None:
    told = nn.load_torch_state_dict(
        nn.LSTM(F, H, bidirectional=True), nn.torch_state_dict(nn.LSTM(F, H, bidirectional=True))
    )
    assert told == (
        "8 arrays taken over; bias_hh_l0 was added to bias_ih_l0, bias_hh_l0_reverse was added to bias_ih_l0_reverse, "
        "as one bias does the work of both"
    )
    told = nn.load_torch_state_dict(nn.Sequential(nn.GRU(F, H)), nn.torch_state_dict(nn.Sequential(nn.GRU(F, H))))
    assert "0.bias_hh_l0 was added to 0.bias_ih_l0" in told
    assert told.endswith("of a GRU's gate n the hidden bias stays apart, as bias_hn")
    told = nn.load_torch_state_dict(nn.GRU(F, H, bias=False), nn.torch_state_dict(nn.GRU(F, H, bias=False)))
    assert told == "2 arrays taken over"


def test_the_sum_is_the_sum() -> None:
    state = {
        name: drawn(*array.shape, seed=k) for k, (name, array) in enumerate(nn.torch_state_dict(nn.GRU(F, H)).items())
    }
    layer = nn.GRU(F, H)
    nn.load_torch_state_dict(layer, state)
    cell = layer.layers[0].cell
    expected = state["bias_ih_l0"] + state["bias_hh_l0"] * np.repeat([1, 1, 0], H)
    np.testing.assert_array_equal(cell.bias.data, expected)
    np.testing.assert_array_equal(cell.bias_hn.data, state["bias_hh_l0"][2 * H :])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda s: s.pop("0.bias_hh_l0"), KeyError, r"missing \['0.bias_hh_l0'\], unknown \[\]"),
        (lambda s: s.pop("0.weight_ih_l1"), KeyError, r"missing \['0.weight_ih_l1'\]"),
        (lambda s: s.update(extra=np.ones(2)), KeyError, r"unknown \['extra'\]"),
        (lambda s: s.update({"0.weight_ih_l2": np.ones(2)}), KeyError, r"unknown \['0.weight_ih_l2'\]"),
        (lambda s: s.update({"0.bias_hh_l0": np.ones(1)}), ShapeError, r"0.bias_hh_l0 is f64\[1\], but shape \(24,\)"),
        (lambda s: s.update({"1.weight": np.ones((H, 2))}), ShapeError, r"1.weight is f64\[6,2\], but shape \(2, 6\)"),
        (lambda s: s.update({"1.weight": np.ones((2, H), int)}), ShapeError, r"weight is i64\[2,6\]"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Any, error: Any, match: str) -> None:
    model = nn.Sequential(nn.LSTM(F, H, 2), nn.Linear(H, 2))
    before = model.state_dict()
    state = {name: array + 1 for name, array in nn.torch_state_dict(model).items()}
    change(state)
    with pytest.raises(error, match=match):
        nn.load_torch_state_dict(model, state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], strict=True)


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_the_names_of_pytorch_are_known_where_they_do_not_belong(kind: str) -> None:
    module = getattr(nn, kind)(F, H)
    with pytest.raises(
        KeyError, match=r"load_state_dict: missing .*; nn\.load_torch_state_dict\(module, state\) takes"
    ):
        module.load_state_dict(nn.torch_state_dict(module))


def test_a_part_may_be_loaded_if_not_strict() -> None:
    layer = nn.LSTM(F, H, 2)
    before = layer.state_dict()
    part = {"weight_hh_l0": np.ones((4 * H, H)), "bias_ih_l0": np.ones(4 * H)}
    told = nn.load_torch_state_dict(layer, part, strict=False)
    assert told == "1 arrays taken over; bias_ih_l0 was left out, for its other half is missing"
    after = layer.state_dict()
    assert (after.pop("layers.0.cell.weight_hh") == 1).all()
    for name, array in after.items():  # a bias that lacks its other half stays as it was
        np.testing.assert_array_equal(array, before[name])


def test_a_tied_weight_cannot_hold_two_things() -> None:
    model = Tagger()
    state = nn.torch_state_dict(model)
    state["head.weight"] = state["head.weight"] + 1
    with pytest.raises(ValueError, match=r"head.weight is tied to another name"):
        nn.load_torch_state_dict(model, state)


def test_a_gru_that_pytorch_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="resets after the product"):
        nn.torch_state_dict(nn.Sequential(nn.GRU(F, H, reset="before")))


def test_a_part_may_know_the_whole() -> None:
    model = nn.Sequential(nn.Linear(2, F), nn.RNN(F, H))
    model.layers[0].parent = model
    assert len(nn.torch_state_dict(model)) == 6


def test_loading_keeps_the_tensors_that_an_optimiser_holds() -> None:
    layer = nn.GRU(F, H)
    held = list(layer.parameters())
    nn.load_torch_state_dict(
        layer, {name: array.astype("float64") for name, array in nn.torch_state_dict(layer).items()}
    )
    assert all(p is q for p, q in zip(layer.parameters(), held, strict=True))
    assert {p.dtype for p in held} == {np.dtype("float64")}
    layer(tg.tensor(drawn(T, B, F))).outputs.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == np.float64 for p in held)
