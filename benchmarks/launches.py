"""How many launches eager cells ask a GPU for, counted without one, on the stand-in for CuPy that the tests use.

    python benchmarks/launches.py               # seconds; PyTorch's are counted where it is installed

Counted are the kernels, copies and products of one more time step, forward and backward. For PyTorch, with cells made
of ordinary operations, every operation counts that is more than a view.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu import table
from torch_engines import torch_cell
from workloads import Workload, parameter_shapes

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
tg, strict, launched = (import_module(name) for name in ("tinygrad_rnn", "strict", "launched"))
bptt, nn = tg.bptt, tg.nn

CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}
# Of PyTorch's operations, those that launch nothing.
VIEWS = ("view", "t", "select.int", "split.Tensor", "detach", "unbind.int", "transpose.int", "alias", "_unsafe_view")


def more_steps(count: Callable[[int], tuple[int, int]]) -> list[float]:
    """By how much each count grows with one more time step."""
    count(6)  # for what is only done once
    return [(b - a) / 6 for a, b in zip(count(6), count(12), strict=True)]


def of_ours(cell: Any, steps: int) -> tuple[int, int]:
    """Launches forward and back, of an unrolled cell."""
    with launched.launches() as forward:
        outputs, _ = bptt.unroll(cell, tg.ones(steps, 2, 3))
    with launched.launches() as back:
        outputs.sum().backward()
    return len(forward), len(back)


def of_pytorch(kind: str, steps: int) -> tuple[int, int]:
    """Operations that are more than views, forward and back, of the cells that the other benchmarks compare with."""
    torch = import_module("torch")

    class Counting(import_module("torch.utils._python_dispatch").TorchDispatchMode):  # type: ignore[misc]
        found = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.found += function.name().partition("::")[2] not in VIEWS
            return function(*args, **(kwargs or {}))

    shapes = parameter_shapes(Workload(batch=2, steps=steps, hidden_size=4, layers=1), kind)
    own = {name.removeprefix("cells.0."): shape for name, shape in shapes.items()}
    project, step = torch_cell(kind, {name: torch.ones(s, requires_grad=True) for name, s in own.items()}, None)
    h = c = torch.zeros(2, 4)
    outputs = []
    with Counting() as forward:
        for z in project(torch.ones(steps, 2, 4)):
            h, c = step(z, h, c)
            outputs.append(h)
    total = torch.stack(outputs).sum()
    with Counting() as back:
        total.backward()
    return forward.found, back.found


def main() -> None:
    """Print the table."""
    rows = []
    with strict.registered() as home, tg.use_backend(home.name):
        for kind, make in CELLS.items():
            counts = more_steps(partial(of_ours, make(3, 4)))
            if find_spec("torch"):
                counts += more_steps(partial(of_pytorch, kind))
            rows.append([kind, *(f"{count:.4g}" for count in counts)])
    print(table(["launches of one more step", "forward", "back", "PyTorch forward", "PyTorch back"], rows))


if __name__ == "__main__":
    main()
