"""Checkpointed BPTT: the graph is discarded in the forward pass and rebuilt piece by piece in the backward pass."""

from __future__ import annotations

from array import array as int_array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, repeat
from math import ceil, sqrt
from numbers import Integral, Real
from operator import itemgetter
from typing import Any

from .. import backend, ops, tape
from ..grad_mode import enable_grad, no_grad
from ..nn.checks import begin
from ..nn.module import Module
from ..nn.unrolling import Unrolled, advance, prepare, project
from ..record import Watcher
from ..tape import GraphError, Node, bare_array
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from .memory import costs, repeatable
from .schedule import Schedule, best, each_segment, even, lengths


def checkpointed(
    cell: Any,
    xs: Any,
    state: Any = None,
    segments: int | None = None,
    budget: int | None = None,
    mask: Any = None,
    *,
    reverse: bool = False,
) -> Unrolled:
    """``unroll`` in a fraction of the memory: graphs are discarded going forward, and rebuilt going back.

    The steps are divided into segments. Only the state at the start of each is kept (Chen et al. 2016, Gruslys et al.
    2016). When backward reaches a segment, it runs the segment again from that state, so only one segment's graph is
    alive at a time. With the default of sqrt(T) segments, memory grows with sqrt(T), and steps run up to twice.

    cell, xs, state, mask, reverse: as for ``unroll``, as are the results and errors. For a whole layer, such as
        ``nn.LSTM``, say ``layer.unrolled_by(bptt.checkpointed)``.
    segments: their number, from 1 to T, of equal length; ceil(sqrt(T)) if None.
    budget: instead of segments, how many bytes graphs and states may take. Segments are then rebuilt in several levels,
        by the schedule that runs the fewest steps (see ``memory_plan``). Inputs, outputs and their gradients are extra.

    The rebuilt graph has the same operations under the same ids, so everything works as after ``unroll``: ``backward``,
    ``grad`` for any tensors that the cell uses, ``retain_graph``, ``horizon``, and ``create_graph`` (which keeps the
    rebuilt graph, as second derivatives need it). The same random numbers are drawn again. A Module's parameters and
    training flags are those of the first run, even if an optimizer has assigned new arrays since. Each segment's
    results are compared with those of the first run, bit by bit.

    Gradients equal those of ``unroll`` bit for bit, with one exception: work that is split by segments rounds
    differently. Inputs are projected one segment at a time, so gradients of the projection's weights are sums of one
    product per segment, and BLAS may round rows differently in products of few rows. Gradients of weights with more
    than 2^16 elements are also summed per segment, to save memory. Apart from these large weights, results and
    gradients are bit for bit those of ``unroll`` called on one segment after another.
    A projection that draws random numbers, such as that of ``CellDropout(input=...)``, draws them by segments.

    Raises TypeError if segments is not an integer or budget not a number; ValueError if segments is out of range, or if
    the budget is too small, naming the smallest that would do; and, in backward, GraphError if a segment does not
    repeat its results because something that it needs was changed in place.

    >>> from tinygrad_rnn import nn, ones
    >>> cell, xs = nn.LSTMCell(3, 5), ones(100, 2, 3)
    >>> outputs, state = checkpointed(cell, xs, segments=10)
    >>> outputs.mean().backward()
    >>> outputs.shape, cell.weight_hh.grad.shape
    ((100, 2, 5), (20, 5))
    """
    if not isinstance(segments, Integral | None):
        raise TypeError(f"checkpointed: segments says how many, a whole number, and cannot be {segments!r}")
    if not isinstance(budget, Real | None):
        raise TypeError(f"checkpointed: the budget is a number of bytes, and cannot be {budget!r}")
    xs, real = prepare("checkpointed", cell, xs, mask)
    steps = xs.shape[0]
    if segments is not None and budget is not None:
        raise ValueError("checkpointed: give segments or a budget, not both")
    if segments is not None and not 1 <= segments <= steps:
        raise ValueError(f"checkpointed: segments run from 1 to {steps}, the number of time steps, not {segments}")
    if any(isinstance(watcher, _Nodes) for watcher in tape.state.watchers):
        raise GraphError("checkpointed: it was called by a cell that is itself checkpointed; unroll that cell instead")
    run = _Run(cell, reverse, bare_array(xs))
    with repeatable(run.homes):  # the first segment repeats these random draws
        z = project(cell, xs[:1], None if real is None else real[:1])
    state = begin(cell, tree_map(itemgetter(0), z), state)
    if budget is None:
        schedule = even(steps, ceil(sqrt(steps)) if segments is None else int(segments))
    else:
        with repeatable(run.homes):
            schedule = best(steps, *costs(cell, xs[:1], state, real), budget)
    outputs, state = run.play(_filled(schedule, _segments(xs, real, list(lengths(schedule)), reverse)), state)
    return Unrolled(ops.concatenate(outputs[::-1] if reverse else outputs), state)


def _segments(xs: Any, real: Any, sizes: list[int], reverse: bool) -> Iterator[_Segment]:
    """Segments of these lengths, in the order in which the cell runs them."""
    bounds = list(accumulate(sizes[::-1] if reverse else sizes))[:-1]
    reals = [None] * len(sizes) if real is None else ops.split(real, bounds)
    segments = list(map(_Segment, [0, *bounds], ops.split(xs, bounds), reals))
    return iter(segments[::-1] if reverse else segments)


def _filled(schedule: Schedule, segments: Iterator[_Segment]) -> Any:
    """The schedule with segments in place of their lengths."""
    return next(segments) if isinstance(schedule, int) else tuple(map(_filled, schedule, repeat(segments)))


