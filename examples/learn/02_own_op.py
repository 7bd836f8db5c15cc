"""An operation of your own: a kernel, a rule for each input, and the proof that the rule is right.

    python examples/learn/02_own_op.py

The package has no fixed list of operations. Each one is a function on bare arrays, with an expression for each input
that turns the gradient g of the output into that of the input: g times the derivative, the vector-Jacobian product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg


@tg.op
def hardly(xp: Any, x: Any, scale: Any) -> Any:
    """A slow squashing, y = scale * log(1 + |x|) * sign(x); xp is NumPy for NumPy's arrays, CuPy for CuPy's."""
    return scale * xp.log1p(abs(x)) * xp.sign(x)


# The names of a rule's parameters say what it needs, and the tape keeps only that: for x alone, not even y.
hardly.vjp(
    x=lambda g, x, scale: g * scale / (1 + abs(x)),
    scale=lambda g, y, scale: g * y / scale,
)


@tg.op
def wrong(xp: Any, x: Any) -> Any:
    """The square, with a rule that somebody wrote late at night."""
    return x * x


wrong.vjp(x=lambda g, x: g * x)


def main(options: Options) -> None:
    """Check one rule that is right and one that is wrong, and use the right one as if it had always been there."""
    rng = np.random.default_rng(options.seed)
    x, scale = rng.standard_normal((4, 3)), rng.uniform(1, 2, 3)

    tg.check(hardly, x, scale)  # finite differences, first and second order, on arrays and on Tensors; raises if wrong
    print("holds: tg.check finds nothing wrong with hardly")
    try:
        tg.check(wrong, x)
        found = ""
    except tg.CheckError as error:
        found = str(error)
    print(found)
    check("it finds that the rule of the square lacks a factor of 2", "relative error 0.5" in found)

    v = tg.tensor([-2.0, 0.5, 3.0], dtype="float64", requires_grad=True)
    y = hardly(v, 1.5)  # 1.5 is no Tensor: nothing is kept for its rule
    print(f"{y!r} keeps {sorted(y.node.saved)}")  # type: ignore[union-attr]
    slope = tg.grad(y.sum(), v)
    check("its gradient is 1.5 / (1 + |x|)", np.allclose(slope.numpy(), 1.5 / (1 + abs(v.numpy())), rtol=1e-15))

    # The rule also runs on Tensors, and is then recorded itself: gradients of gradients need no more code.
    curvature = tg.hvp(lambda x: hardly(x, 1.5).sum(), v.detach(), tg.ones(3, dtype="float64"))
    expected = -1.5 * np.sign(v.numpy()) / (1 + abs(v.numpy())) ** 2
    check("its second derivative is -1.5 sign(x) / (1 + |x|)^2", np.allclose(curvature.numpy(), expected, rtol=1e-14))


if __name__ == "__main__":
    climb(main)
