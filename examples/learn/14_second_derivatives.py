"""Derivatives of derivatives, through time: the backward pass is made of operations, and can be differentiated too.

    python examples/learn/14_second_derivatives.py

With ``create_graph=True`` the rules run on Tensors instead of arrays, so the backward pass leaves a graph of its own.
That gives curvature through time, and losses on gradients, such as "do not vanish".
"""

from __future__ import annotations

from math import factorial

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim


def main(options: Options) -> None:
    """A closed form, a Hessian, a product with it, and a loss on a gradient."""
    steps = 20
    w = tg.tensor(1.5, dtype="float64", requires_grad=True)
    y = tg.tensor(1.0, dtype="float64")
    for _ in range(steps):
        y = w * y
    for order in (1, 2, 3, 4):  # of w^T
        y = tg.grad(y, w, create_graph=True)
        expected = factorial(steps) / factorial(steps - order) * 1.5 ** (steps - order)
        print(f"derivative {order} of w^{steps} at 1.5: {y.item():.12g}")
        check("this is T! / (T - n)! w^(T - n)", abs(y.item() / expected - 1) < 1e-12)

    cell, xs = nn.GRUCell(2, 3, dtype="float64"), tg.randn(6, 2, 2, dtype="float64")

    def loss_of(weight: Tensor) -> Tensor:
        """The loss as a function of the recurrent weights, all of them in one vector."""
        h = tg.zeros(2, 3, dtype="float64")
        for t in range(6):
            gates, new = cell.input_projection(xs[t])
            r, z, n = tg.split(tg.linear(h, weight.reshape(9, 3), gates), 3, axis=-1)
            h = tg.tanh(new + tg.sigmoid(r) * n) * (1 - tg.sigmoid(z)) + tg.sigmoid(z) * h
        return (h * h).mean()

    weight, v = cell.weight_hh.detach().reshape(27), tg.randn(27, dtype="float64")
    product = tg.hvp(loss_of, weight, v).numpy()
    hessian = tg.jacobian(lambda u: tg.grad(loss_of(u), u, create_graph=True), weight).numpy()
    check("the Hessian of 6 steps of a GRU is symmetric", np.allclose(hessian, hessian.T, rtol=1e-10, atol=1e-14))
    check("a product with a vector needs no Hessian", np.allclose(product, hessian @ v.numpy(), rtol=1e-10))
    little = 1e-5
    up, down = (tg.vjp(loss_of, weight + e * v)[1](1.0)[0].numpy() for e in (little, -little))
    check("and is the slope of the gradient", np.allclose(product, (up - down) / (2 * little), rtol=1e-6, atol=1e-9))

    print("\na loss on a gradient: let that of the first state be as long as that of the last")
    rnn, xs = nn.RNNCell(2, 16, dtype="float64"), 0.1 * tg.randn(20, 4, 2, dtype="float64")
    optimizer = optim.Adam(rnn.parameters(), lr=0.01)
    lengths = []
    for update in range(60 if options.quick else 150):
        first = tg.zeros(4, 16, dtype="float64", requires_grad=True)
        last = bptt.unroll(rnn, xs, first).state
        g = tg.grad(last.sum(), first, create_graph=True)
        length = tg.sqrt((g * g).mean())
        lengths.append(length.item())
        optimizer.zero_grad()
        (tg.log(length) ** 2).backward()
        optimizer.step()
        if update % 30 == 0:
            print(f"  update {update:3d}: {length.item():.2e} of the gradient is left after 20 steps")
    check("it had vanished, and does so no more", lengths[0] < 0.05 and lengths[-1] > 0.5)


if __name__ == "__main__":
    climb(main)
