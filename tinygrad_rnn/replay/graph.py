"""Plays a program as CUDA graphs: one launch in place of one for each call.

A graph holds launches with their addresses, so all that they read and write stays where it is: results in the arena,
temporaries in a pool of their own, ports and numbers in buffers. What needs the host, and random numbers, come between
two graphs.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any

from ..backend import Backend
from ..cublas import Cublas
from ..tape import collector_resting
from .layout import Layout
from .player import Player
from .program import Line, Program


class GraphPlayer(Player):
    """The calls of a program: played one by one at first, which makes what a graph may not make, then as graphs."""

    def __init__(self, program: Program, layout: Layout, home: Backend) -> None:
        super().__init__(program, layout, home)
        self._cuda = home.xp.cuda
        self._pool: Any = None
        self._stream: Any = None
        self._has_played = False  # without running out of memory
        self._graphs: list[Callable[[], Any]] | None = None

    def __call__(self) -> None:
        self.set_numbers()
        if self._graphs is not None:
            for launch in self._graphs:
                launch()
        elif not self._has_played:
            if self._pool is None:
                self._set_apart()
            with self._aside():
                self._play()
            self._has_played = True
        else:
            self._graphs = self._captured()
            for launch in self._graphs:
                launch()

    def _set_apart(self) -> None:
        """Make a pool and a stream, of whose memory nothing is to be left when this player is gone."""
        self._pool, self._stream = self._cuda.MemoryPool(), self._cuda.Stream(non_blocking=True)
        blas, place = getattr(self.home, "cublas", None), (self._cuda.runtime.getDevice(), self._stream.ptr)
        weakref.finalize(self, _free, self._pool, blas, place).atexit = False

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream and with a pool of its own, after what is under way, and before all that follows."""
        present = self._cuda.get_current_stream()
        self._stream.wait_event(present.record())
        try:
            with self._cuda.using_allocator(self._pool.malloc), self._stream:
                yield
        finally:
            present.wait_event(self._stream.record())

    def _captured(self) -> list[Callable[[], Any]]:
        """A launch for each graph, and the calls between them; or, where a graph cannot be, just the calls."""
        launches: list[Callable[[], Any]] = []
        with collector_resting(), self._aside():
            for outside, group in groupby(zip(self.lines, self.calls, strict=True), lambda pair: _is_outside(pair[0])):
                pairs = list(group)
                if outside:
                    launches += [call for _, call in pairs]
                    continue
                try:
                    launches.append(self._graph(pairs).launch)
                except _ImpossibleError as error:
                    warnings.warn(f"capture: {error}. The step is replayed call by call", stacklevel=5)
                    return [self._play]
        return launches

    def _graph(self, pairs: Sequence[tuple[Line, Callable[[], Any]]]) -> Any:
        """A graph of calls."""
        self._stream.begin_capture()
        try:
            for line, call in pairs:
                try:
                    call()
                except Exception as error:
                    place = f" ({line.where})" if line.where else ""
                    raise _ImpossibleError(f"{line.name}{place} cannot be a part of a CUDA graph: {error}") from error
        except BaseException:
            with suppress(Exception):  # a capture that went wrong says so once more when it ends
                self._stream.end_capture()
            raise
        try:
            return self._stream.end_capture()
        except Exception as error:
            raise _ImpossibleError(f"CUDA makes no graph of this step: {error}") from error


def _free(pool: Any, blas: Any, place: tuple[int, int]) -> None:
    """Give memory back to the driver. A pool of CuPy 14 that is just dropped leaves its free blocks to nobody."""
    if isinstance(blas, Cublas):  # which keeps a workspace for each stream
        blas.forget(*place)
    pool.free_all_blocks()


class _ImpossibleError(Exception):
    """What a graph cannot do."""


def _is_outside(line: Line) -> bool:
    """Whether a line is played between graphs: it draws numbers, or the host waits for what it computes."""
    return line.kind == "random" or ((op := line.operation) is not None and op.waits)
