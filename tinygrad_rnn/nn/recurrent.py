"""Unrolling a cell through time."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

from .. import tape
from ..ops import stack, where
from ..tree import tree_leaves, tree_map


class Unrolled(NamedTuple):
    """What a recurrent network returns: the outputs of all steps, stacked, and the state after the last."""

    outputs: Any
    state: Any


def unroll(cell: Any, xs: Any, state: Any = None, mask: Any = None) -> Unrolled:
    """Call a cell once per time step: ``output_t, state = cell.step(cell.input_projection(xs)[t], state)``.

    xs: (T, B, F). The projection of the inputs is done for all T steps at once.
    state: what the cell starts from; its ``initial_state`` if None.
    mask: (T, B), whether a step is real. Where it is not, the state is held and the output is 0.

    Returns (outputs (T, B, ...), state). Raises ValueError for no steps, or for a mask of another shape.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, state = unroll(nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> outputs.shape, state.c.shape
    ((7, 2, 5), (2, 5))
    """
    zs = cell.input_projection(xs)
    leaves = tree_leaves(zs)
    steps = leaves[0].shape[0] if leaves[0].ndim else 0
    if not steps:
        raise ValueError(
            f"unroll: there are no time steps in inputs of shape {tuple(xs.shape)}; time is the first axis"
        )
    if mask is not None and tuple(mask.shape) != tuple(leaves[0].shape[:2]):
        raise ValueError(
            f"unroll: the mask has shape {tuple(mask.shape)}, but steps and batch are {tuple(leaves[0].shape[:2])}"
        )
    if state is None:
        if not hasattr(cell, "initial_state"):
            raise ValueError(f"unroll: {type(cell).__name__} has no initial_state, so a state must be given")
        state = cell.initial_state(zs[0])
    outputs = []
    with tape.timeline() as mark:
        for t in range(steps):
            mark(t)
            output, after = cell.step(tree_map(itemgetter(t), zs), state)
            if mask is not None:
                real = mask[t][:, None]
                after = tree_map(lambda new, old, real=real: where(real, new, old), after, state)
                output = where(real, output, 0)
            outputs.append(output)
            state = after
    return Unrolled(stack(outputs), state)
