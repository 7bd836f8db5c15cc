"""Time and work of each line of a replay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from .program import Line


class Row(NamedTuple):
    """Time and work of one line, or of one kind of line."""

    calls: int
    seconds: float
    flops: int
    nbytes: int  # read and written


class Profile:
    """Time, floating-point operations and bytes of one replay, by line and by kind of line."""

    def __init__(self, lines: Sequence[tuple[Line, Row]]) -> None:
        self.lines = list(lines)

    @property
    def kinds(self) -> dict[str, Row]:
        """The sums by phase and function, the slowest first."""
        sums: dict[str, list[Row]] = defaultdict(list)
        for line, row in self.lines:
            sums[f"{line.phase} {line.name}"].append(row)
        rows = {name: Row(*map(sum, zip(*group, strict=True))) for name, group in sums.items()}
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    def __str__(self) -> str:
        lines = [f"{'':<28}{'calls':>8}{'ms':>10}{'MFLOP':>10}{'MB':>10}{'GFLOP/s':>10}"]
        for name, row in self.kinds.items():
            rate = row.flops / row.seconds / 1e9 if row.seconds else 0.0
            numbers = f"{1e3 * row.seconds:>10.3f}{row.flops / 1e6:>10.2f}{row.nbytes / 1e6:>10.2f}{rate:>10.2f}"
            lines.append(f"{name:<28}{row.calls:>8}{numbers}")
        return "\n".join(lines)
