"""The training loop: exact resumption, gradients that are not finite, Ctrl-C between steps."""

from __future__ import annotations

import itertools
import math
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_io import same

import tinygrad_rnn as tg
from tinygrad_rnn import curves, nn, optim, train
from tinygrad_rnn.text import Vocabulary, Windows
from tinygrad_rnn.train import Interrupt, Training


class Dropping(nn.Module):
    """A tiny recurrent model with dropout."""

    def __init__(self) -> None:
        self.embedding, self.cell, self.head = nn.Embedding(3, 4), nn.RNNCell(4, 4), nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, tokens: Any, state: Any) -> Any:
        outputs, state = tg.bptt.unroll(self.cell, self.dropout(self.embedding(tokens)), state)
        return self.head(outputs), state


def test_the_state_holds_dropout_and_optimiser_too() -> None:
    """A model with dropout draws random numbers at each step; Adam counts its steps."""
    tokens = Vocabulary("abc").encode("abcacbbca" * 40)

    def build() -> Training:
        model = Dropping()
        return Training(model, optim.Adam(model.parameters()), Windows(tokens, 4, 5), Windows(tokens, 4, 5))

    whole, parts = build(), build()
    parts.load_state_dict(whole.state_dict())
    tg.manual_seed(1)
    losses = list(whole.windows_left())
    tg.manual_seed(1)
    first = list(itertools.islice(parts.windows_left(), 7))
    saved = parts.state_dict()
    tg.manual_seed(2)
    parts = build()
    parts.load_state_dict(saved)
    assert first + list(parts.windows_left()) == losses
    assert whole.end_epoch() == parts.end_epoch()
    assert same(whole.state_dict(), parts.state_dict())


def test_whoever_reads_the_losses_may_validate_in_between() -> None:
    """Validation switches dropout off, and the next window on again."""
    model = Dropping()
    windows = Windows(np.arange(40) % 3, 2, 4)
    training = Training(model, optim.SGD(model.parameters(), lr=0.1), windows, windows)
    modes = []
    for _ in training.windows_left():
        modes.append(model.training)
        training.validate()
    assert modes == [True] * len(windows)


def test_a_state_of_another_text_is_refused() -> None:
    model = Dropping()
    windows = Windows(np.zeros(20, dtype=int), 2, 5)
    training = Training(model, optim.SGD(model.parameters(), lr=1), windows, windows)
    saved = training.state_dict()
    saved["counters"]["position"] = 5
    with pytest.raises(ValueError, match="at window 5, but there are 2 here"):
        training.load_state_dict(saved)


def test_there_must_be_something_to_validate_on() -> None:
    model = Dropping()
    optimizer, windows = optim.SGD(model.parameters(), lr=1), Windows(np.zeros(20, dtype=int), 2, 5)
    for validation, log_every in (([], 10), (windows, 0)):
        with pytest.raises(ValueError, match="log_every must be positive, and there must be a window to validate on"):
            Training(model, optimizer, windows, validation, log_every=log_every)


def test_gradients_that_are_not_finite_can_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Dropping()
    windows = Windows(np.arange(24) % 3, 2, 4)
    training = Training(model, optim.SGD(model.parameters(), lr=1), windows, windows, on_nonfinite="skip")
    before = model.state_dict()

    def spoil(parameters: Any, *_: Any, **options: Any) -> Any:
        parameters = list(parameters)
        parameters[0][1].grad.data[...] = np.nan
        return tg.clip_grad_norm_(parameters, 1.0, **options)

    monkeypatch.setattr(train, "clip_grad_norm_", spoil)
    list(training.windows_left())
    assert training.skipped == len(windows)
    with pytest.raises(ValueError, match=r"'skip'.*replay cannot; give 'raise' or 'zero'"):
        Training(model, optim.SGD(model.parameters(), lr=1), windows, windows, on_nonfinite="skip", replay="exact")
    assert same(model.state_dict(), before)
    training.on_nonfinite, training.position = "raise", 0
    with pytest.raises(FloatingPointError, match=r"embedding\.weight is not finite"):
        list(training.windows_left())


def test_a_second_interrupt_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)  # a background job may have been told to ignore it
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_there_is_no_ctrl_c_to_catch() -> None:
    seen = []

    def enter() -> None:
        with Interrupt() as interrupt:
            seen.append(interrupt.asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_validation_loss_that_diverges_changes_nothing() -> None:
    model = Dropping()
    windows = Windows(np.arange(24) % 3, 2, 4)
    training = Training(model, optim.SGD(model.parameters(), lr=1), windows, windows)
    assert training.best == math.inf
    losses = list(training.windows_left())
    before = training.state_dict()
    for bias, max_loss in ((np.nan, math.inf), (1e6, 1000.0)):
        model.head.bias.data = np.array([bias, 0, 0], np.float32)
        training.max_loss = max_loss
        with pytest.raises(FloatingPointError, match="the validation loss became"):
            training.end_epoch()
    assert training.losses == losses
    assert same(training.state_dict()["counters"], before["counters"])
    assert training.validation_curve == []


def test_curves_are_drawn_at_any_time(tmp_path: Path) -> None:
    model = Dropping()
    windows = Windows(np.arange(24) % 3, 2, 4)
    training = Training(model, optim.SGD(model.parameters(), lr=1), windows, windows)
    for _ in range(2):
        curves.plot_curves(training, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        list(training.windows_left())
