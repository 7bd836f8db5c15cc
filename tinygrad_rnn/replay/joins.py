"""Passes over what is put together from pieces, and over what is read many times in an order that is slow to read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from .program import Line, Program, Value, reshape_line, slice_line


class _Sequence:
    """A join along its first axis: the pieces in order, each of the same size."""

    def __init__(self, line: Line, pieces: list[Value]) -> None:
        self.line = line
        self.pieces = pieces


def _whole(value: Value) -> Value:
    """What a piece is in its own shape."""
    while value.line is not None and value.line.name in ("reshape", "expand_dims") and value.line.result.size == value.size:
        value = value.line.inputs[0]
    return value


def _sequence(line: Line) -> _Sequence | None:
    """A line as a sequence of pieces, if it is one."""
    pieces = list(line.inputs)
    if line.kind != "op" or len(pieces) < 3 or not all(isinstance(x, Value) for x in pieces):
        return None
    if line.name == "scatter":
        keys = line.attributes["keys"]
        if not all(type(key) is int for key in keys) or sorted(keys) != list(range(line.attributes["shape"][0])):
            return None
        pieces = [piece for _, piece in sorted(zip(keys, pieces, strict=True), key=lambda pair: pair[0])]
    elif line.name not in ("stack", "concatenate", "gather") or line.attributes["axis"] != 0:
        return None
    pieces = [_whole(piece) for piece in pieces]
    sizes = {(piece.size, piece.dtype) for piece in pieces}
    return _Sequence(line, pieces) if len(sizes) == 1 else None


def share_joins(program: Program) -> None:
    """Put pieces together once where several joins want them in the same order, or in one shifted by a few steps.

    So the states after each step, which are a layer's outputs, and those before each step, which its weights' gradient
    needs, are two views of one array.
    """
    position = {line: i for i, line in enumerate(program.lines)}
    found = [sequence for sequence in map(_sequence, program.lines) if sequence is not None]
    found.sort(key=lambda sequence: -len(sequence.pieces))
    groups: list[list[tuple[_Sequence, int]]] = []  # sequences, each with its place within a longer one
    wholes: list[list[Value]] = []
    for sequence in found:
        for group, whole in zip(groups, wholes, strict=True):
            joined = _aligned(whole, sequence.pieces)
            if joined is None:
                continue
            pieces, shift, start = joined
            first = min(position[member.line] for member, _ in [*group, (sequence, 0)])
            if any(piece.line is not None and position[piece.line] >= first for piece in pieces):
                continue  # not all are there when the first one is needed
            whole[:] = pieces
            group[:] = [(member, at + shift) for member, at in group] + [(sequence, start)]
            break
        else:
            groups.append([(sequence, 0)])
            wholes.append(list(sequence.pieces))
    before: dict[Line, list[Line]] = {}
    gone: dict[Line, list[Line]] = {}
    for group, whole in zip(groups, wholes, strict=True):
        if len(group) < 2:
            continue
        first_line = min((member.line for member, _ in group), key=position.__getitem__)
        total = Value((len(whole), *whole[0].shape), whole[0].dtype)
        like = [p if p.shape == whole[0].shape else None for p in whole]
        reshaped = [] if None not in like else [reshape_line(p, whole[0].shape, first_line) for p in whole]
        inputs = tuple(line.result for line in reshaped) if reshaped else tuple(whole)
        before[first_line] = [*reshaped, Line("op", "stack", _stack, inputs, {"axis": 0}, total, first_line)]
        for member, start in group:
            count = len(member.pieces)
            part, lines = total, []
            if count < len(whole):
                lines.append(slice_line(total, slice(start, start + count), (count, *whole[0].shape), member.line))
                part = lines[0].result
            view = reshape_line(part, member.line.result.shape, member.line)
            view.result = member.line.result
            view.result.line = view
            gone[member.line] = [*lines, view]
    lines = []
    for line in program.lines:
        lines += before.get(line, [])
        lines += gone.get(line, [line])
    program.lines = lines


def _aligned(whole: list[Value], pieces: list[Value]) -> tuple[list[Value], int, int] | None:
    """Two sequences as parts of one: that one, how far the first is shifted in it, and where the second starts."""
    if pieces[0] in whole:
        start = whole.index(pieces[0])
        n = min(len(pieces), len(whole) - start)
        if whole[start : start + n] == pieces[:n]:
            return whole + pieces[n:], 0, start
    if whole[0] in pieces:
        shift = pieces.index(whole[0])
        n = min(len(whole), len(pieces) - shift)
        if pieces[shift : shift + n] == whole[:n]:
            return pieces + whole[n:], shift, 0
    return None


def _stack(xp: Any, *xs: Array, axis: int = 0, out: Array = None) -> Array:
    return xp.stack(xs, axis=axis, out=out)


def lay_out_weights(program: Program) -> None:
    """Copy a matrix that many products read transposed, once, so that each of them reads it along its rows."""
    readers = program.uses()
    lines: list[Line] = []
    for line in program.lines:
        lines.append(line)
        if line.name != "transpose" or len(line.result.shape) != 2:
            continue
        products = [r for r in readers.get(line.result, ()) if r.kind == "dot" and r.inputs[1] is line.result]
        if len(products) < 4:
            continue
        copied = Line("op", "contiguous", contiguous, (line.result,), {}, Value(line.result.shape, line.result.dtype), line)
        lines.append(copied)
        for product in products:
            product.inputs = (product.inputs[0], copied.result)
    program.lines = lines


def contiguous(xp: Any, x: Array, *, out: Array = None) -> Array:
    """A copy in which rows lie one behind the other."""
    if out is None:
        return xp.ascontiguousarray(x)
    out[...] = x
    return out
