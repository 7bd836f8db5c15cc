"""Random cells, sizes and optimisers: a replay with ``exact=True`` equals the eager step bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_capture import equal, poison

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, optim

UNARY: list[Callable[[Any], Any]] = [
    tg.tanh,
    tg.relu,
    lambda x: 1 - x,
    lambda x: x * x,
    lambda x: tg.softmax(x, -1),
    lambda x: x.sum(axis=0, keepdims=True) * x,
    lambda x: tg.flip(x, -1),
    lambda x: tg.clip(x, -1, 1),
    lambda x: x.cumsum(axis=-1),
    lambda x: tg.dropout(x, 0.3),
]
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x / (1 + y * y),
    lambda x, y: tg.where(x > y, x, y),
    lambda x, y: tg.concatenate([x, y], axis=-1)[:, : x.shape[-1]],
]
OPTIMIZERS: list[Callable[..., Any]] = [
    lambda ps: optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    lambda ps: optim.AdamW(ps, lr=0.01),
    lambda ps: optim.RMSprop(ps, lr=0.01, centered=True),
]


class RandomCell(nn.Module):
    """Gates of h and the input, then operations, each on two of what is there by then; the last three are the state."""

    def __init__(self, inputs: int, size: int, gates: int, plan: list[tuple[int, int, int]], dtype: str) -> None:
        random = np.random.default_rng(0)

        def weight(*shape: int) -> Any:
            return tg.tensor((0.5 * random.standard_normal(shape)).astype(dtype), requires_grad=True)

        self.w, self.u, self.b = weight(gates * size, inputs), weight(gates * size, size), weight(gates * size)
        self.size, self.gates, self.plan, self.dtype = size, gates, plan, dtype

    def input_projection(self, x: Any) -> Any:
        return tg.linear(x, self.w, self.b)

    def initial_state(self, z: Any) -> Any:
        return tg.zeros(z.shape[0], self.size, dtype=self.dtype), tg.ones(z.shape[0], self.size, dtype=self.dtype)

    def step(self, z: Any, state: Any) -> Any:
        there = [*tg.split(tg.linear(state[0], self.u, z), self.gates, axis=-1), *state]
        for k, i, j in self.plan:
            x, y = there[i % len(there)], there[j % len(there)]
            functions = len(UNARY) + len(BINARY)
            there.append(
                UNARY[k % functions](x) if k % functions < len(UNARY) else BINARY[k % functions - len(UNARY)](x, y)
            )
        h, c = tg.tanh(there[-1]), tg.tanh(tg.sigmoid(there[-2]) * there[-3])
        return h, (h, c)


NUMBER = st.integers(0, 999)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 3]), st.sampled_from([1, 4]), st.integers(1, 3)),
    gates=st.integers(1, 4),
    plan=st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=7),
    dtype=st.sampled_from(["float32", "float64"]),
    make=st.sampled_from(OPTIMIZERS),
    choices=st.tuples(st.booleans(), st.booleans(), st.sampled_from([tg.clip_grad_norm_, tg.clip_grad_value_])),
)
def test_random_cells(sizes: Any, gates: int, plan: Any, dtype: str, make: Any, choices: Any) -> None:
    steps, rows, size, inputs = sizes
    masked, truncated, clip = choices

    def trainer() -> tuple[Any, list[Any]]:
        tg.manual_seed(0)
        cell, head = RandomCell(inputs, size, gates, plan, dtype), nn.Linear(size, 2)
        for p in head.parameters():
            p.requires_grad = False  # so that it can change its dtype
            p.data, p.requires_grad = p.data.astype(dtype), True
        parameters = [*cell.parameters(), *head.parameters()]
        optimizer = make(parameters)

        def one(x: Any, state: Any) -> Any:
            y, state = cell.step(cell.input_projection(x), state)
            return (head(y) ** 2).sum(), state

        def step(x: Any, state: Any, mask: Any, weight: float) -> Any:
            optimizer.zero_grad()
            if truncated:
                for window in bptt.truncated(one, x, state, k1=2, k2=3):
                    window.backward(weight)
                    loss, state = window.loss, window.state
            else:
                outputs, state = bptt.unroll(cell, x, state, mask=mask)
                loss = (head(outputs) ** 2).sum() * weight
                loss.backward()
            clip(parameters, 0.5, on_nonfinite="zero")
            optimizer.step()
            return loss.detach(), bptt.detach(state)

        return step, parameters

    eager, theirs = trainer()
    replayed, ours = trainer()
    captured = tg.capture(replayed, exact=True)
    random = np.random.default_rng(1)
    state = (tg.zeros(rows, size, dtype=dtype), tg.ones(rows, size, dtype=dtype))
    states = [state, state]
    for k in range(5):
        x = tg.tensor(random.standard_normal((steps, rows, inputs)).astype(dtype))
        mask = tg.tensor(random.random((steps, rows)) < 0.7) if masked else None
        results = []
        for i, run in enumerate((eager, captured)):
            tg.manual_seed(k)
            results.append(run(x, states[i], mask, 0.5 + k))
            states[i] = results[i][1]
        equal((results[1], ours, [p.grad for p in ours]), (results[0], theirs, [p.grad for p in theirs]))
        poison(captured)
