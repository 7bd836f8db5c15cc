"""Track arrays that were changed in place: a rule that used an older saved one would mix old and new values.

``x.data -= step`` and replays of a captured step report this by ``wrote``. ``lend`` notes arrays that ``x.data`` hands
out, with a checksum, which is compared when ``x.data`` is read again and in the backward pass of an older graph. Of
bare arrays that callers pass in, such as a buffer that is refilled at each time step, graphs save copies (``own``).
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .tape import clock, state

_writes: list[tuple[weakref.ref[Any], int]] = []  # arrays that were changed in place, and when
# Arrays that were handed out, by place: the memory's owner, when, the checksum then, and the array. It may be gone
# soon, as after w[0].data[:] = 1, while what was written into it stays.
_lent: dict[Any, tuple[weakref.ref[Any], int, Any, weakref.ref[Any]]] = {}
_most = _FEW = 256  # entries, before those whose array is gone are looked through
_writing = threading.Lock()
last_write = 0  # the latest of all those moments: nodes with higher ids need no check


def wrote(*arrays: Array) -> None:
    """Note that arrays were changed in place, so that backward refuses older nodes that saved them."""
    global last_write
    owners = {id(owner): owner for owner in map(owner_of, arrays)}
    with _writing:
        last_write = clock()
        # Dead references, and older entries of these arrays, are dropped.
        _writes[:] = [(ref, when) for ref, when in _writes if (known := ref()) is not None and id(known) not in owners]
        _writes.extend((weakref.ref(owner), last_write) for owner in owners.values())


def lend(array: Array) -> None:
    """Note the checksum of an array that is handed out to someone who may write to it unannounced."""
    global last_write
    if state.keep is not None:  # a recorder refuses such writes itself
        return
    owner, home = owner_of(array), backend.of(array)
    held, place = home.checksum(array), (id(owner), home.address(array), array.dtype, array.shape, array.strides)
    with _writing:
        _, when, before, _ = _lent.get(place, (None, 0, held, None))
        if before is not held:
            _compare(owner, when, before, held)
        last_write = clock()
        kept = weakref.ref(owner, lambda _: _lent.pop(place, None))
        _lent[place] = kept, last_write, held, weakref.ref(array)
        if len(_lent) > _most:
            _settle()


def _compare(owner: Array, when: int, before: Any, now: Any) -> None:
    """If checksums differ, note that someone wrote there, some time after it was handed out."""
    if bool(before != now):
        _writes[:] = [(known, then) for known, then in _writes if known() is not owner or then > when]
        _writes.append((weakref.ref(owner), when))


def _settle() -> None:
    """Drop the entries of arrays that are gone, so that rows of a long series, each read once, do not pile up."""
    global _most
    for place, (ref, when, held, array) in _lent.copy().items():
        if array() is None:
            if (owner := ref()) is not None:
                _compare(owner, when, held, _checksum_at(owner, place))
            _lent.pop(place, None)
    _most = max(_FEW, 2 * len(_lent))


def _checksum_at(owner: Array, place: Any) -> Any:
    home = backend.of(owner)
    return home.checksum(home.at(owner, *place[1:]))


_LARGE = 2**16  # bytes: copying smaller arrays is faster than comparing
_copies: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()  # by id of the array they are of


def own(array: Array) -> Array:
    """A copy of an array that its caller may overwrite, or the last copy if the array is large and unchanged."""
    if state.keep is not None:
        return state.keep(array)
    if not isinstance(array, np.ndarray) or array.nbytes < _LARGE:
        return array.copy("K")  # in the same memory order, which affects how products round
    copy = _copies.get(id(array))  # perhaps of an earlier array with this id, but equality is enough
    if copy is None or copy.dtype != array.dtype or copy.strides != array.strides or not _same_bits(copy, array):
        copy = _copies[id(array)] = array.copy("K")
    return copy


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one dtype are equal, NaN to NaN, and 0.0 not to -0.0."""
    bits = f"u{a.itemsize}"
    return a.itemsize <= 8 and np.array_equal(a.view(bits), b.view(bits))


def overwritten() -> Callable[[Array, int], bool]:
    """A function that says whether the memory of an array was changed in place between a moment and this call."""
    written, lent = _writes.copy(), _lent.copy()  # the rest waits, as most graphs are newer than any write

    @functools.cache
    def by_owner() -> dict[int, list[Any]]:  # by the owner's id, which may be reused
        found: dict[int, list[Any]] = defaultdict(list)
        for ref, when in written:
            found[id(ref())].append((None, ref, when))
        for place, (ref, when, *_) in lent.items():
            found[place[0]].append((place, ref, when))
        return found

    @functools.cache
    def differs(place: Any) -> bool:  # each checksum is computed once
        if place is None:
            return True
        ref, _, held, _ = lent[place]
        return bool(_checksum_at(ref(), place) != held)

    def written_since(array: Array, moment: int) -> bool:
        owner = owner_of(array)
        return any(when > moment and ref() is owner and differs(place) for place, ref, when in by_owner()[id(owner)])

    return written_since


def owner_of(array: Array) -> Array:
    """The array that owns a view's memory."""
    owner = base = array
    while base is not None:
        owner = base if type(base) is type(array) else owner  # as_strided puts an object of another kind in between
        base = getattr(base, "base", None)
    return owner
