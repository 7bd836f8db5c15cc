"""Passes that fuse elementwise lines into generated kernels: one line with several results."""

from __future__ import annotations

from typing import Any

from ...formula import Pointwise
from ..program import Line, Program, Value
from ..views import Slice, column_slices, columns_line
from .pointwise import is_pointwise, kernel

_QUIET = tuple(f"{__package__.partition('.')[0]}.{folder}." for folder in ("ops", "replay"))
_OPERANDS = 48  # of a kernel at most: its launch parameters must fit into 4096 bytes


def narrow(program: Program) -> None:
    """Compute slice by slice what is only read in slices, as gates are, so that it can be fused with its readers."""
    readers = program.uses()
    instead: dict[Line, list[Line]] = {}  # by slice: the lines that compute it instead
    for line in reversed(program.lines):
        read = readers.get(line.result, [])
        slices = column_slices(line.result, read)
        if slices and len(slices) == len(read) and is_pointwise(line):
            for part in slices:
                instead[part.line] = _sliced(line, part, readers)
    lines: list[Line] = []
    ahead = program.lines[::-1]
    while ahead:
        line = ahead.pop()
        if line in instead:
            ahead += instead.pop(line)[::-1]
        else:
            lines.append(line)
    program.lines = lines  # dead lines are dropped after each pass


def _sliced(line: Line, cut: Slice, readers: dict[Value, list[Line]]) -> list[Line]:
    """Lines that compute a slice of a line's result from slices of its inputs."""
    lines: list[Line] = []
    inputs: list[Any] = []
    for x in line.inputs:
        if isinstance(x, Value) and x.shape and x.shape[-1] > 1:
            part = columns_line(x, cut.start, cut.stop, line)
            readers[x] = [*(reader for reader in readers[x] if reader is not line), part]
            lines.append(part)
            x = part.result
        inputs.append(x)
    result = line.again(tuple(inputs), cut.line.result, like=cut.line)
    for part in lines:
        readers[part.result] = [result]
    return [*lines, result]


def fuse(program: Program) -> None:
    """Delay elementwise lines of one shape as long as possible, and fuse them into one kernel.

    Lines that need their results wait too. A line that needs one of these waiting lines cannot join the kernel that
    they wait for: that kernel is written down, and the line begins the next one.
    """
    _Fusion(program).run()


class _Group:
    """Elementwise lines of one shape that wait to be fused."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.needs: set[_Group] = set()  # groups that must come before it


class _Fusion:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers = program.uses()
        self.lines: list[Line] = []  # written down, in order
        self.groups: dict[tuple[int, ...], _Group] = {}  # by shape
        self.group_of: dict[Line, _Group] = {}
        self.names: dict[Pointwise, str] = {}
        self.later: dict[Line, set[_Group]] = {}  # other lines that wait for groups, in order

    def run(self) -> None:
        for line in self.program.lines:
            if is_pointwise(line):
                self._join(line)
            elif (needs := self._needs(line)) and _is_quiet(line):
                self.later[line] = needs
            else:
                self._go(needs)
                self.lines.append(line)
        self._go(set(self.groups.values()))
        self.program.lines = self.lines

    def _needs(self, line: Line, but: _Group | None = None) -> set[_Group]:
        """The groups that must come before a line, except ``but``, which the line is to join."""
        needs: set[_Group] = set()
        for source in (x.line for x in line.reads if x.line is not None):
            group = self.group_of.get(source)
            if group is None:
                needs |= self.later.get(source, set())
            elif group is not but:
                needs.add(group)
        return needs

    def _join(self, line: Line) -> None:
        shape = line.result.shape
        group = self.groups.setdefault(shape, _Group())
        full = len(group.lines) > _OPERANDS // 4 and _operands(group.lines, self.readers) > _OPERANDS
        if full or group in _all(self._needs(line, but=group)):
            self._go({group})
            group = self.groups.setdefault(shape, _Group())
        group.needs |= self._needs(line, but=group)
        group.lines.append(line)
        self.group_of[line] = group

    def _go(self, groups: set[_Group]) -> None:
        """Write down groups, after those that they need, and then the lines that waited only for them."""
        everything = _all(groups)
        for shape, group in list(self.groups.items()):
            if group in everything and self.groups.get(shape) is group:
                del self.groups[shape]
                self._go(group.needs)
                self.lines += [line for part in _parts(group.lines) for line in self._fused(part)]
                for line in group.lines:
                    del self.group_of[line]
                self._release(group)

    def _fused(self, group: list[Line]) -> list[Line]:
        """One line for a group; its results are the values that others read."""
        if len(group) == 1:
            return group
        inside = set(group)
        first, *more = (line.result for line in group if not inside.issuperset(self.readers.get(line.result, ())))
        function, inputs = kernel(group, [first, *more])
        name = self.names.setdefault(function, f"pointwise{len(self.names) + 1}")
        return [Line("fused", name, function, tuple(inputs), {}, first, group[-1], tuple(more))]  # type: ignore[arg-type]

    def _release(self, gone: _Group) -> None:
        for group in self.groups.values():
            group.needs.discard(gone)
        for line, needs in list(self.later.items()):
            needs.discard(gone)
            if not needs:
                del self.later[line]
                self.lines.append(line)


def _parts(lines: list[Line]) -> list[list[Line]]:
    """Split lines into parts that share no values, so that two directions need not wait for each other.

    Lines outside of time steps stay together.
    """
    parts: list[tuple[set[Any], list[Line]]] = []
    for line in lines:
        own = {x for x in (*line.reads, *line.results) if x.line is not None and x.shape == line.result.shape}
        shared: set[Any] = own if line.step is not None else {None, *own}
        joined: list[Line] = []
        for part in [part for part in parts if not shared.isdisjoint(part[0])]:
            parts.remove(part)
            shared |= part[0]
            joined += part[1]
        parts.append((shared, [*joined, line]))
    return [part for _, part in parts]


def _all(groups: set[_Group]) -> set[_Group]:
    """Groups, and all groups that they need, directly or not."""
    return groups.union(*(_all(group.needs) for group in groups))


def _is_quiet(line: Line) -> bool:
    """Whether a line may be delayed. One that may raise or draws random numbers keeps its place."""
    module = getattr(line.function, "__module__", None) or ""
    return line.kind in ("ufunc", "dot") or module.startswith(_QUIET)


def _operands(group: list[Line], readers: dict[Value, list[Line]]) -> int:
    """How many arrays a group reads from outside or leaves to others."""
    inside = set(group)
    read = {x for line in group for x in line.reads if x.line not in inside}
    return len(read) + sum(not inside.issuperset(readers.get(line.result, ())) for line in group)
