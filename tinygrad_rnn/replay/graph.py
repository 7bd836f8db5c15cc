"""Plays a program as CUDA graphs: one launch instead of one for each call.

A graph fixes the addresses of its launches, so all that they read and write must stay in place: results in the arena,
temporaries in a pool of their own, ports and numbers in buffers. It also fixes which launch waits for which: each lane
is captured on a stream of its own, and waits between lanes are events. Lines that need the host, random draws
included, run between two graphs.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from typing import Any

from ..backend import Backend
from ..tape import collector_resting
from .lanes import Lanes
from .player import Player
from .program import Line


class GraphPlayer(Player):
    """The calls of a program: played one by one at first, to set up what a capture cannot, and then as graphs."""

    def __init__(self, lanes: Lanes, home: Backend) -> None:
        super().__init__(lanes, home)
        self._cuda = home.xp.cuda
        self._lanes = lanes
        self._pool: Any = None
        self._streams: list[Any] = []  # of each lane
        self._has_played = False  # without running out of memory
        self._graphs: list[Callable[[], Any]] | None = None

    def __call__(self) -> None:
        self.set_numbers()
        if not self._has_played:
            if self._pool is None:
                self._set_apart()
            with self._aside():
                self._issue(self.plan)
            self._has_played = True
            return
        if self._graphs is None:
            try:
                self._graphs = self._captured()
            except _ImpossibleError as error:
                warnings.warn(f"capture: {error}. The step is replayed call by call", stacklevel=4)
                self._graphs = [self._play]
                self._forget()  # only graphs need the pool
        for launch in self._graphs:
            launch()

    def _set_apart(self) -> None:
        """Make a pool and streams, whose memory is freed when this player is gone."""
        self._streams = [self._cuda.Stream(non_blocking=True) for _ in range(self._lanes.count)]
        self._pool = self.home.pool()  # last, as it signals that all is set up
        streams = [stream.ptr for stream in self._streams]
        self._forget = weakref.finalize(self, self.home.forget, streams, self._pool)
        self._forget.atexit = False

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Run the block on the player's own streams and pool, after all earlier work and before all later work."""
        present = self._cuda.get_current_stream()
        self._streams[0].wait_event(self._event(present))
        try:
            with self._cuda.using_allocator(self._pool.malloc), self._streams[0]:
                yield
        finally:
            for stream in self._streams:
                present.wait_event(self._event(stream))

    def _event(self, stream: Any) -> Any:
        """An event that marks the end of a stream's work so far."""
        return stream.record(self._cuda.Event(disable_timing=True))

    def _issue(self, plan: Iterable[tuple[Line, Iterable[Callable[[], Any]]]]) -> None:
        """Make calls on the streams of their lanes, which fork from the first stream and join it again at the end."""
        first, *others = self._streams
        begin = self._event(first)
        for stream in others:
            stream.wait_event(begin)
        awaited = {line for lines in self._lanes.waits.values() for line in lines}
        done: dict[Line, Any] = {}
        for line, calls in plan:
            stream = self._streams[self._lanes.of[line]]
            for other in self._lanes.waits.get(line, ()):
                if other in done:  # else it ran before these calls
                    stream.wait_event(done[other])
            with stream:
                for call in calls:
                    call()
            if line in awaited:
                done[line] = self._event(stream)
        for stream in others:
            first.wait_event(self._event(stream))

    def _captured(self) -> list[Callable[[], Any]]:
        """A launch for each graph, and the calls between them."""
        launches: list[Callable[[], Any]] = []
        with collector_resting(), self._aside():
            for outside, part in groupby(self.plan, lambda pair: pair[0].needs_host):
                if outside:
                    launches += [call for _, calls in part for call in calls]
                else:
                    launches.append(self._graph(part).launch)
        return launches

    def _graph(self, plan: Iterable[tuple[Line, list[partial[Any]]]]) -> Any:
        """Capture calls as a graph."""
        first = self._streams[0]
        first.begin_capture()
        try:
            self._issue((line, [partial(_call_in_graph, line, call) for call in calls]) for line, calls in plan)
        except BaseException:
            with suppress(Exception):  # a failed capture raises once more when it ends
                first.end_capture()
            raise
        try:
            return first.end_capture()
        except Exception as error:
            raise _ImpossibleError(f"CUDA makes no graph of this step: {error}") from error


class _ImpossibleError(Exception):
    """CUDA cannot make a graph of a step."""


def _call_in_graph(line: Line, call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception as error:
        place = f" ({line.where})" if line.where else ""
        raise _ImpossibleError(f"{line.name}{place} cannot be a part of a CUDA graph: {error}") from error
