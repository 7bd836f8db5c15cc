"""One training step in each engine: `build(params, tokens, targets)` returns a function that does a step.

Every step runs forward from a zero state, backward, clips the global gradient norm to 5 and updates by SGD with
learning rate 0.1; it returns the loss before the update. Each engine is written as its users would write it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from torch_engines import build_torch_cells, build_torch_lstm, torch_fused_layer_norm
from workloads import CELLS, LR, MAX_NORM, Parameters, Step, cell_of, count_layers

Build = Callable[[Parameters, np.ndarray, np.ndarray], Step]

COMPARED_STEPS = 3  # the first ones, whose losses must agree with those of other engines

# Engines are imported by name, when first used: each runs in a process of its own, and most are optional.


def build_numpy(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """Forward and BPTT by hand in NumPy."""
    from hand_written import TrainingStep

    return TrainingStep(params, tokens, targets, LR, MAX_NORM)


def build_tinygrad_rnn(
    params: Parameters,
    tokens: np.ndarray,
    targets: np.ndarray,
    replay: Callable[[Any], Any] = lambda step: step,
    cell_type: Any = None,
    unroll: str = "unroll",
    **options: Any,
) -> Step:
    """The engine of this repository, eager.

    replay: makes a step that replays, such as ``capture``. cell_type: in place of the cell that has these parameters.
    unroll: the name of a function of ``bptt``, or "loss inside" for ``checkpointed`` around the whole model, loss
        included. options: keyword arguments of that function.
    """
    import tinygrad_rnn as tg
    from tinygrad_rnn import bptt, nn, optim

    vocabulary, hidden = params["embedding.weight"].shape
    kinds = {
        "rnn": nn.RNNCell,
        "lstm": nn.LSTMCell,
        "gru": nn.GRUCell,
        "peephole": nn.PeepholeLSTMCell,
        "layernorm": nn.LayerNormLSTMCell,
    }
    make_cell = cell_type or kinds[cell_of(params)]

    class CharRNN(nn.Module):
        """Embedding, recurrent cells, linear head."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, hidden)
            self.cells = [make_cell(hidden, hidden) for _ in range(count_layers(params))]
            self.head = nn.Linear(hidden, vocabulary)

        def loss(self, tokens: Any, targets: Any) -> Any:
            """Return the mean cross entropy."""
            if unroll == "loss inside":
                pairs = tg.stack([tokens, targets], axis=-1)
                return bptt.checkpointed(LossOfAStep(self), pairs, **options).outputs.mean()
            xs = self.embedding(tokens)
            for cell in self.cells:
                xs, _ = getattr(bptt, unroll)(cell, xs, **options)
            return nn.cross_entropy(self.head(xs), targets)

    class LossOfAStep(nn.Module):
        """A model as one cell, from tokens and targets (T, B, 2) to the loss of each time step."""

        def __init__(self, model: CharRNN) -> None:
            self.model = model

        def input_projection(self, pairs: Any) -> Any:
            return self.model.cells[0].input_projection(self.model.embedding(pairs[..., 0])), pairs[..., 1]

        def initial_state(self, z: Any) -> Any:
            return [cell.initial_state(z[0]) for cell in self.model.cells]

        def step(self, z: Any, states: Any) -> Any:
            x, after = z[0], list[Any]()
            for cell, state in zip(self.model.cells, states, strict=True):
                x, state = cell.step(cell.input_projection(x) if after else x, state)
                after.append(state)
            return nn.cross_entropy(self.model.head(x), z[1]), after

    model = CharRNN()
    model.load_state_dict(params)
    optimizer = optim.SGD(model.parameters(), lr=LR)
    inputs, labels = (tg.tensor(x, backend=model.head.weight.backend).data for x in (tokens, targets))

    @replay
    def step(tokens: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        loss = model.loss(tokens, targets)
        loss.backward()
        tg.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return loss

    return lambda: float(step(inputs, labels).item())


def build_captured(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """The engine of this repository, replaying a recorded step."""
    from tinygrad_rnn import capture

    return build_tinygrad_rnn(params, tokens, targets, capture)


def build_captured_own(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """The same with a cell as a user might write it, without splitting off what does not recur."""
    import tinygrad_rnn as tg
    from tinygrad_rnn import capture, nn

    class Own(nn.Cell):
        """h = tanh(W x + U h + b)."""

        def __init__(self, input_size: int, hidden_size: int) -> None:
            self.input_size, self.output_size = input_size, hidden_size
            shapes = (hidden_size, input_size), (hidden_size, hidden_size), (hidden_size,)
            self.weight_ih, self.weight_hh, self.bias = (nn.parameter(np.zeros(shape, np.float32)) for shape in shapes)

        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, x: Any, h: Any) -> Any:
            h = tg.tanh(tg.linear(x, self.weight_ih) + tg.linear(h, self.weight_hh) + self.bias)
            return h, h

    return build_tinygrad_rnn(params, tokens, targets, capture, Own)


def build_products(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """Only the matrix products of the captured step, once it has been replayed: a lower bound."""
    from tinygrad_rnn import capture

    captured: list[Any] = []

    def replay(step: Any) -> Any:
        captured.append(capture(step))
        return captured[0]

    step = build_tinygrad_rnn(params, tokens, targets, replay)
    losses: list[float] = []
    products: list[Callable[[], Any]] = []

    def run() -> float:
        for product in products:
            product()
        if len(losses) < COMPARED_STEPS:
            losses.append(step())
            if len(losses) == COMPARED_STEPS:
                player = captured[0].replay.player
                products.extend(call for line, call in player.steps() if line.kind == "dot")
        return losses[-1]

    return run


def build_jax_scan(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """JAX: the whole step compiled, lax.scan over time."""
    jax, jnp = import_module("jax"), import_module("jax.numpy")

    def loss_function(p: Any, inputs: Any, labels: Any) -> Any:
        xs = p["embedding.weight"][inputs]
        for k in range(count_layers(params)):
            weight_hh = p[f"cells.{k}.weight_hh"]

            def cell(state: Any, z: Any, weight_hh: Any = weight_hh) -> Any:
                h, c = state
                i, f, g, o = jnp.split(z + h @ weight_hh.T, 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zeros = jnp.zeros_like(xs[0])
            _, xs = jax.lax.scan(cell, (zeros, zeros), xs @ p[f"cells.{k}.weight_ih"].T + p[f"cells.{k}.bias"])
        log_probabilities = jax.nn.log_softmax(xs @ p["head.weight"].T + p["head.bias"])
        return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1))

    def update(p: Any, inputs: Any, labels: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_function)(p, inputs, labels)
        norm = jnp.sqrt(sum(jnp.vdot(grad, grad) for grad in grads.values()))
        rate = LR * jnp.minimum(1.0, MAX_NORM / (norm + 1e-6))
        return {name: value - rate * grads[name] for name, value in p.items()}, loss

    compiled = jax.jit(update, donate_argnums=0)
    weights = {name: jnp.array(value) for name, value in params.items()}
    inputs, labels = jnp.array(tokens), jnp.array(targets)

    def step() -> float:
        nonlocal weights
        weights, loss = jax.block_until_ready(compiled(weights, inputs, labels))
        return float(loss)

    return step


def build_autograd(params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """HIPS autograd, with an LSTM cell from ordinary operations."""
    autograd, anp = import_module("autograd"), import_module("autograd.numpy")
    getval = import_module("autograd.tracer").getval
    steps, batch = tokens.shape
    at = (np.arange(steps)[:, None], np.arange(batch), targets)

    def sigmoid(x: Any) -> Any:
        return 0.5 * anp.tanh(0.5 * x) + 0.5

    def loss_function(p: Any) -> Any:
        xs = p["embedding.weight"][tokens]
        for k in range(count_layers(params)):
            projected = anp.dot(xs, p[f"cells.{k}.weight_ih"].T) + p[f"cells.{k}.bias"]
            weight_hh_t = p[f"cells.{k}.weight_hh"].T
            n = weight_hh_t.shape[0]
            h = c = np.zeros((batch, n), params["embedding.weight"].dtype)
            outputs = []
            for t in range(steps):
                z = projected[t] + anp.dot(h, weight_hh_t)
                i, f, g, o = z[:, :n], z[:, n : 2 * n], z[:, 2 * n : 3 * n], z[:, 3 * n :]
                c = sigmoid(f) * c + sigmoid(i) * anp.tanh(g)
                h = sigmoid(o) * anp.tanh(c)
                outputs.append(h)
            xs = anp.stack(outputs)
        logits = anp.dot(xs, p["head.weight"].T) + p["head.bias"]
        # The largest logit is a constant: it cancels from the gradient.
        largest = np.max(getval(logits), axis=-1, keepdims=True)
        shifted = logits - largest
        return anp.mean(anp.log(anp.sum(anp.exp(shifted), axis=-1)) - shifted[at])

    value_and_grad = autograd.value_and_grad(loss_function)
    weights = {name: value.copy() for name, value in params.items()}

    def step() -> float:
        loss, grads = value_and_grad(weights)
        norm = sum(float(np.vdot(grad, grad)) for grad in grads.values()) ** 0.5
        rate = LR * min(1.0, MAX_NORM / (norm + 1e-6))
        for name, grad in grads.items():
            weights[name] -= rate * grad
        return float(loss)

    return step


class Engine(NamedTuple):
    """An engine: the package that has to be installed, how to build a step, and the cells that it supports."""

    package: str
    build: Build
    cells: tuple[str, ...] = ("lstm",)


ENGINES = {
    "tinygrad_rnn": Engine("tinygrad_rnn", build_tinygrad_rnn, tuple(CELLS)),
    "captured": Engine("tinygrad_rnn", build_captured, tuple(CELLS)),
    "captured-own": Engine("tinygrad_rnn", build_captured_own, ("rnn",)),
    "products": Engine("tinygrad_rnn", build_products, tuple(CELLS)),
    "numpy": Engine("numpy", build_numpy),
    "torch-cells": Engine("torch", build_torch_cells, tuple(CELLS)),
    "torch-fused-norm": Engine("torch", partial(build_torch_cells, layer_norm=torch_fused_layer_norm), ("layernorm",)),
    "torch-lstm": Engine("torch", build_torch_lstm),
    "jax-scan": Engine("jax", build_jax_scan),
    "autograd": Engine("autograd", build_autograd),
}
