"""Reading the backward pass: it is a list of lines, which is printed here, read, and run as code.

    python examples/learn/06_backward_source.py

``tg.capture`` records one call of a function with everything that it does, the backward pass included. The recording is
a program without a tape: rules and graph have become lines in order, the latest time step first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, tape
from tinygrad_rnn.op import registry

STEPS = 3


def main(options: Options) -> None:
    """Record a step, read its lines, and run them as ordinary Python."""
    w = nn.parameter(tg.randn(4, 4, dtype="float64") / 2)

    @tg.capture
    def step(h: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The last state of a network without input weights, and the gradient of v . h for the recurrent ones."""
        with tape.timeline() as mark:
            for t in range(STEPS):
                mark(t)
                h = tg.tanh(tg.linear(h, w, x[t]))
        return h, tg.grad(h, w, v)

    h, x, v = (tg.randn(*shape, dtype="float64") for shape in ((2, 4), (STEPS, 2, 4), (2, 4)))
    expected = [result.numpy() for result in step(h, x, v)]  # the first call is an ordinary one
    step(h, x, v)  # the second one is recorded

    source = step.source(after="")
    print(source)
    forward, _, back = source.partition("# backward")
    check("there is a tanh for each step", forward.count("tanh(") == STEPS)
    check("and backward its derivative, 1 - y * y", back.count("subtract(1, ") == STEPS)
    check("the uses of w in all steps are joined, for one product", back.count("concatenate(") == 2)
    order = [back.index(f", time step {t}\n") for t in reversed(range(STEPS))]
    check("the walk back begins with the last step", order == sorted(order))

    # The lines are Python: each function is an operation, and on bare arrays an operation is just its kernel.
    space: dict[str, Any] = {op.name: op.function for op in registry.values()} | {"w": w.data}
    space |= {f"argument_{k}": argument.data for k, argument in enumerate((h, x, v))}
    exec(source, space)
    last = source.splitlines()[-1].partition(" = ")[0]
    by_code = tg.tensor(space[last]).numpy()
    check("run as Python, they give the same gradient to the last bit", bool((by_code == expected[1]).all()))

    print("\nWhat is replayed from the third call on, after passes that put it in a better order:")
    print(step.source())
    found = [result.numpy() for result in step(h, x, v)]
    close = all(np.allclose(a, b, rtol=1e-12) for a, b in zip(found, expected, strict=True))
    check("the replay gives what the first call gave", close)


if __name__ == "__main__":
    climb(main)
