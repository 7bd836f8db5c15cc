"""Clipping: a cliff throws gradient descent off, and a limit on the step's length keeps it on its way.

    python examples/learn/08_clipping.py

The loss of a recurrent network is mostly smooth, except for walls, where the gradient explodes. Even a single unit has
them: h_t = w sigmoid(h_{t-1}) + b, and the loss (sigmoid(h_50) - 0.7)^2. A long gradient does not mean that the minimum
is far away, so its direction is kept, and its length is limited. (Pascanu, Mikolov and Bengio 2013)
"""

from __future__ import annotations

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, optim

START = (5.0, -2.45)  # w and b, a little to the side of the wall


def loss_of(w: Tensor, b: Tensor) -> Tensor:
    """The loss after 50 steps from a state of 0.5."""
    h = tg.full((), 0.5, dtype="float64")
    for _ in range(50):
        h = w * tg.sigmoid(h) + b
    return (tg.sigmoid(h) - 0.7) ** 2


def descend(max_norm: float, updates: int) -> tuple[float, float, float]:
    """Go downhill; returns the lowest loss of the last third, the longest gradient, and the longest step."""
    w, b = parameters = [tg.tensor(v, dtype="float64", requires_grad=True) for v in START]
    optimizer = optim.SGD(parameters, lr=0.05)
    longest = farthest = 0.0
    losses = []
    for update in range(updates):
        before = np.array([w.item(), b.item()])
        optimizer.zero_grad()
        loss = loss_of(w, b)
        loss.backward()
        norm = tg.clip_grad_norm_(parameters, max_norm).norm
        optimizer.step()
        moved = float(np.linalg.norm(np.array([w.item(), b.item()]) - before))
        losses.append(loss.item())
        longest, farthest = max(longest, norm), max(farthest, moved)
        if moved > 0.5 or update % (updates // 4) == 0:
            print(f"  update {update:3d}  loss {loss.item():.4f}  gradient {norm:8.2f}  moved {moved:.3f}")
    return min(losses[-updates // 3 :]), longest, farthest


def main(options: Options) -> None:
    """The same descent with and without a limit; and what clipping leaves unchanged."""
    print("without clipping")
    free, longest, farthest = descend(np.inf, 300)
    check("the wall throws it more than 2 away in one step", longest > 40 and farthest > 2)
    print("clipped to a norm of 0.2")
    clipped, longest, farthest = descend(0.2, 300)
    check("its gradient was as long, and no step longer than 0.01", longest > 40 and farthest <= 0.01 * (1 + 1e-12))
    check(f"of its last 100 losses the lowest is {clipped:.4f}, of the other's {free:.4f}", clipped < 0.01 < free)

    p, q = tg.zeros(3, requires_grad=True), tg.zeros(2, requires_grad=True)
    p.grad, q.grad = tg.tensor([3.0, 0.0, 4.0]), tg.tensor([0.0, 12.0])
    report = tg.clip_grad_norm_([p, q], 6.5)
    print(report)
    check(
        "one norm for all parameters together: 13 becomes 6.5",
        np.allclose((report.norm, report.clipped_norm), (13, 6.5)),
    )
    check("so all gradients are scaled alike, and the direction stays", np.allclose(p.grad.numpy(), (1.5, 0, 2)))
    p.grad = tg.tensor([3.0, 0.0, 4.0])
    tg.clip_grad_value_([p], 1.0)
    check("clipping each value instead turns it", np.allclose(p.grad.numpy(), (1, 0, 1)))


if __name__ == "__main__":
    climb(main)
