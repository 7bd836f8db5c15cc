"""Unrolling a cell through time."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

from .. import tape
from ..ops import stack, where
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from ..whereabouts import ShapeError
from .checks import begin, check_input
from .sequences import over, time_major
from .states import named


class Unrolled(NamedTuple):
    """The result of unrolling: the outputs of all steps, stacked, and the final state."""

    outputs: Any
    state: Any


class Recorded(NamedTuple):
    """The result with ``record=True``: also the gates and states of all steps, stacked, by name."""

    outputs: Any
    state: Any
    record: Any


def unroll(
    cell: Any, xs: Any, state: Any = None, mask: Any = None, *, reverse: bool = False, record: bool = False
) -> Any:
    """Call a cell once per time step: ``output_t, state = cell.step(cell.input_projection(xs)[t], state)``.

    xs: (T, B, ...). The inputs are projected for all T steps at once.
    state: the state to start from; None means the cell's ``initial_state``.
    mask: (T, B), which steps are real. At the others, the state is held, the output is 0 and the input is not read:
        nothing in the padding, not even NaN, affects an output or a gradient.
    reverse: go from the last step to the first. Each row then starts at its own last real step, as padding only holds
        the initial state. Outputs stay in the order of the inputs.
    record: also return the cell's gates and its state after each step, by name, such as "i", "f", "h" and "c".

    Returns Unrolled(outputs (T, B, ...), state), or with ``record`` Recorded(outputs, state, record), where record maps
    names to (T, B, ...). Raises before the first step: ValueError for zero steps or a mask of the wrong shape;
    TypeError and ShapeError for inputs or a state that the cell cannot take.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, state = unroll(nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> outputs.shape, state.c.shape
    ((7, 2, 5), (2, 5))
    >>> sorted(unroll(nn.LSTMCell(3, 5), ones(7, 2, 3), record=True).record)
    ['c', 'f', 'g', 'h', 'i', 'o']
    """
    xs, real = prepare("unroll", cell, xs, mask)
    zs = project(cell, xs, real)
    state = begin(cell, tree_map(itemgetter(0), zs), state)
    return advance(cell, zs, state, real, reverse=reverse, record=record)


def is_cell(cell: Any) -> bool:
    """Whether this has a cell's two methods, and is no class, as ``LSTMCell`` where ``LSTMCell(3, 4)`` is meant."""
    return not isinstance(cell, type) and hasattr(cell, "input_projection") and hasattr(cell, "step")


def check_cell(who: str, cell: Any) -> None:
    """Raise TypeError for anything but a cell."""
    if not is_cell(cell):
        cure = "layer.unrolled_by(bptt.checkpointed)(xs)" if who == "checkpointed" else "layer(xs)"
        raise TypeError(
            f"{who}: a cell is an object with input_projection(x) and step(z, state), but {cell!r} is none; a layer "
            f"goes over the sequence by itself, {cure}, and its cell is layer.cell, or layer.layers[0].cell"
        )


def prepare(who: str, cell: Any, xs: Any, mask: Any = None) -> tuple[Any, Any]:
    """The inputs, and their mask as (T, B, 1), to fit the states and outputs of most cells."""
    check_cell(who, cell)
    xs, real = time_major(who, xs, mask=mask)
    check_features(cell, xs, mask is not None)
    return xs, None if real is None else real[:, :, None]


def project(cell: Any, xs: Any, real: Any) -> Any:
    """Project all inputs at once, without reading padding."""
    return cell.input_projection(xs if real is None else where(over(real, xs), xs, 0))


def advance(
    cell: Any, zs: Any, state: Any, real: Any = None, *, first: int = 0, reverse: bool = False, record: bool = False
) -> Any:
    """The loop over projected inputs; returns what ``unroll`` does. first: the number of the first time step."""
    steps = range(tree_leaves(zs)[0].shape[0])
    take = zs.__getitem__ if isinstance(zs, Tensor) else lambda t: tree_map(itemgetter(t), zs)
    outputs, seen = [], []
    with tape.timeline() as mark:
        for t in reversed(steps) if reverse else steps:
            mark(first + t)
            z = take(t)
            if record:
                output, after, gates = step_and_gates(cell, z, state)
            else:
                output, after = _step(cell, z, state)
            if real is not None:
                after = tree_map(lambda new, old, now=real[t]: _held(now, new, old), after, state)
            outputs.append(output)
            state = after
            if record:
                seen.append((gates, named(state)))
    stacked = _in_time(outputs, real, reverse)
    if not record:
        return Unrolled(stacked, state)
    gates = {name: _in_time([gates[name] for gates, _ in seen], real, reverse) for name in seen[0][0]}
    states = {name: _in_time([held[name] for _, held in seen], None, reverse) for name in seen[0][1]}
    return Recorded(stacked, state, gates | states)


def _held(now: Any, new: Any, old: Any) -> Any:
    """A part of the state after a step that is real for some rows only."""
    if not hasattr(new, "ndim") or now.size > 1 > new.ndim:
        raise TypeError(
            f"with lengths or a mask, each row has a state of its own, so {new!r} cannot be a part of it; make it an "
            "array with a place for each row, (B, 1)"
        )
    return where(over(now, new), new, old)


def check_features(taker: Any, x: Any, masked: bool) -> None:
    """Raise if the inputs do not fit a cell or a layer; without an ``input_size`` nothing is checked."""
    if getattr(taker, "input_size", None) is not None:
        check_input(taker, x)
        if x.ndim < 2:
            told = f"{type(taker).__name__}: inputs of shape {x.shape} are one step"
            raise ShapeError(f"{told}, but a sequence is (T, B, F), or (T, F); cell(x, state) takes one step")
        if x.ndim == 2 and masked:
            raise ValueError(
                f"{type(taker).__name__}: lengths and masks are for batches, but inputs of shape {x.shape} are "
                "one sequence; leave them out, or add an axis for the batch"
            )


def step_and_gates(cell: Any, z: Any, state: Any) -> tuple[Any, Any, dict[str, Any]]:
    """One step, with the gates as a third result, empty for cells without ``full_step``, or with a newer ``step``."""
    if _gives_gates(cell):
        output, after, gates = cell.full_step(z, state)
        return output, after, gates
    if callable(getattr(cell, "gates", None)):
        raise TypeError(
            f"{type(cell).__name__}: gates are the third result of full_step(z, state); gates() is never called"
        )
    return (*_step(cell, z, state), {})


def _gives_gates(cell: Any) -> bool:
    for kind in type(cell).__mro__:  # plainly, as this runs in each time step
        if "full_step" in vars(kind):
            return True
        if "step" in vars(kind):
            return False
    return hasattr(cell, "full_step")


def _step(cell: Any, z: Any, state: Any) -> tuple[Any, Any]:
    taken = cell.step(z, state)
    if not isinstance(taken, tuple):  # a Tensor of two rows would unpack silently
        raise TypeError(f"{type(cell).__name__}.step must return (output, next state), not {taken!r}")
    return taken


def _in_time(values: list[Any], real: Any, reverse: bool) -> Any:
    """The values of all steps, stacked in order of time, with 0 at padding."""
    stacked = stack(values[::-1] if reverse else values)
    return stacked if real is None else where(over(real, stacked), stacked, 0)
