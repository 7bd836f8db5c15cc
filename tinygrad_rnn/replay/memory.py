"""What a replay holds in memory, and which lines made it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from ..backend import signature
from ..tape import at_step
from .arena import part_size
from .blocks import Block
from .joins import gather
from .lanes import Lanes
from .program import Line

_ROWS = 12


class Memory(NamedTuple):
    """Bytes of a replay. Printed, it shows what is in use at the peak, by the lines that made it."""

    planned: int  # the arena, in which all results lie
    naive: int  # one array for each result
    kept: int  # gradients and copies of arguments, beside the arena
    lanes: Lanes

    @property
    def peak(self) -> tuple[Line | None, Counter[Line]]:
        """The line at which most of the arena is in use, and the bytes in use then, by the line that made them."""
        layout, lines = self.lanes.layout, self.lanes.lines
        blocks = layout.blocks
        parts = [block.parts(part_size(blocks)) for block in blocks]
        change = np.zeros(len(lines) + 2, int)
        for low, high, first, last in parts:
            np.add.at(change, first, high - low)
            np.subtract.at(change, last + 1, high - low)
        now = int(change.cumsum().argmax())
        makers: dict[Block, Line] = {}  # the first line with the largest result in each block
        for line in sorted(lines, key=lambda line: -line.result.nbytes):
            for value in line.results:
                if value not in layout.base:
                    makers.setdefault(layout.block[value], line)
        held: Counter[Line] = Counter()
        for block, (low, high, first, last) in zip(blocks, parts, strict=True):
            held[makers[block]] += int((high - low)[(first <= now) & (now <= last)].sum())
        return (lines[min(now, len(lines) - 1)] if lines else None), +held

    def __repr__(self) -> str:
        now, held = self.peak
        arrays, nbytes = Counter(map(_kind, held)), Counter[str]()
        for line, count in held.items():
            nbytes[_kind(line)] += count
        rows = [(size, arrays[kind], kind) for kind, size in nbytes.most_common()]
        if others := rows[_ROWS:]:
            rows[_ROWS:] = [(sum(size for size, *_ in others), sum(count for _, count, _ in others), "others")]
        return "\n".join(
            [
                f"planned {_mb(self.planned)}, of results that take {_mb(self.naive)}; kept beside it {_mb(self.kept)}",
                *([f"in use at {_place(now)}:"] if now else []),
                f"{'MB':>9}{'arrays':>8}  made by",
                *(f"{size / 1e6:>9.3f}{count:>8}  {kind}" for size, count, kind in rows),
            ]
        )


def _kind(line: Line) -> str:
    """The line that made a block, in words; in place of a gather, the line of its first array."""
    while line.function is gather and line.inputs[0].line is not None:
        line = line.inputs[0].line
    return f"{line.phase + ' ' + line.name:<24}{signature(line.result):<22}{line.where}"


def _place(line: Line) -> str:
    return f"{line.phase} {line.name}{at_step(line.step)}{f' ({line.where})' if line.where else ''}"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