class _Segment:
    """Steps that have either their whole graph or none, and what is needed to compare a rerun with the first run."""

    __slots__ = ("first", "ids", "real", "results", "sums", "xs")

    def __init__(self, first: int, xs: Any, real: Any) -> None:
        self.first, self.xs, self.real = first, xs, real
        self.ids: Sequence[int] | None = None  # of its nodes
        self.results: list[Node | None] = []  # hollow nodes of its outputs and of the state after it
        self.sums: list[Any] = []


class _Piece:
    """A part of the sequence with a discarded graph: the state it starts from, and how to rebuild the graph."""

    __slots__ = ("part", "random", "run", "state")

    def __init__(self, run: _Run, part: Any, state: Any) -> None:
        self.run, self.part, self.state = run, part, state
        self.random = [home.random_state() for home in run.homes]

    def __call__(self) -> dict[int, Node]:
        """Run the part again: the nodes of its results by id, hollow except those of the last segment."""
        with self.run.as_it_was(), repeatable(self.run.homes, self.random), enable_grad():
            results = tree_leaves(self.run.play(self.part, self.state))
        first = next(segment.ids[0] for segment, *_ in each_segment(self.part) if segment.ids)
        found = [x.node for x in results if isinstance(x, Tensor) and isinstance(x.node, Node)]
        return {node.id: node for node in found if node.id >= first}  # others only passed through in the state


class _Run:
    """One call of ``checkpointed``, with a snapshot of the cell."""

    def __init__(self, cell: Any, reverse: bool, xs: Any) -> None:
        self.cell, self.reverse = cell, reverse
        self.homes = list({home.name: home for home in (backend.of(None), backend.of(xs))}.values())
        self.then = _snapshot(cell)

    def play(self, part: Any, state: Any) -> tuple[list[Any], Any]:
        """Run a part: the outputs of its segments, and the state after it. Only the last segment keeps its graph."""
        *earlier, last = part if isinstance(part, tuple) else (part,)
        outputs = []
        for earlier_part in earlier:
            piece = _Piece(self, earlier_part, state)
            for segment, *_ in each_segment(earlier_part):
                output, state = self._pass(segment, state, piece)
                outputs.append(output)
        output, state = self._record(last, state)
        return [*outputs, output], state

    def _advance(self, segment: _Segment, state: Any) -> Any:
        for home in self.homes:
            home.at_border()
        zs = project(self.cell, segment.xs, segment.real)
        return advance(self.cell, zs, state, segment.real, first=segment.first, reverse=self.reverse)

    def _pass(self, segment: _Segment, state: Any, piece: _Piece) -> Any:
        """Run a segment and discard its graph: the results get hollow nodes, which refer to the piece."""
        if segment.ids is None:
            results = self._record(segment, state)
        else:
            with no_grad():
                results = self._advance(segment, state)
        nodes = iter(segment.results)

        def let_go(x: Any) -> Any:
            node = next(nodes)
            if node is None:
                return x
            stand_in = node.hollow()
            stand_in.again = piece
            return Tensor.wrap(x.array, stand_in)

        return tree_map(let_go, results)

    def _record(self, segment: _Segment, state: Any) -> Any:
        """Run a segment and keep its graph, under the ids of the first run."""
        with tape.watching(_Nodes()) as watcher:
            results = self._advance(segment, state)
        nodes, leaves = watcher.nodes, tree_leaves(results)
        sums = [backend.of(array).checksum(array) for array in map(bare_array, leaves)]
        if segment.ids is None:
            segment.ids, segment.sums = int_array("q", [node.id for node in nodes]), sums
            own = {node.id for node in nodes}
            found = [x.node if isinstance(x, Tensor) else None for x in leaves]
            segment.results = [node.hollow() if isinstance(node, Node) and node.id in own else None for node in found]
        elif len(nodes) != len(segment.ids) or not all(a == b for a, b in zip(sums, segment.sums, strict=True)):
            raise GraphError(
                f"checkpointed: time steps {segment.first} to {segment.first + len(segment.xs) - 1} were run again for "
                "the way back, and came out otherwise than the first time. Something that the cell uses was changed in "
                "between: a parameter in place (assign a new array, p.data = p.data - step), or what is no attribute "
                "of a Module, or numbers drawn from a generator of one's own. Call backward before changing it"
            )
        for node, id in zip(nodes, segment.ids, strict=True):
            node.id = id
        return results

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Temporarily restore the cell's tensors and training flags of the time of the call."""
        now = _snapshot(self.cell)
        _restore(self.then)
        try:
            yield
        finally:
            _restore(now)


class _Nodes(Watcher):
    """Collects all nodes in order of creation."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def forward(self, op: Any, inputs: Any, attributes: Any, result: Any) -> None:
        if result.node is not None:
            self.nodes.append(result.node)


def _snapshot(cell: Any) -> tuple[list[tuple[Tensor, Any, Any]], list[tuple[Module, bool]]]:
    """A Module's tensors with their arrays and leaves, and its training flags."""
    if not isinstance(cell, Module):
        return [], []
    return [(t, t.array, t.node) for _, t in cell.named_tensors()], [(m, m.training) for m in cell.modules()]


def _restore(snapshot: tuple[list[tuple[Tensor, Any, Any]], list[tuple[Module, bool]]]) -> None:
    tensors, flags = snapshot
    for t, array, node in tensors:
        t.array, t.node = array, node
    for module, training in flags:
        if module.training is not training:
            module.training = training
