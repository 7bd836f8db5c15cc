"""The watcher that remembers lines: what it saw, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import record, tape


def test_a_watcher_within_another_leaves_it_watching() -> None:
    with tape.watching(record.Lines()) as outer:
        with tape.watching(record.Lines()) as inner:
            assert tape.state.watchers == (outer, inner)
        assert tape.state.watchers == (outer,)
    assert tape.state.watchers == ()


def test_lines_know_only_what_they_saw() -> None:
    x = tg.ones(2, requires_grad=True)
    before = x.tanh()
    with tape.watching(record.Profile()), tape.watching(record.Lines()) as lines:
        y = tg.linear(x, np.ones((2, 2), "float32")).tanh()
        assert y.node is not None
        assert before.node is not None
        assert record.line_of(y.node) == lines[y.node] != ""
        assert lines[before.node] == ""
    assert record.line_of(y.node) == ""
    assert "test_record.py:" in lines[y.node]


def test_lines_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_LINES_KEPT", 10)
    x = tg.ones(2, requires_grad=True)
    with tape.watching(record.Lines()) as lines:
        made = [x.tanh() for _ in range(100)]
    known = [lines[y.node] != "" for y in made if y.node is not None]
    assert known[-5:] == [True] * 5
    assert sum(known) <= 10
