"""Plays a program as CUDA graphs: one launch in place of one for each call.

A graph holds launches with their addresses, so all that they read and write stays where it is: results in the arena,
temporaries in a pool of their own, ports and numbers in buffers. It also holds which launch waits for which: each lane
is captured on a stream of its own, and only what waits for something in another lane waits for an event there. What
needs the host, and random numbers, come between two graphs.
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
    """The calls of a program: played one by one at first, which makes what a graph may not make, then as graphs."""

    def __init__(self, lanes: Lanes, home: Backend) -> None:
        super().__init__(lanes, home)
        self._cuda = home.xp.cuda
        self._lanes = lanes
        calls: dict[Line, list[partial[Any]]] = {line: [] for line in lanes.lines if line in lanes.of}
        for line, call in zip(self.lines, self.calls, strict=True):
            calls[line].append(call)
        self._plan = list(calls.items())  # those that turned out to be none included, as others may wait for them
        self._pool: Any = None
        self._streams: list[Any] = []  # of each lane
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
                self._issue(self._plan)
            self._has_played = True
        else:
            try:
                self._graphs = self._captured()
            except _ImpossibleError as error:
                warnings.warn(f"capture: {error}. The step is replayed call by call", stacklevel=4)
                self._graphs = [self._play]
                self._forget()  # the pool is for graphs alone
            for launch in self._graphs:
                launch()

    def _set_apart(self) -> None:
        """Make a pool and streams, of whose memory nothing is to be left when this player is gone."""
        self._streams = [self._cuda.Stream(non_blocking=True) for _ in range(self._lanes.count)]
        self._pool = self.home.pool()  # last, as who finds it takes all to be there
        streams = [stream.ptr for stream in self._streams]
        self._forget = weakref.finalize(self, self.home.forget, streams, self._pool)
        self._forget.atexit = False

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On streams and with a pool of its own, after what is under way, and before all that follows."""
        present = self._cuda.get_current_stream()
        self._streams[0].wait_event(self._event(present))
        try:
            with self._cuda.using_allocator(self._pool.malloc), self._streams[0]:
                yield
        finally:
            for stream in self._streams:
                present.wait_event(self._event(stream))

    def _event(self, stream: Any) -> Any:
        """What happens when a stream has done all that it was given so far."""
        return stream.record(self._cuda.Event(disable_timing=True))

    def _issue(self, plan: Iterable[tuple[Line, Iterable[Callable[[], Any]]]]) -> None:
        """Make calls, each on the stream of its lane, which begin after the first stream and end before it goes on."""
        first, *others = self._streams
        begin = self._event(first)
        for stream in others:
            stream.wait_event(begin)
        awaited = {line for lines in self._lanes.waits.values() for line in lines}
        done: dict[Line, Any] = {}
        for line, calls in plan:
            stream = self._streams[self._lanes.of[line]]
            for other in self._lanes.waits.get(line, ()):
                if other in done:  # or it was done before these calls
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
            for outside, part in groupby(self._plan, lambda pair: pair[0].needs_host):
                if outside:
                    launches += [call for _, calls in part for call in calls]
                else:
                    launches.append(self._graph(part).launch)
        return launches

    def _graph(self, plan: Iterable[tuple[Line, list[partial[Any]]]]) -> Any:
        """A graph of calls."""
        first = self._streams[0]
        first.begin_capture()
        try:
            self._issue((line, [partial(_call_in_graph, line, call) for call in calls]) for line, calls in plan)
        except BaseException:
            with suppress(Exception):  # a capture that went wrong says so once more when it ends
                first.end_capture()
            raise
        try:
            return first.end_capture()
        except Exception as error:
            raise _ImpossibleError(f"CUDA makes no graph of this step: {error}") from error


class _ImpossibleError(Exception):
    """What a graph cannot do."""


def _call_in_graph(line: Line, call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception as error:
        place = f" ({line.where})" if line.where else ""
        raise _ImpossibleError(f"{line.name}{place} cannot be a part of a CUDA graph: {error}") from error
