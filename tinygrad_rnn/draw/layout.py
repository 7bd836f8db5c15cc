"""The layout of a drawing: boxes in rows and columns, links in the channels between them.

Rows are the depth of the computation, columns are time steps. A link leaves a box at the bottom and enters one at the
top. Between two rows it runs sideways in its own track; past rows it runs in the gutter beside a column. So it never
crosses a box. Tracks are assigned by the left-edge algorithm (Hashimoto and Stevens 1971).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add

from .sketch import Band, Item, Link, Sketch

Point = tuple[float, float]

BOX_HEIGHT, BESIDE, MARGIN = 34.0, 12.0, 16.0
TITLE_WIDTH, DETAIL_WIDTH = 8.0, 5.6  # of one monospaced letter, at the font sizes in svg.py
LEAVES_IN_A_ROW = 6
FOOTER = 18.0  # for the number of a time step, below its last row


@dataclass(eq=False)
class Box:
    """The place of an item. ``column`` is None outside time steps; a ``wide`` box spans all time steps."""

    item: Item
    column: int | None = None
    wide: bool = False
    row: int = 0
    lane: float = 0.5  # where in its row, from 0 to 1
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(eq=False)
class Wire:
    """The route of a link: direct, or through a gutter."""

    link: Link
    parent: Box
    child: Box
    gutter: int | None = None
    start: float = 0.0  # x at the parent's foot
    end: float = 0.0  # x at the child's head
    points: list[Point] = field(default_factory=list)

    @property
    def gaps(self) -> tuple[int, int]:
        """The rows below which it runs sideways: the parent's, and the one above the child's."""
        return self.parent.row, self.child.row - 1


@dataclass
class Stripe:
    """The background of one time step in one band."""

    step: int
    x: float
    y: float
    width: float
    height: float


class Layout:
    """A sketch on a page: ``boxes``, ``wires``, ``stripes``, and the total size."""

    def __init__(self, sketch: Sketch, pitch: float) -> None:
        self.pitch = pitch
        self.steps = sorted({step for band in sketch.bands for step in band.columns})
        self.rows: list[list[Box]] = []
        self.spans: list[tuple[Band, int, int]] = []  # the rows of each loop over time
        self.boxes: dict[Item, Box] = {}
        self.inputs: dict[Item, list[Link]] = defaultdict(list)
        for link in sketch.links:
            self.inputs[link.child].append(link)
        for k in range(0, len(sketch.leaves), LEAVES_IN_A_ROW):
            self._add_row([Box(item) for item in sketch.leaves[k : k + LEAVES_IN_A_ROW]])
        self.wide = _wide(sketch)
        for band in sketch.bands:
            self._add_band(band)
        self.wires = [Wire(link, self.boxes[link.parent], self.boxes[link.child]) for link in sketch.links]
        for wire in self.wires:
            wire.gutter = self._gutter(wire)
        self._place_columns()
        self._place_ports()
        self._place_rows()
        for wire in self.wires:
            wire.points = self._way(wire)

    # ---- which row and which column ----

    def _add_row(self, row: list[Box]) -> None:
        for box in row:
            box.row = len(self.rows)
            item, letter = box.item, 6.8 if box.item.kind == "leaf" else TITLE_WIDTH
            ports = len(self.inputs[item]) + len(item.constants)
            box.width = max(letter * len(item.title), DETAIL_WIDTH * len(item.detail), 10.0 * ports) + 14
            self.boxes[box.item] = box
        self.rows.append(row)

    def _add_band(self, band: Band) -> None:
        first = len(self.rows)
        if not band.columns:
            for level in self._levels(band.items, None):
                narrow = [box for box in level if not box.wide]
                for row in ([narrow] if narrow else []) + [[box] for box in level if box.wide]:
                    self._add_row(row)
            return
        cells = [self._levels(items, self.steps.index(step)) for step, items in band.columns.items()]
        for k in range(max(map(len, cells))):
            self._add_row([box for levels in cells if k < len(levels) for box in levels[k]])
        self.spans.append((band, first, len(self.rows) - 1))

    def _levels(self, items: list[Item], column: int | None) -> list[list[Box]]:
        """Items by depth, each level sorted by the positions of its parents."""
        depth: dict[Item, int] = {}
        levels: list[list[Box]] = []
        lanes: dict[Item, float] = {}
        for item in items:  # in order of creation, so parents come first
            depth[item] = max((depth[k.parent] + 1 for k in self.inputs[item] if k.parent in depth), default=0)
            levels += [[] for _ in range(depth[item] + 1 - len(levels))]
            levels[depth[item]].append(Box(item, column, item in self.wide))
        for level in levels:
            for box in level:
                above = [lanes[k.parent] for k in self.inputs[box.item] if k.parent in lanes]
                box.lane = sum(above) / len(above) if above else 0.5
            level.sort(key=lambda box: box.lane)
            for k, box in enumerate(level):
                lanes[box.item] = box.lane = (k + 0.5) / len(level)
        return levels

    def _gutter(self, wire: Wire) -> int | None:
        """The gutter that a link takes, if any. A gutter has the number of the column to its right."""
        (above, below), parent, child = sorted(wire.gaps), wire.parent, wire.child
        if above == below:
            return None
        if any(row[0].column is None for row in self.rows[above + 1 : below + 1]):  # these have no gutters inside
            last = len(self.steps)
            side = parent.lane if parent.column is None else (parent.column + 0.5) / last
            return 0 if parent.item.kind == "leaf" or side < 0.5 else last
        if child.column is None:
            return 0 if parent.column is None else parent.column + 1
        if parent.column == child.column:
            return child.column + (parent.lane > 0.5)
        return child.column + (parent.column is not None and parent.column > child.column)

    # ---- from left to right ----

    def _place_columns(self) -> None:
        cells: dict[tuple[int, int | None], list[Box]] = defaultdict(list)
        alike = max((box.width for box in self.boxes.values() if box.column is not None), default=0.0)
        for box in self.boxes.values():
            cells[box.row, box.column].append(box)
            box.width = box.width if box.column is None else alike
        widths = [14.0 * max(len(f"t = {step}") for step in self.steps) + 10 for _ in self.steps]
        for (_, column), cell in cells.items():
            if column is not None:
                widths[column] = max(widths[column], _breadth(cell))
        spans: dict[int, dict[Item, list[float]]] = defaultdict(lambda: defaultdict(list))
        for wire in self.wires:
            if wire.gutter is not None:
                spans[wire.gutter][wire.parent.item] += wire.gaps
        tracks = {gutter: left_edge(nets) for gutter, nets in spans.items()}
        gutters = [20 + self.pitch * _count(tracks.get(k, {})) for k in range(len(self.steps) + 1)]
        outside = max((_breadth(cell) for (_, column), cell in cells.items() if column is None), default=0.0)
        within = sum(widths) + sum(gutters[1:-1])
        inner = max(outside, within)
        left = MARGIN + gutters[0]
        self.width = left + inner + gutters[-1] + MARGIN
        self.lefts = [*accumulate(map(add, widths, gutters[1:]), initial=left + (inner - within) / 2)][:-1]
        self.widths = widths
        starts = [MARGIN, *map(add, self.lefts, widths)]
        starts[-1] = left + inner
        self.gutter_x = {
            (k, item): starts[k] + 10 + self.pitch * (track + 0.5)
            for k, net in tracks.items()
            for item, track in net.items()
        }
        for (_, column), cell in cells.items():
            start, room = (left, inner) if column is None else (self.lefts[column], widths[column])
            x = start if cell[0].item.kind == "leaf" else start + (room - _breadth(cell)) / 2
            for box in cell:
                box.x = x
                if box.wide:
                    box.x, box.width = self.lefts[0] - 6, self.lefts[-1] + widths[-1] + 12 - self.lefts[0]
                x += box.width + BESIDE

    def _place_ports(self) -> None:
        """Where links leave and enter boxes; those that enter are sorted by where they come from."""
        entering: dict[Box, list[Wire]] = defaultdict(list)
        for wire in self.wires:
            wire.start = wire.parent.middle
            entering[wire.child].append(wire)
        self.constants: list[tuple[Box, float, str]] = []
        for box in self.boxes.values():
            wires, stubs = sorted(entering[box], key=self._comes_from), box.item.constants
            count, taken = len(wires) + len(stubs), set()
            ports = [box.x + box.width * (k + 1) / (count + 1) for k in range(count)]
            for wire, x in zip(wires, ports, strict=False):
                if box.wide:
                    x = min(max(self._comes_from(wire), box.x + 8), box.x + box.width - 8)
                    while x in taken:
                        x += 5 if x < box.middle else -5
                    taken.add(x)
                wire.end = x
            self.constants += [(box, x, input) for x, input in zip(ports[len(wires) :], stubs, strict=True)]
        for wire in self.wires:
            if wire.parent.wide:
                wire.start = wire.end if wire.gutter is None else self.gutter_x[wire.gutter, wire.parent.item]
                wire.start = min(max(wire.start, wire.parent.x), wire.parent.x + wire.parent.width)

    def _comes_from(self, wire: Wire) -> float:
        return wire.parent.middle if wire.gutter is None else self.gutter_x[wire.gutter, wire.parent.item]

    # ---- from top to bottom ----

    def _place_rows(self) -> None:
        spans: dict[int, dict[Item, list[float]]] = defaultdict(lambda: defaultdict(list))
        for wire in self.wires:
            for gap, ends in self._sideways(wire):
                if ends[0] != ends[1]:
                    spans[gap][wire.parent.item] += ends
        self.tracks = {gap: left_edge(nets, apart=6) for gap, nets in spans.items()}
        self.last_rows = {last for _, _, last in self.spans}
        y, self.tops = MARGIN, []
        for row, boxes in enumerate(self.rows):
            self.tops.append(y)
            for box in boxes:
                box.y = y
            y += BOX_HEIGHT + FOOTER * (row in self.last_rows) + 22 + self.pitch * _count(self.tracks.get(row, {}))
        self.height = y - 22 + MARGIN
        self.stripes = [
            Stripe(
                step,
                self.lefts[column] - 6,
                self.tops[first] - 8,
                self.widths[column] + 12,
                self.tops[last] + BOX_HEIGHT + FOOTER + 8 - self.tops[first],
            )
            for band, first, last in self.spans
            for step in band.columns
            for column in [self.steps.index(step)]
        ]

    def _sideways(self, wire: Wire) -> list[tuple[int, tuple[float, float]]]:
        """The horizontal stretches between rows: (gap, (from x, to x))."""
        if wire.gutter is None:
            return [(wire.parent.row, (wire.start, wire.end))]
        x = self.gutter_x[wire.gutter, wire.parent.item]
        return [(wire.gaps[0], (wire.start, x)), (wire.gaps[1], (x, wire.end))]

    def _way(self, wire: Wire) -> list[Point]:
        points: list[Point] = [(wire.start, wire.parent.y + BOX_HEIGHT)]
        for gap, ends in self._sideways(wire):
            track = self.tracks.get(gap, {}).get(wire.parent.item, 0)
            y = self.tops[gap] + BOX_HEIGHT + FOOTER * (gap in self.last_rows) + 10 + self.pitch * (track + 0.5)
            points += [(x, y) for x in ends]
        return [*points, (wire.end, wire.child.y)]


def left_edge(nets: dict[Item, list[float]], apart: float = 0) -> dict[Item, int]:
    """A track for each net, given the places that it connects; nets that overlap get different tracks."""
    ends: list[float] = []
    tracks: dict[Item, int] = {}
    for item, places in sorted(nets.items(), key=lambda net: min(net[1])):
        free = (k for k, end in enumerate(ends) if end + apart < min(places))
        track = next(free, len(ends))
        ends[track : track + 1] = [max(places)]
        tracks[item] = track
    return tracks


def _wide(sketch: Sketch) -> set[Item]:
    """The items outside time steps that have links to several of them."""
    touched: dict[Item, set[int]] = defaultdict(set)
    for link in sketch.links:
        for item, other in ((link.parent, link.child), (link.child, link.parent)):
            if item.step is None and other.step is not None:
                touched[item].add(other.step)
    return {item for item, steps in touched.items() if len(steps) > 1}


def _breadth(cell: Iterable[Box]) -> float:
    """The width of boxes side by side."""
    return sum(box.width + BESIDE for box in cell) - BESIDE


def _count(tracks: dict[Item, int]) -> int:
    return max(tracks.values(), default=-1) + 1
