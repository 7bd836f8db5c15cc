"""Arrays that were changed in place: a rule that used what it saved of one would mix old and new values.

``x.data -= step`` and replays of a captured step say so by ``wrote``. What ``x.data`` hands out is noted by ``lend``,
with a checksum, and looked at when it is asked for again, and by the backward of an older graph. Of bare arrays that
are handed in, such as a buffer that is filled anew for each time step, graphs save copies, which ``own`` makes.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .tape import clock, state

_writes: list[tuple[weakref.ref[Any], int]] = []  # arrays that were changed in place, and when
_lent: list[tuple[weakref.ref[Any], int, Any]] = []  # arrays that were handed out, when, and their checksums then
_writing = threading.Lock()
last_write = 0  # the latest of all those moments: a node with a higher id need not look


def wrote(*arrays: Array) -> None:
    """Note that arrays were changed in place, so that older nodes refuse to use what they saved of them."""
    global last_write
    owners = {id(owner): owner for owner in map(owner_of, arrays)}
    with _writing:
        last_write = clock()
        # A dead reference gives None, which is no owner's id.
        _writes[:] = [(ref, when) for ref, when in _writes if (known := ref()) is not None and id(known) not in owners]
        _writes.extend((weakref.ref(owner), last_write) for owner in owners.values())


def lend(array: Array) -> None:
    """Note what an array holds as it is handed out to someone who may write to it without a word."""
    global last_write
    owner, held = owner_of(array), backend.of(array).checksum(array)
    with _writing:
        for ref, when, before in _lent:
            if ref() is array and bool(before != held):
                _writes[:] = [(known, then) for known, then in _writes if known() is not owner or then > when]
                _writes.append((weakref.ref(owner), when))
        last_write = clock()
        _lent[:] = [entry for entry in _lent if (known := entry[0]()) is not None and known is not array]
        _lent.append((weakref.ref(array), last_write, held))


def own(array: Array) -> Array:
    """A copy of an array that the caller may write into, or the last copy if it is large and still the same."""
    if not state.copies:
        return array
    if not isinstance(array, np.ndarray) or array.nbytes < _LARGE:
        return array.copy()
    copy = _copies.get(id(array))  # another array may have had that id: what counts is that it is equal
    if copy is None or copy.dtype != array.dtype or not np.array_equal(copy, array):
        copy = _copies[id(array)] = array.copy()
    return copy


_LARGE = 2**16  # bytes: smaller arrays are copied sooner than compared
_copies: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()


def overwritten() -> Callable[[Array, int], bool]:
    """A function that says whether the memory of an array was changed in place after a moment, and before this call."""
    noted = [*((ref, when, None) for ref, when in _writes), *_lent]

    @functools.cache
    def by_owner() -> dict[int, list[int]]:  # which may concern an array, by its id, which others may have later
        found: dict[int, list[int]] = {}
        for k, (ref, *_) in enumerate(noted):
            found.setdefault(id(owner_of(ref())), []).append(k)
        return found

    @functools.cache
    def differs(k: int) -> bool:  # each array is looked at once
        ref, _, held = noted[k]
        return held is None or bool(backend.of(array := ref()).checksum(array) != held)

    def written_since(array: Array, moment: int) -> bool:
        owner = owner_of(array)
        about = [(k, *noted[k]) for k in by_owner().get(id(owner), ())]
        return any(when > moment and owner_of(ref()) is owner and differs(k) for k, ref, when, _ in about)

    return written_since


def owner_of(array: Array) -> Array:
    """The array whose memory a view shows."""
    owner = base = array
    while base is not None:
        owner = base if type(base) is type(array) else owner  # as_strided puts an object of another kind in between
        base = getattr(base, "base", None)
    return owner
