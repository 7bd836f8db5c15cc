"""Unrolling: back-propagation through time is back-propagation, through a graph that a loop has drawn.

    python examples/learn/05_unrolling.py

A cell that is called T times leaves a graph with T copies of its operations, all of which use the same weights. There
is nothing recurrent in that graph, and nothing for an engine to know about time: the gradient of a weight is the sum of
what its T uses send back, as for anything else that is used more than once.
"""

from __future__ import annotations

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, tape


def main(options: Options) -> None:
    """Draw the graph, take it apart by time step, and walk back through a very long one."""
    cell, x = nn.RNNCell(2, 3, dtype="float64"), tg.randn(4, 1, 2, dtype="float64")
    _, h = bptt.unroll(cell, x)
    print(tg.draw(h.sum(), names=cell, fold=None))

    state = None
    for t in range(4):  # what unroll does, except that it projects the inputs of all steps at once
        _, state = cell(x[t], state)
    assert state is not None
    check("a loop over the cell ends in the same state", np.allclose(state.numpy(), h.numpy(), rtol=1e-14))

    # T weights instead of one, all with the same values: the gradient of each is the part of one time step.
    shared = cell.weight_hh
    copies = [tg.tensor(shared, requires_grad=True) for _ in range(4)]
    state = tg.zeros(1, 3, dtype="float64")
    for t, weight in enumerate(copies):
        state = tg.tanh(tg.linear(state, weight, cell.input_projection(x[t])))
    parts = tg.grad(state.sum(), copies)
    for t, part in enumerate(parts):
        print(f"the use in step {t} sends back a gradient of norm {np.linalg.norm(part.numpy()):.4f}")
    whole = tg.grad(h.sum(), shared).numpy()
    check("step 0 sends nothing, as the state before it is 0", not parts[0].numpy().any())
    check("the parts add up to the gradient of the shared weight", np.allclose(sum(p.numpy() for p in parts), whole))

    # A horizon ends the walk at a moment: no gradient passes it. That is all there is to truncated BPTT.
    h, moments = tg.zeros(1, 3, dtype="float64"), []
    with tape.timeline() as mark:
        for t in range(4):
            moments.append(mark(t))
            _, h = cell(x[t], h)
    h.sum().backward(horizon=moments[2])
    assert shared.grad is not None
    late = parts[2].numpy() + parts[3].numpy()
    check("with a horizon before step 2 only steps 2 and 3 have a part", np.allclose(shared.grad.numpy(), late))

    steps = 2_000 if options.quick else 50_000
    w, h = tg.tensor(1.0, dtype="float64", requires_grad=True), tg.tensor(1.0, dtype="float64")
    for _ in range(steps):
        h = w * h
    check(f"{steps} steps are as good as four: d w^T / d w = T where w is 1", tg.grad(h, w).item() == steps)


if __name__ == "__main__":
    climb(main)
