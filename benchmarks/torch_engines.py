"""The training step of ``engines.py`` in PyTorch: with cells from ordinary operations, and with its own nn.LSTM."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from workloads import LR, MAX_NORM, Parameters, Step, cell_of, count_layers


def torch_step(weights: list[Any], forward: Callable[[], Any]) -> Step:
    """Return the part of a step that both PyTorch engines share; forward returns the logits and targets."""
    torch = import_module("torch")
    cross_entropy = import_module("torch.nn.functional").cross_entropy
    optimizer = torch.optim.SGD(weights, lr=LR)

    def step() -> float:
        optimizer.zero_grad()
        logits, targets = forward()
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, MAX_NORM)
        optimizer.step()
        return float(loss.item())

    return step


def torch_layer_norm(x: Any, gain: Any, shift: Any) -> Any:
    """Return x normalised along the last axis, by PyTorch's ordinary operations."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred * (variance + 1e-5).rsqrt() * gain + shift


def torch_fused_layer_norm(x: Any, gain: Any, shift: Any) -> Any:
    """Return the same from PyTorch's fused kernel, which only takes a vector as shift."""
    layer_norm = import_module("torch.nn.functional").layer_norm
    if shift.shape == gain.shape:
        return layer_norm(x, gain.shape, gain, shift)
    return layer_norm(x, gain.shape, gain) + shift


def torch_cell(kind: str, w: Parameters, layer_norm: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a cell from PyTorch's ordinary operations, as its projection of the inputs and its step.

    The parameters w are PyTorch's tensors. The step goes from (z, h, c) to the next (h, c).
    """
    torch = import_module("torch")
    linear = import_module("torch.nn.functional").linear
    sigmoid, tanh, weight_hh = torch.sigmoid, torch.tanh, w["weight_hh"]

    def project(xs: Any) -> Any:
        return linear(xs, w["weight_ih"], w["bias"])

    def lstm(z: Any, h: Any, c: Any) -> Any:
        i, f, g, o = (z + linear(h, weight_hh)).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    def gru(z: Any, h: Any, c: Any) -> Any:
        (z_r, z_z, z_n), (h_r, h_z, h_n) = z.chunk(3, -1), linear(h, weight_hh).chunk(3, -1)
        r, keep = sigmoid(z_r + h_r), sigmoid(z_z + h_z)
        n = tanh(z_n + r * (h_n + w["bias_hn"]))
        return n + keep * (h - n), c

    def peephole(z: Any, h: Any, c: Any) -> Any:
        i, f, g, o = (z + linear(h, weight_hh)).chunk(4, -1)
        i, f = sigmoid(i + w["peephole_i"] * c), sigmoid(f + w["peephole_f"] * c)
        c = f * c + i * tanh(g)
        return sigmoid(o + w["peephole_o"] * c) * tanh(c), c

    def project_normed(xs: Any) -> Any:
        return layer_norm(linear(xs, w["weight_ih"]), w["gain_ih"], w["bias"])

    def layernorm(z: Any, h: Any, c: Any) -> Any:
        i, f, g, o = layer_norm(linear(h, weight_hh), w["gain_hh"], z).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(layer_norm(c, w["gain_c"], w["bias_c"])), c

    def rnn(z: Any, h: Any, c: Any) -> Any:
        return tanh(z + linear(h, weight_hh)), c

    steps = {"rnn": rnn, "lstm": lstm, "gru": gru, "peephole": peephole, "layernorm": layernorm}
    return (project_normed if kind == "layernorm" else project), steps[kind]


def build_torch_cells(
    params: Parameters, tokens: np.ndarray, targets: np.ndarray, layer_norm: Any = torch_layer_norm
) -> Step:
    """PyTorch, with cells from ordinary operations, layer normalisation among them unless another is given."""
    torch = import_module("torch")
    functional = import_module("torch.nn.functional")
    weights = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    inputs, labels = torch.tensor(tokens), torch.tensor(targets)
    cells = []
    for k in range(count_layers(params)):
        start = f"cells.{k}."
        own = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        cells.append(torch_cell(cell_of(params), own, layer_norm))

    def forward() -> Any:
        xs = functional.embedding(inputs, weights["embedding.weight"])
        for project, step in cells:
            h = c = torch.zeros_like(xs[0])
            outputs = []
            for z in project(xs):  # unbinds; indexing [t] would make backward quadratic in T
                h, c = step(z, h, c)
                outputs.append(h)
            xs = torch.stack(outputs)
        return functional.linear(xs, weights["head.weight"], weights["head.bias"]), labels

    return torch_step(list(weights.values()), forward)


def build_torch_lstm(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """PyTorch, with nn.LSTM."""
    torch = import_module("torch")
    vocabulary, hidden = params["embedding.weight"].shape
    embedding, head = torch.nn.Embedding(vocabulary, hidden), torch.nn.Linear(hidden, vocabulary)
    lstm = torch.nn.LSTM(hidden, hidden, count_layers(params))
    names = {"embedding.weight": embedding.weight, "head.weight": head.weight, "head.bias": head.bias}
    with torch.no_grad():
        for k in range(count_layers(params)):
            names[f"cells.{k}.weight_ih"] = getattr(lstm, f"weight_ih_l{k}")
            names[f"cells.{k}.weight_hh"] = getattr(lstm, f"weight_hh_l{k}")
            names[f"cells.{k}.bias"] = getattr(lstm, f"bias_ih_l{k}")
            # PyTorch has a second bias. At zero and frozen, it leaves the results as they are with one.
            getattr(lstm, f"bias_hh_l{k}").zero_().requires_grad_(False)
        for name, value in params.items():
            names[name].copy_(torch.tensor(value))
    inputs, labels = torch.tensor(tokens), torch.tensor(targets)

    def forward() -> Any:
        outputs, _ = lstm(embedding(inputs))
        return head(outputs), labels

    return torch_step(list(names.values()), forward)
