"""A recurrent network by hand, forward and back-propagation through time in NumPy, and then the same by the engine.

    python examples/learn/04_rnn_by_hand.py

    h_t = tanh(W_ih x_t + W_hh h_{t-1} + b),    loss = the sum of all h_t squared

In the backward pass the gradient of h_t has two parts: what the loss sends to h_t itself, and what h_{t+1} sends.
"""

from __future__ import annotations

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn


def by_hand(x: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """The loss, the gradients of W_ih, W_hh and b, and that of W_hh once more, summed in another order."""
    steps, batch, _ = x.shape
    hidden = len(b)
    z = (x.reshape(steps * batch, -1) @ w_ih.T + b).reshape(steps, batch, hidden)  # does not recur: all steps at once
    h = np.zeros((steps + 1, batch, hidden), x.dtype)  # h[0] is the initial state
    for t in range(steps):
        h[t + 1] = np.tanh(h[t] @ w_hh.T + z[t])
    loss = (h[1:] * h[1:]).sum()

    da = np.empty_like(z)  # the gradient of what goes into tanh
    one_by_one = np.zeros_like(w_hh)
    g = np.zeros_like(h[0])  # the gradient of h[t + 1] that comes from the future: none after the last step
    for t in reversed(range(steps)):
        g = 2 * h[t + 1] + g
        da[t] = g * (1 - h[t + 1] * h[t + 1])
        one_by_one += da[t].T @ h[t]  # as textbooks write it: a small product in every step
        g = da[t] @ w_hh

    rows = da.reshape(steps * batch, hidden)  # all uses of a weight at once: one product of tall matrices
    dw_ih = rows.T @ x.reshape(steps * batch, -1)
    dw_hh = rows.T @ h[:-1].reshape(steps * batch, hidden)
    return loss, dw_ih, dw_hh, da.sum(axis=(0, 1)), one_by_one


def main(options: Options) -> None:
    """Compare, to the last bit where both do the same additions in the same order."""
    steps, batch, features, hidden = 30, 8, 5, 16
    cell, x = nn.RNNCell(features, hidden, dtype="float64"), tg.randn(steps, batch, features, dtype="float64")
    loss, *by_us, one_by_one = by_hand(x.numpy(), *(p.numpy() for p in cell.parameters()))

    outputs, _ = bptt.unroll(cell, x)
    total = (outputs * outputs).sum()
    gradients = tg.grad(total, list(cell.parameters()))

    print(f"loss {loss} by hand, {total.item()} by the engine")
    on_cpu = options.backend == "numpy"  # another device adds in another order
    check("the loss is the same" + " to the last bit" * on_cpu, same(np.asarray(loss), total.numpy(), on_cpu))
    for (name, _), ours, g in zip(cell.named_parameters(), by_us, gradients, strict=True):
        check(f"the gradient of {name} is the same" + " to the last bit" * on_cpu, same(ours, g.numpy(), on_cpu))

    # A sum of small products is rounded after every step, the sum inside one tall product in another order: neither is
    # more accurate than the other, and they differ in the last digits.
    apart = abs(one_by_one - by_us[1]).max() / abs(one_by_one).max()
    print(f"summed step by step, that of weight_hh differs by {apart / np.finfo(float).eps:.1f} ulp of the largest")
    check("added up in another order, it is the same but for rounding", apart < 1e-14)


def same(a: np.ndarray, b: np.ndarray, exactly: bool) -> bool:
    """Whether two arrays are equal: to the last bit, or to 12 digits of the largest number."""
    return bool((a == b).all() if exactly else abs(a - b).max() <= 1e-12 * abs(a).max())


if __name__ == "__main__":
    climb(main)
