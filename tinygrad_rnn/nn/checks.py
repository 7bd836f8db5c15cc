"""Checks of sizes, and that inputs and states fit a cell, done once before the first step rather than in every step."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..backend import plain, signature
from ..tape import bare_array
from ..tree import alike, keys_of, rebuild
from ..whereabouts import ShapeError


def check_sizes(layer: Any, least: int, **sizes: Any) -> None:
    """Raise TypeError for a size that is no whole number, and ValueError for one that is too small."""
    for name, size in sizes.items():
        whole = isinstance(size, (int, np.integer))
        if not whole or size < least:
            told = f"{type(layer).__name__}: {name} is a whole number, at least {least}, not {size!r}"
            raise (ValueError if whole else TypeError)(told)


def check_generator(who: str, generator: Any) -> None:
    """Raise TypeError unless it is a generator of NumPy's: a seed would be drawn from anew each time."""
    if not isinstance(generator, np.random.Generator):
        raise TypeError(
            f"{who}: the random generator is one of NumPy's, such as rng = np.random.default_rng(0), not {generator!r}"
        )


def check_input(cell: Any, x: Any) -> None:
    """Raise unless the inputs are floating-point, with ``cell.input_size`` features along the last axis."""
    name, size = type(cell).__name__, cell.input_size
    if not hasattr(plain(x), "dtype"):
        raise TypeError(f"{name}: the inputs must be a Tensor or an array, not a {type(x).__name__}")
    if x.dtype.kind != "f":
        cure = f"turn symbols into vectors, nn.Embedding(count, {size})(x), and numbers into x.astype('float32')"
        raise TypeError(f"{name}: the inputs {outline(x)} are not floating-point; {cure}")
    if not x.ndim or x.shape[-1] != size:
        raise ShapeError(
            f"{name}: the inputs {outline(x)} do not fit input_size {size}, which is the length of their last axis: "
            f"(T, B, {size}) for all steps, (B, {size}) for one"
        )


def begin(cell: Any, z: Any, state: Any = None) -> Any:
    """The state to start from: the given one, checked, or the cell's own for z, the projected input of one step.

    Plain tuples and lists may stand in for named tuples. Raises ShapeError for wrong shapes and TypeError for a wrong
    structure, before anything is computed.
    """
    if state is None:
        return initial_state(cell, z)
    outer, asking.for_shapes = asking.for_shapes, True
    try:
        needed = initial_state(cell, z)
    except NoInitialState:
        return state
    finally:
        asking.for_shapes = outer
    if not _fits(state, needed):
        pair = type(state) is tuple or hasattr(state, "outputs")
        returned = pair and len(state) == 2 and _fits(state[1], needed)
        cure = "Cells and layers return two things, output, state = cell(x, state). " if returned else ""
        raise (ShapeError if _fits(state, needed, shapes=False) else TypeError)(
            f"{type(cell).__name__}: the state {outline(state)} does not fit; for this input it must be "
            f"{outline(needed)}. {cure}Leave it out to begin from the initial state"
        )
    return _as(needed, state)


class _Asking(threading.local):
    """Whether an initial state is needed only for its shapes, so that no random numbers should be drawn."""

    for_shapes = False


asking = _Asking()


class NoInitialState(ValueError):
    """A cell, or one within it, has no initial state, so a given state cannot be checked against it."""


def initial_state(cell: Any, z: Any) -> Any:
    """The cell's initial state for z, the projected input of one step; raises NoInitialState if it has none."""
    if not hasattr(cell, "initial_state"):
        raise NoInitialState(f"{type(cell).__name__}: it has no initial_state, so a state must be given")
    return cell.initial_state(z)


def _fits(state: Any, needed: Any, shapes: bool = True) -> bool:
    """Whether a state matches ``needed`` in structure and kinds of dtypes, and if ``shapes`` also in shapes."""
    if isinstance(needed, (dict, tuple, list)):
        return alike(needed, state) and all(_fits(state[k], needed[k], shapes) for k in keys_of(needed))
    if needed is None or not hasattr(needed, "dtype"):  # None, or a number such as a count of steps
        return needed is None or isinstance(state, type(needed))
    if not hasattr(plain(state), "dtype") or state.dtype.kind != needed.dtype.kind:
        return False
    return not shapes or state.shape == needed.shape


def _as(needed: Any, state: Any) -> Any:
    """A state that fits, rebuilt with the container types of ``needed``."""
    if isinstance(needed, (dict, tuple, list)):
        return rebuild(needed, [_as(needed[k], state[k]) for k in keys_of(needed)])
    return state


def outline(tree: Any) -> str:
    """A state in words: ``LSTMState(h f32[2,5], c f32[2,5])``."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name} {outline(part)}" for name, part in tree.items()) + "}"
    if isinstance(tree, (tuple, list)):
        names = getattr(tree, "_fields", [""] * len(tree))
        parts = ", ".join(f"{name} {outline(part)}".strip() for name, part in zip(names, tree, strict=True))
        return f"{type(tree).__name__}({parts})"
    tree = bare_array(tree)
    return signature(tree) if hasattr(tree, "dtype") else type(tree).__name__
