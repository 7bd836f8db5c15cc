"""Passes across time steps: what does not recur is done for many steps at once.

Lines that play the same part in different steps form a class. If no member of a class depends on another one, the class
does not recur: its T small calls can become a few large ones, on inputs that are stacked over time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

from ..program import Line, Program, Value
from ..views import getitem, reshape_line
from .line_classes import Columns, LineClasses
from .order import AT_ONCE, in_order_of

_BLOCK = 2**16  # elements of a block of steps, which stays in the cache while several lines pass over it


def reassociate(program: Program) -> None:
    """(x a) b as x (a b), and (x + a) + b as x + (a + b), where x recurs and a and b do not.

    So a b, or a + b, can be done for many steps at once.
    """
    classes = LineClasses(program)
    readers = program.uses()
    lines: list[Line] = []
    for line in program.lines:
        found = _late_and_early(line, classes, readers)
        if found is not None:
            late, a, b = found
            early = line.again((a, b), Value(late.shape, line.result.dtype))
            lines.append(early)
            line.read((late, early.result))
        lines.append(line)
    program.lines = lines


def _late_and_early(
    line: Line, classes: LineClasses, readers: dict[Value, list[Line]]
) -> tuple[Value, Value, Value] | None:
    if line.function not in (np.multiply, np.add) or line not in classes.of:
        return None
    bit = 1 << classes.of[line]
    for inner, b in (line.inputs, line.inputs[::-1]):
        product = inner.line if isinstance(inner, Value) else None
        if product is None or product.function is not line.function or product.phase != line.phase:
            continue
        if len(readers[inner]) != 1:
            continue
        for late, a in (product.inputs, product.inputs[::-1]):
            shapes = [x.shape if isinstance(x, Value) else None for x in (late, a, b)]
            if (
                shapes[:2] == [line.result.shape] * 2
                and shapes[2] is not None
                and {late.dtype, a.dtype, b.dtype} == {line.result.dtype}  # or a b would lose precision
                and classes.behind[late] & bit
                and not (classes.behind[a] | classes.behind[b]) & bit
            ):
                return late, a, b
    return None


def batch(program: Program) -> None:
    """Make one call for many steps instead of one for each, for elementwise lines that do not recur."""
    _join_classes(program, "ufunc", _BLOCK, _joined_elementwise)


def hoist(program: Program) -> None:
    """Make one product for all steps instead of one for each, where a product's input does not recur."""
    _join_classes(program, "dot", sys.maxsize, _joined_product)


def _join_classes(program: Program, kind: str, most: int, join: Callable[..., list[Line]]) -> None:
    """Join the lines of classes of a kind; the results of those joined to one have ``most`` elements, at most."""
    classes = LineClasses(program)
    position = {line: i for i, line in enumerate(program.lines)}
    after: dict[int, set[int]] = {}  # by chosen class: the chosen classes that it depends on
    columns = Columns(classes)
    chosen: list[tuple[int, list[Line]]] = []
    for number, members in enumerate(classes.members):
        if members[0].kind != kind or classes.recurs(number):
            continue
        at_once = most // max(1, members[0].result.size)
        runs = columns.runs(members) if at_once > 1 else []
        if not runs:
            continue
        candidates = [line for run in runs for line in run]
        behind = columns.behind(candidates)
        before = {other for other in after if behind >> other & 1}
        if behind >> number & 1 or any(_leads_to(after, other, number, classes) for other in before):
            continue
        after[number] = before
        chosen.append((at_once, candidates))
    for at_once, candidates in chosen:
        # Inputs that have just been joined lie in blocks of steps, and runs end where these do.
        for run in columns.runs(candidates):
            for members in (run[k : k + at_once] for k in range(0, len(run), at_once)):
                made = join(members, columns) if len(members) > 1 else []
                if made:
                    position |= dict.fromkeys(made, min(position.pop(line) for line in members))
    program.lines = in_order_of(position | dict.fromkeys(columns.lines, AT_ONCE))


def _leads_to(after: dict[int, set[int]], start: int, goal: int, classes: LineClasses) -> bool:
    """Whether a class depends on another one, directly or through chosen classes."""
    ahead, seen = [start], set()
    while ahead:
        number = ahead.pop()
        if number in seen:
            continue
        seen.add(number)
        if any(classes.behind[v] >> goal & 1 for line in classes.members[number] for v in line.reads):
            return True
        ahead += after.get(number, ())
    return False


def _items(whole: Value, members: list[Line]) -> Iterator[Line]:
    """A new line for each member, which takes its item of the whole."""
    for k, line in enumerate(members):
        yield Line("op", "getitem", getitem, (whole,), {"key": k}, line.result, line)


def _joined_elementwise(members: list[Line], columns: Columns) -> list[Line]:
    first = members[0]
    if any(x.shape != first.result.shape for x in columns.differing(members)):
        return []  # it would have to be broadcast first
    inputs, lines = columns.gather(members)
    whole = Value((len(members), *first.result.shape), first.result.dtype)
    return [*lines, first.again(tuple(inputs), whole), *_items(whole, members)]


def _joined_product(members: list[Line], columns: Columns) -> list[Line]:
    """x_t W for all t as one product, if W is the same."""
    first = members[0]
    weight = first.inputs[1]
    if any(line.inputs[1] is not weight for line in members) or members[1].inputs[0] is first.inputs[0]:
        return []
    (x, _), lines = columns.gather(members)
    steps, rows, size = x.shape
    flat = reshape_line(x, (steps * rows, size), first)
    product = first.again((flat.result, weight), Value((steps * rows, weight.shape[1]), first.result.dtype))
    whole = reshape_line(product.result, (steps, *first.result.shape), first)
    return [*lines, flat, product, whole, *_items(whole.result, members)]
