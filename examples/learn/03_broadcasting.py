"""Gradients add up: where one number is used many times, it gets the sum of what each use sends back.

    python examples/learn/03_broadcasting.py

Broadcasting is such a use: a bias of 3 numbers that is added to 4 rows is used 4 times. The same goes for a tensor that
occurs twice in a formula, a weight that serves every time step, and a batch that is taken in parts.
"""

from __future__ import annotations

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor


def gradient(x: Tensor) -> np.ndarray:
    """What has accumulated in ``x.grad``, as a NumPy array."""
    assert x.grad is not None
    return x.grad.numpy()


def main(options: Options) -> None:
    """One claim after another, each with the arrays that show it."""
    rows = tg.randn(4, 3, dtype="float64")
    bias = tg.zeros(3, dtype="float64", requires_grad=True)
    arriving = tg.arange(12.0, dtype="float64").reshape(4, 3)  # the gradient of rows + bias
    (rows + bias).backward(arriving)
    print(f"arriving\n{arriving.numpy()}\ngradient of the bias {gradient(bias)}")
    check("a bias gets the sum over the rows it was added to", (gradient(bias) == arriving.numpy().sum(axis=0)).all())

    column = tg.ones(4, 1, dtype="float64", requires_grad=True)
    (rows * column).sum().backward()
    check("a column gets the sum over columns", np.allclose(gradient(column), rows.numpy().sum(axis=1, keepdims=True)))

    x = tg.tensor([3.0, 5.0], requires_grad=True)
    (x * x + x).sum().backward()  # used three times
    check("x * x + x sends back x + x + 1", gradient(x).tolist() == [7.0, 11.0])
    (x * x + x).sum().backward()
    check("a second backward adds to .grad", gradient(x).tolist() == [14.0, 22.0])
    x.grad = None  # what optimizer.zero_grad() does
    (x * x + x).sum().backward()
    check("unless it was emptied", gradient(x).tolist() == [7.0, 11.0])

    # This is useful: a batch that does not fit into memory is taken in parts, and the gradients of the parts add up.
    data, w = tg.randn(64, 5, dtype="float64"), tg.randn(5, dtype="float64", requires_grad=True)
    ((data @ w) ** 2).mean().backward()
    whole, w.grad = gradient(w), None
    for part in range(0, 64, 16):
        (((data[part : part + 16] @ w) ** 2).mean() / 4).backward()
    print(f"whole batch {whole}\nfour parts  {gradient(w)}")
    check("four quarters of a batch give the gradient of the whole, but for rounding", np.allclose(whole, gradient(w)))


if __name__ == "__main__":
    climb(main)
