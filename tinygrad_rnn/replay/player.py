"""Plays a program: one call after the other, on fixed arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..backend import Array
from .joins import address, is_join, slots, writes
from .layout import Layout
from .program import Line, Program, Value, substitute
from .straight import straight
from .symbol import Scalar


class Player:
    """The calls of a program, with their arrays."""

    def __init__(self, program: Program, layout: Layout, xp: Any) -> None:
        self.xp = xp
        self.arena = xp.zeros(layout.size, dtype=np.uint8)
        self.arrays: dict[Value, Array] = {}
        self._by_place: dict[Any, Array] = {}
        self._layout = layout
        self.scalars: list[tuple[Array, Scalar]] = []
        self._numbers: dict[Any, Array] = {}
        self.calls: list[partial[Any]] = []
        self.lines: list[Line] = []  # of each call
        for group in _siblings(program.lines):
            for call in self._together(group) or [call for line in group for call in self._calls(line)]:
                self.calls.append(call)
                self.lines.append(group[0])
        self._play = straight(self.calls)

    def __call__(self) -> None:
        self.set_numbers()
        self._play()

    def set_numbers(self) -> None:
        """Take over the numbers that may change between replays."""
        for array, scalar in self.scalars:
            array[()] = scalar.run()

    def steps(self) -> Iterator[tuple[Line, partial[Any]]]:
        """Each call with its line; it is to be called before the next one is asked for."""
        self.set_numbers()
        yield from zip(self.lines, self.calls, strict=True)

    def poison(self) -> None:
        """Make every byte of the arena 0xff, NaN in floating point: what a replay reads it must have written."""
        self.arena.fill(255)

    def array(self, value: Value) -> Array:
        """Where a value is, or will be."""
        if value.constant is not None:
            return value.constant
        if value not in self.arrays:
            place, block = self._layout.place[value], self._layout.block[value]
            if not block.owned:
                self.arrays[value] = place
            elif not place.size:  # its place may be behind the end
                self.arrays[value] = self.xp.zeros(place.shape, place.dtype)
            else:
                offset = address(place) - block.address + block.offset
                key = offset, place.shape, place.strides, place.dtype
                if key not in self._by_place:
                    self._by_place[key] = np.ndarray(place.shape, place.dtype, self.arena, offset, place.strides)
                self.arrays[value] = self._by_place[key]
        return self.arrays[value]

    def _given(self, x: Any, line: Line) -> Any:
        """An argument of a call."""
        if isinstance(x, Value):
            return self.array(x)
        if isinstance(x, Scalar):
            return self._number(x, line)
        if type(x) is float and line.kind == "ufunc" and line.result.dtype.kind == "f":
            return np.asarray(x, line.result.dtype)  # which NumPy takes twice as quickly as a Python number
        return x

    def _number(self, scalar: Scalar, line: Line) -> Array:
        """A 0-d array that is set to the number before each replay: in the dtype that a Python number would take on."""
        others = [x.dtype for x in line.inputs if isinstance(x, Value)]
        dtype = np.result_type(*others, scalar.number) if others else line.result.dtype
        if (scalar, dtype) not in self._numbers:
            array = self._numbers[scalar, dtype] = self.xp.zeros((), dtype)
            self.scalars.append((array, scalar))
        return self._numbers[scalar, dtype]

    def _calls(self, line: Line) -> list[partial[Any]]:
        if line.result in self._layout.base:
            return []
        out = self.array(line.result)
        if is_join(line):
            return self._copies(line, out)
        inputs = [self._given(x, line) for x in line.inputs]
        if line.kind in ("ufunc", "dot"):
            return [_into(line.function, inputs, out)]
        if line.kind == "random":
            return [partial(_fill, out, line.function, **line.attributes)]
        new = {value: self.array(value) for value in line.reads}
        attributes = {name: substitute(value, new) for name, value in line.attributes.items()}
        inputs = [substitute(x, new) if isinstance(x, (tuple, list)) else x for x in inputs]
        if writes(line) and out.flags.c_contiguous:
            return [partial(line.function, self.xp, *inputs, out=out, **attributes)]
        return [partial(_fill, out, line.function, self.xp, *inputs, **attributes)]

    def _together(self, lines: list[Line]) -> list[partial[Any]]:
        """One call for lines that do the same with one array, if the rest lies at equal distances."""
        if len(lines) < 2 or any(line.result in self._layout.base for line in lines):
            return []
        columns: list[Any] = [[self._given(line.inputs[k], line) for line in lines] for k in range(2)]
        columns.append([self.array(line.result) for line in lines])
        if len({address(out) for out in columns[2]}) < len(lines):
            return []
        order = sorted(range(len(lines)), key=lambda i: address(columns[2][i]))
        arrays = []
        for column in columns:
            column = [column[i] for i in order]
            if all(x is column[0] for x in column):
                arrays.append(column[0])
                continue
            if not _evenly(column):
                return []
            arrays.append(_spread(column))
        return [_into(lines[0].function, arrays[:2], arrays[2])]

    def _copies(self, line: Line, out: Array) -> list[partial[Any]]:
        """What it takes to bring the pieces of a join to their places, if they are not there yet."""
        copies: list[tuple[Array, Array]] = []
        for piece, slot in slots(line, out):
            source = self._given(piece, line)
            if hasattr(source, "strides") and address(source) == address(slot) and source.strides == slot.strides:
                continue
            copies.append((slot, source))
        return [partial(np.copyto, slot, source) for slot, source in _in_runs(copies)]


def _in_runs(copies: list[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Copies, of which those that follow each other at equal distances become one."""
    run: list[tuple[Array, Array]] = []
    for copy in [*copies, None]:
        if run and copy is not None and _follows(run, copy):
            run.append(copy)
            continue
        if len(run) > 1:
            yield tuple(_spread(arrays) for arrays in zip(*run, strict=True))  # type: ignore[misc]
        elif run:
            yield run[0]
        run = [] if copy is None else [copy]


