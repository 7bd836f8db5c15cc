"""A whole training step makes the host wait for nothing, whatever the layer and the optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strict
from cell_equations import CASES, D
from waits import READS, counted, waiting

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, optim
from tinygrad_rnn.backend import Backend

T, B, H = 4, 3, 5

LAYERS: dict[str, Any] = {
    **{name: lambda case=case: nn.Recurrent(case.make()) for name, case in CASES.items()},
    "RNN": lambda: nn.RNN(D, H, num_layers=2, dropout=0.5, bidirectional=True),
    "LSTM": lambda: nn.LSTM(D, H, num_layers=2, dropout=0.5, bidirectional=True),
    "GRU": lambda: nn.GRU(D, H, num_layers=2, dropout=0.5, bidirectional=True),
}
OPTIMISERS: dict[str, Any] = {
    "SGD": lambda parameters: optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adagrad": optim.Adagrad,
    "RMSprop": lambda parameters: optim.RMSprop(parameters, centered=True, momentum=0.9),
    "GravesRMSprop": optim.GravesRMSprop,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
}
CLIPS: dict[str, Any] = {
    "norm": lambda parameters: tg.clip_grad_norm_(parameters, 0.1, on_nonfinite="zero"),
    "norm of each": lambda parameters: tg.clip_grad_norm_(parameters, 0.1, per_parameter=True, on_nonfinite="zero"),
    "value": lambda parameters: tg.clip_grad_value_(parameters, 0.1, on_nonfinite="zero"),
    "norm, raising": lambda parameters: tg.clip_grad_norm_(parameters, 0.1),
    "norm, skipping": lambda parameters: tg.clip_grad_norm_(parameters, 0.1, on_nonfinite="skip"),
}


class Model(nn.Module):
    """Symbols in, symbols out."""

    def __init__(self, layer: Any) -> None:
        self.embedding, self.layer, self.dropout = nn.Embedding(7, D), layer, nn.Dropout(0.2)
        width = layer(np.zeros((1, 1, D), np.float32))[0].shape[-1]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 7)

    def forward(self, symbols: Any) -> Any:
        outputs, _ = self.layer(self.embedding(symbols))
        return self.head(self.dropout(self.norm(outputs)))


def train(layer: str, optimiser: str, clip: str, device: Backend, waits: int = 0) -> None:
    """Three steps, of which the first makes the optimiser's buffers."""
    model = Model(LAYERS[layer]()).to(device.name, dtype="float32")
    optimizer = OPTIMISERS[optimiser](model.parameters())
    text = np.random.default_rng(0).integers(0, 7, (T + 1, B))
    inputs, targets = tg.tensor(text[:-1], backend=device.name), tg.tensor(text[1:], backend=device.name)
    losses = []
    for _ in range(3):
        uploads = strict.tally.uploads
        with waiting(device, waits):
            optimizer.zero_grad()
            loss = nn.cross_entropy(model(inputs), targets)
            loss.backward()
            CLIPS[clip](model.parameters())
            optimizer.step()
        assert strict.tally.uploads == uploads
        losses.append(loss)
    assert np.isfinite([loss.item() for loss in losses]).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_waits(layer: str, device: Backend) -> None:
    train(layer, "SGD", "norm", device)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_no_optimiser_waits(optimiser: str, device: Backend) -> None:
    train("LSTM", optimiser, "norm", device)


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_waits_only_where_it_says_so(clip: str, device: Backend) -> None:
    train("GRU", "SGD", clip, device, waits=1 if clip.endswith("ing") else 0)


def test_no_window_waits(device: Backend) -> None:
    cell = nn.LSTMCell(D, H, backend=device.name)
    xs = tg.ones(9, B, D, backend=device.name)

    def step(x: Any, state: Any) -> Any:
        y, state = cell(x, state)
        return (y * y).mean(), state

    with waiting(device):
        for window in bptt.truncated(step, xs, cell.initial_state(xs[0]), k1=2, k2=4):
            window.backward()


@pytest.mark.parametrize("read", READS)
def test_every_way_to_wait_is_counted(read: str, device: Backend) -> None:
    x = device.xp.ones((), dtype=np.float32)
    with counted(device) as found:
        if read in ("get", "tolist", "item"):
            getattr(x, read)()
        elif read == "__array__":
            with pytest.raises(TypeError):
                np.asarray(x)
        else:
            {"__bool__": bool, "__float__": float, "__int__": int}[read](x)
    assert +found == {read: 1}
    with pytest.raises(AssertionError, match="'get': 2"), waiting(device, 1):  # noqa: PT012
        x.get()
        x.get()
