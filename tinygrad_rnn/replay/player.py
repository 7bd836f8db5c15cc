"""Plays a program: one call after the other, on fixed arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, pairwise
from operator import setitem
from typing import Any

import numpy as np

from .. import backend, tape
from ..backend import Array, Backend
from ..formula import Pointwise
from ..whereabouts import ShapeError
from .joins import is_join, slots
from .lanes import Lanes
from .program import Line, Value, runs, substitute
from .scalar import Scalar
from .straight import failed_call, straight

# NumPy 2.4.6 reads or writes the wrong elements if the output has gaps; for ``negative``, if the input has some too.
_WRONG_ACROSS_GAPS = {np.negative, np.isfinite, np.isinf, np.isnan}


class Player:
    """The calls of a program, with their arrays."""

    def __init__(self, lanes: Lanes, home: Backend) -> None:
        self.home = home
        self.xp = home.xp
        self.arena = self.xp.zeros(lanes.arena.size, dtype=np.uint8)
        self.arrays: dict[Value, Array] = {}
        self._by_place: dict[Any, Array] = {}
        self._layout = lanes.layout
        self._numbers: dict[Any, tuple[Array, Scalar]] = {}
        # By line. One without a call is included, as lines in other lanes may wait for it.
        self.plan = [(line, self._calls(line)) for line in lanes.lines if line in lanes.of]
        self.calls = [(line, call) for line, calls in self.plan for call in calls]
        self._put = home.setter([array for array, _ in self._numbers.values()])
        by_step = groupby(self.calls, lambda pair: (pair[0].phase, pair[0].step))
        self._play = straight([call for _, call in step] for _, step in by_step)

    def __call__(self) -> None:
        self.set_numbers()
        try:
            self._play()
        except (IndexError, ValueError) as error:
            failed = failed_call(error)
            line = next(line for line, call in self.calls if call is failed)
            kind = IndexError if isinstance(error, IndexError) else ShapeError  # as in an eager step
            raise kind(f"{line.name}: {error}{tape.at_step(line.step)}, {line.where}, in a replay") from error

    def set_numbers(self) -> None:
        """Update the numbers that may change between replays."""
        self._put(*[scalar.run() for _, scalar in self._numbers.values()])

    def steps(self) -> Iterator[tuple[Line, partial[Any]]]:
        """Each call with its line; it must be called before the next one is asked for."""
        self.set_numbers()
        yield from self.calls

    def array(self, value: Value) -> Array:
        """The array that holds a value, or will hold it."""
        if value.constant is not None:
            return value.constant
        if value not in self.arrays:
            place, block = self._layout.place[value], self._layout.block[value]
            if block.outside is block.memory:
                self.arrays[value] = place
            elif not place.size:  # its place may be past the end
                self.arrays[value] = self.xp.zeros(place.shape, place.dtype)
            else:
                memory, offset = self.arena if block.owned else block.outside, self._layout.offset(value)
                key = id(memory), offset, place.shape, place.strides, place.dtype
                if key not in self._by_place:
                    self._by_place[key] = self.home.view(memory, offset, place.shape, place.dtype, place.strides)
                self.arrays[value] = self._by_place[key]
        return self.arrays[value]

    def _given(self, x: Any, line: Line) -> Any:
        """An argument of a call."""
        if isinstance(x, Value):
            return self.array(x)
        if isinstance(x, Scalar):
            return self._number(x, _dtype_of(x, line))
        if self.xp is not np:
            return x.item() if isinstance(x, np.ndarray) else x  # a kernel's 0-d constant
        if type(x) is float and line.kind == "ufunc" and line.result.dtype.kind == "f":
            return np.asarray(x, line.result.dtype)  # twice as fast as a Python number
        return x

    def _number(self, scalar: Scalar, dtype: Any) -> Array:
        """A 0-d array that is set to the number before each replay."""
        key = id(scalar), dtype
        if key not in self._numbers:
            self._numbers[key] = self.xp.zeros((), dtype), scalar
        return self._numbers[key][0]

    def _calls(self, line: Line) -> list[partial[Any]]:
        out = self.array(line.result)
        if is_join(line):
            return self._copies(line, out)
        if line.kind == "fused":
            return [self._generated(line)]
        inputs = [self._given(x, line) for x in line.inputs]
        if line.kind in ("ufunc", "dot"):
            return [self._into(line, inputs, out)]
        if line.kind == "random":
            return [partial(_fill, out, line.function, *line.inputs)]
        new = {value: self.array(value) for value in line.reads}
        attributes, inputs = substitute(line.attributes, new), substitute(inputs, new)  # values inside keys
        if line.writes_out and out.flags.c_contiguous:
            return [partial(line.function, self.xp, *inputs, out=out, **attributes)]
        return [partial(_fill, out, line.function, self.xp, *inputs, **attributes)]

    def _generated(self, line: Line) -> partial[Any]:
        kernel: Pointwise = line.function  # type: ignore[assignment]
        inputs = [
            self.array(x) if isinstance(x, Value) else self._number(x, np.dtype(dtype))
            for x, dtype in zip(line.inputs, kernel.inputs, strict=True)
        ]
        call = self.home.pointwise(kernel)
        return partial(call, *inputs, *map(self.array, line.results))

    def _into(self, line: Line, inputs: list[Any], out: Array) -> partial[Any]:
        """A call with its output, which is passed by position where possible, as this is faster in NumPy."""
        if self.xp is not np or line.function in (np.maximum, np.minimum):
            return partial(getattr(self.xp, line.function.__name__), *inputs, out=out)
        if line.function in _WRONG_ACROSS_GAPS and not out.flags.c_contiguous:
            if line.function is np.negative and out.dtype.kind in "fi":
                return partial(np.multiply, *inputs, np.asarray(-1, out.dtype), out)
            return partial(_fill, out, line.function, *inputs)
        return partial(line.function, *inputs, out)

    def _copies(self, line: Line, out: Array) -> list[partial[Any]]:
        """The copies that bring the pieces of a join to their places."""
        copies: list[tuple[Array, Array]] = []
        for piece, slot in slots(line, out):
            source = self._given(piece, line)
            if not is_same(source, slot):
                copies.append((slot, source))
        if self.xp is np:
            return [partial(np.copyto, slot, source) for slot, source in _in_runs(copies)]
        return [partial(setitem, slot, ..., source) for slot, source in _in_runs(copies)]


def _dtype_of(scalar: Scalar, line: Line) -> Any:
    """The dtype that a Python number would get in a line."""
    others = [x.dtype for x in line.inputs if isinstance(x, Value)]
    return np.result_type(*others, scalar.number) if others else line.result.dtype


def is_same(a: Any, b: Array) -> bool:
    """Whether two arrays have the same memory, shape and strides."""
    if a is b or not hasattr(a, "strides"):
        return a is b
    home = backend.of(a)
    return bool(a.shape == b.shape and a.strides == b.strides and home.address(a) == home.address(b))


def _in_runs(copies: list[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Copies, in which runs of evenly spaced ones are merged into one."""
    for run in runs(copies, lambda run, copy: all(map(_evenly, zip(*run[-2:], copy, strict=True)))):
        slots, sources = zip(*run, strict=True)
        yield (_spread(slots), _spread(sources)) if len(run) > 1 else run[0]


def _evenly(arrays: Sequence[Array]) -> bool:
    """Whether arrays are alike and evenly spaced in one piece of memory."""
    if not all(hasattr(array, "strides") for array in arrays):
        return False  # a Python number
    home = backend.of(arrays[0])
    forms = {(array.shape, array.strides, array.dtype, home.extent(array)) for array in arrays}
    steps = {b - a for a, b in pairwise(map(home.address, arrays))}
    return len(forms) == len(steps) == 1


def _spread(arrays: Sequence[Array]) -> Array:
    """Evenly spaced arrays as one array with a new first axis."""
    home, first = backend.of(arrays[0]), arrays[0]
    step = home.address(arrays[1]) - home.address(first)
    return home.xp.lib.stride_tricks.as_strided(first, (len(arrays), *first.shape), (step, *first.strides))


def _fill(out: Array, function: Callable[..., Array], *args: Any, **attributes: Any) -> None:
    out[...] = function(*args, **attributes)
