"""Training by truncated BPTT that can stop after any window, and resume later exactly as if it had not."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from . import backend, bptt, nn
from .backend import Array
from .clip import clip_grad_norm_
from .grad_mode import no_grad
from .op import op
from .optim import Optimizer
from .replay import capture
from .tensor import Tensor, tensor
from .tree import tree_map

if TYPE_CHECKING:
    from typing_extensions import Self

Curve = list[tuple[int, float]]  # (windows trained on so far, loss)
# A loss that overflows is an error, told in words; NumPy's warnings would only precede them.
_no_warnings = np.errstate(over="ignore", invalid="ignore", divide="ignore")


class Training:
    """A model, its optimiser, and the position in the text that training has reached.

    The recurrent state is carried from window to window, without its history, and starts from None in every epoch.

    model: called as ``model(inputs, state)``, returns outputs and the next state.
    windows, validation: sequences of (inputs, targets), such as ``text.Windows``.
    loss: called as ``loss(outputs, targets)``, returns a mean.
    max_norm, on_nonfinite: see ``clip_grad_norm_``; ``skipped`` counts the updates suppressed by "skip" or "zero".
    max_loss: a loss above it counts as diverged. Saturated cells can keep a hopeless loss finite.
    log_every: windows per point of the training curve.
    replay: record a step and replay it (``tg.capture``): "exact" for the same numbers bit for bit; "fast" for numbers
        that may differ in the last bits, also between a resumed run and an uninterrupted one; "" for no replay.

    >>> from tinygrad_rnn import nn, optim, text
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         self.embedding, self.cell, self.head = nn.Embedding(2, 4), nn.RNNCell(4, 4), nn.Linear(4, 2)
    ...     def forward(self, tokens, state):
    ...         outputs, state = bptt.unroll(self.cell, self.embedding(tokens), state)
    ...         return self.head(outputs), state
    >>> model, windows = Model(), text.Windows(np.arange(200) % 2, batch_size=4, steps=10)
    >>> training = Training(model, optim.Adam(model.parameters(), lr=0.1), windows, windows)
    >>> losses = list(training.windows_left())
    >>> training.end_epoch() < losses[0]
    True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        windows: Sequence[tuple[Any, Any]],
        validation: Sequence[tuple[Any, Any]],
        *,
        loss: Callable[[Any, Any], Tensor] = nn.cross_entropy,
        max_norm: float = 5.0,
        on_nonfinite: str = "raise",
        max_loss: float = math.inf,
        log_every: int = 10,
        replay: str = "",
    ):
        if replay not in ("", "exact", "fast"):
            raise ValueError(f"Training: replay is '', 'exact' or 'fast', not {replay!r}")
        if replay and on_nonfinite == "skip":
            raise ValueError(
                "Training: on_nonfinite='skip' has to look at the gradients of every step, which a replay cannot; "
                "give 'raise' or 'zero', or replay=''"
            )
        if log_every < 1 or not len(validation):
            raise ValueError("Training: log_every must be positive, and there must be a window to validate on")
        self.model, self.optimizer, self.windows, self.validation = model, optimizer, windows, validation
        self.loss, self.max_norm, self.on_nonfinite = loss, max_norm, on_nonfinite
        self.max_loss, self.log_every = max_loss, log_every
        update = updater(model, optimizer, loss, max_norm)
        self._update = capture(update, exact=replay == "exact") if replay else update
        self.epoch = 0  # epochs done
        self.position = 0  # windows done in this epoch
        self.step = 0  # windows done in all
        self.skipped = 0
        self.state: Any = None
        self.losses: list[float] = []  # of the windows of this epoch
        self.train_curve: Curve = []
        self.validation_curve: Curve = []

    def windows_left(self) -> Iterator[float]:
        """Train on the remaining windows of this epoch, and yield the loss of each.

        Raises FloatingPointError, and leaves the parameters unchanged, if the loss has diverged, or if a gradient is
        not finite and ``on_nonfinite`` is "raise".
        """
        while self.position < len(self.windows):
            self.model.train()  # each time, as the caller may validate in between
            loss = self._train_on(*self.windows[self.position])
            self.position += 1
            self.step += 1
            self.losses.append(loss)
            if self.position % self.log_every == 0 or self.position == len(self.windows):
                recent = self.losses[(self.position - 1) // self.log_every * self.log_every :]
                self.train_curve.append((self.step, sum(recent) / len(recent)))
            yield loss

    @_no_warnings
    def _train_on(self, inputs: Any, targets: Any) -> float:
        try:
            limit = float(self.max_loss)
            loss, skipped, self.state = self._update(inputs, targets, self.state, limit, self.on_nonfinite)
        except Diverged as error:
            raise self._diverged(error.loss, "loss") from None
        self.skipped += skipped
        return float(loss.item())

    @_no_warnings
    def end_epoch(self) -> float:
        """Measure and return the validation loss, and prepare the next epoch.

        Raises FloatingPointError, and changes nothing, if the loss has diverged.
        """
        loss = self.validate()
        if not loss <= min(self.max_loss, sys.float_info.max):
            raise self._diverged(loss, "validation loss")
        self.validation_curve.append((self.step, loss))
        self.epoch, self.position, self.state, self.losses = self.epoch + 1, 0, None, []
        return loss

    @no_grad()
    def validate(self) -> float:
        """The mean loss over all validation windows, starting without a state."""
        self.model.eval()
        state, total, count = None, 0.0, 0
        for inputs, targets in self.validation:
            outputs, state = self.model(inputs, state)
            total += self.loss(outputs, targets).item() * targets.size
            count += targets.size
        return total / count

    @property
    def best(self) -> float:
        """The lowest validation loss so far, infinite before the first."""
        return min((loss for _, loss in self.validation_curve), default=math.inf)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly here, random generators included, as a tree for ``tg.save``."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": backend.random_state(),
            "state": tree_map(lambda x: x.numpy(), self.state),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "losses": np.array(self.losses, dtype=np.float64),
            "curves": {"train": _columns(self.train_curve), "validation": _columns(self.validation_curve)},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Resume from a ``state_dict``; raises ValueError or KeyError if it belongs to another model or text."""
        if not 0 <= saved["counters"]["position"] <= len(self.windows):
            raise ValueError(
                f"the state is at window {saved['counters']['position']}, but there are {len(self.windows)} here"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        backend.set_random_state(saved["random"])
        place = self.optimizer.parameters[0].backend
        self.state = tree_map(lambda x: tensor(x, backend=place), saved["state"])
        for name in _COUNTERS:
            setattr(self, name, saved["counters"][name])
        self.losses = saved["losses"].tolist()
        self.train_curve = _points(saved["curves"]["train"])
        self.validation_curve = _points(saved["curves"]["validation"])

    def _diverged(self, value: float, what: str) -> FloatingPointError:
        place = f"in epoch {self.epoch + 1}, after {self.position} of {len(self.windows)} windows"
        return FloatingPointError(f"the {what} became {value:.4g} {place}; the learning rate may be too high")


class Diverged(FloatingPointError):
    """A loss is too large, or not finite."""

    def __init__(self, loss: float) -> None:
        super().__init__(f"the loss became {loss:.4g}")
        self.loss = loss


@op
def at_most(xp: Any, x: Array, limit: float) -> Array:
    """Return x if all of it is finite and not above a limit, else raise Diverged. On a device, this waits."""
    for value in backend.of(x).to_host(x).ravel().tolist():
        if not (math.isfinite(value) and value <= limit):
            raise Diverged(value)
    return x


at_most.vjp(x=lambda g: g, limit=None)
at_most.op.waits = True


def updater(
    model: nn.Module, optimizer: Optimizer, loss: Callable[[Any, Any], Tensor], max_norm: float
) -> Callable[[Any, Any, Any, float, str], tuple[Tensor, bool, Any]]:
    """One training step as a function of a window, the state, the largest allowed loss and ``on_nonfinite``.

    Forward, backward, clip, update; it returns the loss, whether the update was suppressed, and the detached state. It
    reads nothing but its arguments, the model and the optimiser, so it can be captured.
    """

    def update(inputs: Any, targets: Any, state: Any, limit: float, on_nonfinite: str) -> tuple[Tensor, bool, Any]:
        outputs, state = model(inputs, state)
        value = at_most(loss(outputs, targets), limit)
        optimizer.zero_grad()
        value.backward()
        report = clip_grad_norm_(model.named_parameters(), max_norm, on_nonfinite=on_nonfinite)
        skipped = on_nonfinite != "raise" and bool(report.nonfinite)  # on a device, reading it waits
        optimizer.step()
        return value.detach(), skipped, bptt.detach(state)

    return update


_COUNTERS = ("epoch", "position", "step", "skipped")


def _columns(curve: Curve) -> dict[str, np.ndarray]:
    """A curve as two arrays: float64 keeps the losses exactly."""
    return {
        "step": np.array([step for step, _ in curve], dtype=np.int64),
        "loss": np.array([loss for _, loss in curve], dtype=np.float64),
    }


def _points(columns: Mapping[str, np.ndarray]) -> Curve:
    return list(zip(columns["step"].tolist(), columns["loss"].tolist(), strict=True))


class Interrupt:
    """Ctrl-C as a request inside a ``with`` block: the first only sets ``asked``, a second one interrupts at once.

    A training step that is interrupted half way leaves some parameters updated and others not, so the loop checks
    ``asked`` between two steps. Outside the main thread, where Python has no signals, this does nothing.
    """

    asked = False
    _before: Any = None

    def _ask(self, *_: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not the main thread
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
