"""CPU and GPU: the same code, as the arrays decide where an operation runs.

    python examples/learn/17_devices.py

Parameters and random inputs are drawn on the host on every backend, so both start from the same numbers. What follows
differs in the last digits, as the two add up in different orders. (CuPy: pip install "tinygrad-rnn[cuda12]")
"""

from __future__ import annotations

import time

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim


def train(backend: str, seed: int, hidden: int, updates: int) -> tuple[list[float], float]:
    """The losses of an LSTM that learns to add up what it hears, and the seconds for one update."""
    with tg.use_backend(backend):  # where new tensors are made; what is computed from them stays there
        tg.manual_seed(seed)
        lstm, head = nn.LSTM(2, hidden), nn.Linear(hidden, 1)
        parameters = [*lstm.parameters(), *head.parameters()]
        optimizer = optim.Adam(parameters, lr=0.005)
        x = tg.rand(20, 64, 2)
        target = x[:, :, 0].cumsum(axis=0) / 20
        losses = []
        for _ in range(updates):
            start = time.perf_counter()
            loss = nn.mse_loss(head(lstm(x).outputs)[:, :, 0], target)
            optimizer.zero_grad()
            loss.backward()
            tg.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())  # waits for the device, so that the clock is right
            seconds = time.perf_counter() - start
    return losses, seconds


def main(options: Options) -> None:
    """The same training on every backend that works here."""
    hidden, updates = (32, 15) if options.quick else (128, 40)
    found = {}
    for backend in tg.available_backends():
        losses, seconds = train(backend, options.seed, hidden, updates)
        found[backend] = np.array(losses)
        print(
            f"{backend:<8} loss {losses[0]:.6f}, in the end {losses[-1]:.6f}; the last update {1000 * seconds:.1f} ms"
        )
        check(f"{backend} learns", losses[-1] < 0.8 * losses[0])
    host = found.pop("numpy")
    for backend, curve in found.items():
        check(f"{backend} begins with the same loss as NumPy", np.allclose(curve[0], host[0], rtol=1e-5))
        check(f"{backend} learns as NumPy does", np.allclose(curve, host, rtol=0.02))
    if "cupy" not in found:
        print("There is no GPU with CuPy here, so this was the CPU alone.")

    x = tg.ones(3, backend="numpy")
    for backend in tg.available_backends():
        y = x.to(backend)
        check(f"a copy lies on {backend}, where what is made of it stays", (y + y).backend == backend)
        check(f"it comes back from {backend}", (y + y).to("numpy").tolist() == [2, 2, 2])


if __name__ == "__main__":
    climb(main)
