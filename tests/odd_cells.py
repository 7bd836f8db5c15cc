"""Cells that are not those of nn: the least that a cell can be, and one that takes integers."""

from __future__ import annotations

from typing import Any

from tinygrad_rnn import Tensor, nn


class Doubling:
    """The least that a cell can be: two methods. It doubles, and counts its steps."""

    def input_projection(self, x: Any) -> Any:
        return x

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        return 2 * z, state + 1


class Tokens(nn.Module):
    """A cell that looks its inputs up, and so takes integers (T, B)."""

    def __init__(self) -> None:
        self.embedding, self.cell = nn.Embedding(7, 4), nn.GRUCell(4, 6)

    def input_projection(self, x: Any) -> Tensor:
        return self.cell.input_projection(self.embedding(x))

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        return self.cell.step(z, state)

    def initial_state(self, z: Any) -> Any:
        return self.cell.initial_state(z)