def _follows(run: list[tuple[Array, Array]], copy: tuple[Array, Array]) -> bool:
    return all(_evenly([*(pair[k] for pair in run[-2:]), copy[k]]) for k in range(2))


def _evenly(arrays: Sequence[Array]) -> bool:
    """Whether arrays are alike and lie at equal distances in one piece of memory."""
    if not all(hasattr(array, "strides") for array in arrays):
        return False  # a Python number
    first, step = arrays[0], address(arrays[1]) - address(arrays[0])
    form = first.shape, first.strides, first.dtype
    return all(
        (now.shape, now.strides, now.dtype) == form
        and address(now) - address(before) == step
        and _root(now) is _root(first)
        for before, now in pairwise(arrays)
    )


def _root(array: Array) -> Array:
    """The array whose memory a view shows."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def _spread(arrays: Sequence[Array]) -> Array:
    """Arrays at equal distances as one, along a new first axis."""
    step = address(arrays[1]) - address(arrays[0])
    first = arrays[0]
    return np.lib.stride_tricks.as_strided(first, (len(arrays), *first.shape), (step, *first.strides))


def _siblings(lines: list[Line]) -> Iterator[list[Line]]:
    """Lines that follow each other, and call one elementwise function with one value and another, in groups."""
    group: list[Line] = []
    for line in lines:
        if group and _is_sibling(group, line):
            group.append(line)
            continue
        if group:
            yield group
        group = [line]
    if group:
        yield group


def _is_sibling(group: list[Line], line: Line) -> bool:
    first = group[0]
    if (
        line.kind != "ufunc"
        or line.function is not first.function
        or len(line.inputs) != 2
        or line.result.shape != first.result.shape
    ):
        return False
    if not all(isinstance(x, Value) and x.shape == line.result.shape for x in (*line.inputs, *first.inputs)):
        return False
    shared = [k for k in range(2) if all(member.inputs[k] is line.inputs[k] for member in group)]
    return bool(shared) and not any(member.result in line.reads for member in group)


def _into(function: Callable[..., Any], inputs: list[Any], out: Array) -> partial[Any]:
    """A call that writes its result: quicker with the output by position, which maximum and minimum do not take."""
    if function in (np.maximum, np.minimum):
        return partial(function, *inputs, out=out)
    return partial(function, *inputs, out)


def _fill(out: Array, function: Callable[..., Array], *args: Any, **attributes: Any) -> None:
    out[...] = function(*args, **attributes)
