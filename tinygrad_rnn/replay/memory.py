"""What a replay holds in memory, and by whom it was made."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from ..tape import said
from .arena import part_size
from .blocks import Block
from .joins import gather
from .lanes import Lanes
from .program import Line, described

_ROWS = 12


class Memory(NamedTuple):
    """Bytes of a replay. Printed, it says what is in use when most is: bytes, arrays, the largest, and its line."""

    planned: int  # of the arena in which all results lie
    naive: int  # of one array for each result
    kept: int  # of gradients and copies of arguments, which are there beside the arena
    lanes: Lanes

    @property
    def peak(self) -> tuple[Line | None, Counter[Line]]:
        """The line at which most of the arena is in use, and the bytes of each block by the line that made it."""
        layout, lines = self.lanes.layout, self.lanes.lines
        blocks = layout.blocks
        parts = [block.parts(part_size(blocks)) for block in blocks]
        change = np.zeros(len(lines) + 2, int)
        for low, high, first, last in parts:
            np.add.at(change, first, high - low)
            np.subtract.at(change, last + 1, high - low)
        now = int(change.cumsum().argmax())
        makers: dict[Block, Line] = {}  # the first line of those with the largest result in a block
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
    """What made a block: for arrays that are beside each other so that one call can do several steps, the first one."""
    while line.function is gather and line.inputs[0].line is not None:
        line = line.inputs[0].line
    return f"{line.phase + ' ' + line.name:<24}{described(line.result):<22}{line.where}"


def _place(line: Line) -> str:
    return f"{line.phase} {line.name}{said(line.step)}{f' ({line.where})' if line.where else ''}"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
