"""Decoding: a model generates a sequence, each output becoming the next input.

A decoder is a function ``step(tokens, state) -> (logits, state)``, with tokens (B,), logits (B, V) and any state; it
may hold a memory to attend to in its closure. With ``unroll`` and the layers, each kind of sequence task takes a few
lines:

    many to one    ``head(nn.last(outputs, lengths))``, or ``nn.mean``
    aligned        ``head(outputs)``
    one to many    ``greedy(step, state, start, steps)``, from a state that encodes an image, say
    many to many   ``_, state = encoder(x, lengths=lengths)``, then ``teacher_forced(step, state, start, targets)`` to
                   train, and ``greedy``, ``sample`` or ``beam_search`` to generate

Leaves of a state are (..., B, H) or (B,): the batch is the second-to-last axis, as in cells, layers and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import backend, ops, tape
from ..grad_mode import no_grad
from ..tape import bare_array, host_array
from ..tree import tree_leaves
from ..whereabouts import ShapeError
from .checks import check_generator
from .states import repeat_rows, take_rows
from .unrolling import Unrolled

Step = Callable[[Any, Any], tuple[Any, Any]]


class Written(NamedTuple):
    """Generated sequences, on the host."""

    tokens: np.ndarray  # (T, B), filled up with end tokens; T is smaller than requested if all rows ended early
    lengths: np.ndarray  # (B,), the number of tokens before the end token
    state: Any


class Beams(NamedTuple):
    """The most likely sequences of each row, best first, on the host."""

    tokens: np.ndarray  # (T, B, width), filled up with end tokens
    lengths: np.ndarray  # (B, width), the number of tokens before the end token
    scores: np.ndarray  # (B, width), log-probabilities, end token included; -inf if fewer than width sequences exist


def roll_out(step: Step, state: Any, first: Any, steps: int, feed: Callable[[Any, int], Any]) -> Unrolled:
    """Unroll a step on its own outputs: ``output_t, state = step(x_t, state)``, ``x_{t+1} = feed(output_t, t)``.

    Gradients flow back through the fed inputs, unless ``feed`` blocks them.

    Returns Unrolled(outputs (T, ...), state). Raises ValueError for fewer than one step.

    >>> from tinygrad_rnn import ones
    >>> outputs, _ = roll_out(lambda x, state: (2 * x, state), None, ones(1), 3, lambda y, t: y + 1)
    >>> outputs[:, 0].tolist()
    [2.0, 6.0, 14.0]
    """
    _check_steps("roll_out", steps)
    outputs, x = [], first
    with tape.timeline() as mark:
        for t in range(steps):
            mark(t)
            output, state = step(x, state)
            outputs.append(output)
            if t + 1 < steps:
                x = feed(output, t)
    return Unrolled(ops.stack(outputs), state)


def teacher_forced(
    step: Step,
    state: Any,
    start: Any,
    targets: Any,
    ratio: float = 1.0,
    generator: np.random.Generator | None = None,
) -> Unrolled:
    """The logits (T, B, V) for each target given the previous ones, as Unrolled(outputs, state).

    start: (B,) tokens. targets: (T, B) tokens.
    ratio: the probability, for each step and row, that the input is the previous target. Otherwise it is the model's
        own most likely token, so that the model learns to recover from errors (scheduled sampling, Bengio et al. 2015).
    generator: a ``numpy.random.Generator``; None means the one that ``manual_seed`` seeds.

    Raises ValueError for a ratio outside [0, 1] and for targets of the wrong shape.

    >>> from tinygrad_rnn import zeros
    >>> teacher_forced(lambda tokens, state: (zeros(2, 5), state), None, [0, 0], np.ones((3, 2), int)).outputs.shape
    (3, 2, 5)
    """
    start, targets = (x if hasattr(x, "shape") else np.asarray(x) for x in (start, targets))
    if not 0 <= ratio <= 1:
        raise ValueError(f"teacher_forced: the ratio is a probability from 0 to 1, not {ratio}")
    if targets.ndim != 2 or targets.shape[1:] != start.shape:
        raise ValueError(f"teacher_forced: targets of shape {targets.shape} must be (T, B), with start {start.shape}")
    if generator is not None:
        check_generator("teacher_forced", generator)
    home = _home(targets, state)
    size = targets.shape
    drawn = home.from_host(generator.random(size)) if generator else home.numbers("random", size, np.float64)
    forced = drawn < ratio

    def feed(logits: Any, t: int) -> Any:
        if ratio == 1:
            return targets[t]
        return ops.where(forced[t], targets[t], ops.argmax(logits.detach(), axis=-1))

    first = start if backend.of(bare_array(start)) is home else home.from_host(host_array(start))
    return roll_out(step, state, first, targets.shape[0], feed)


def greedy(step: Step, state: Any, start: Any, steps: int, end: int | None = None) -> Written:
    """Take the most likely token at each step.

    start: (B,) tokens. steps: the maximum number of tokens. end: the token that ends a row, if any.

    >>> from tinygrad_rnn import tensor
    >>> count = tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]])  # 0, 1, 2, 3, 3, ...
    >>> written = greedy(lambda tokens, state: (count[tokens], state), None, [0, 2], 9, end=3)
    >>> written.tokens.T.tolist(), written.lengths.tolist()
    ([[1, 2, 3], [3, 3, 3]], [2, 0])
    """
    return sample(step, state, start, steps, temperature=0.0, end=end)


def sample(
    step: Step,
    state: Any,
    start: Any,
    steps: int,
    temperature: float = 1.0,
    end: int | None = None,
    generator: np.random.Generator | None = None,
) -> Written:
    """Draw a token from softmax(logits / temperature) at each step.

    start: (B,) tokens. steps: the maximum number of tokens. end: the token that ends a row, if any.
    temperature: below 1 favours likely tokens, 0 takes the most likely one. generator: as in ``teacher_forced``.

    Raises ValueError for a temperature that is negative or infinite, for fewer than one step, and for an end that is
    not a token; FloatingPointError if the logits of a row contain NaN or are all -inf.

    >>> from tinygrad_rnn import zeros
    >>> sample(lambda tokens, state: (zeros(2, 5), state), None, [0, 0], 7).tokens.shape
    (7, 2)
    """
    who = "sample" if temperature else "greedy"
    home, tokens = _begun(who, state, start, steps)
    if not 0 <= temperature < np.inf:
        raise ValueError(f"sample: the temperature must not be negative or infinite, as {temperature} is")
    if generator is not None:
        check_generator("sample", generator)
    rng = generator or backend.host.generator
    ended, lengths, written = np.zeros(len(tokens), bool), np.zeros(len(tokens), int), []
    with no_grad():
        for _ in range(steps):
            output, state = step(home.from_host(tokens), state)
            logits = _checked(who, output, end, len(tokens))
            # Gumbel-max trick: the argmax of logits plus Gumbel noise is distributed as their softmax.
            tokens = np.argmax(logits + (temperature * rng.gumbel(size=logits.shape) if temperature else 0), axis=-1)
            tokens = tokens if end is None else np.where(ended, end, tokens)
            ended |= tokens == end
            lengths += ~ended
            written.append(tokens)
            if ended.all():
                break
    return Written(np.stack(written), lengths, state)


def beam_search(
    step: Step,
    state: Any,
    start: Any,
    steps: int,
    width: int = 4,
    end: int | None = None,
    length_penalty: float = 0.0,
) -> Beams:
    """Search for the most likely sequences, keeping the best ``width`` of each row at every step.

    start: (B,) tokens. steps: the maximum number of tokens. end: the token that ends a sequence, if any.
    length_penalty: sequences are ranked by score / ((5 + length) / 6) ** length_penalty; above 0 this favours long
        ones (Wu et al. 2016).

    ``step`` is called with B * width tokens, the beams of a row side by side, and a state with as many rows. Per-row
    data in its closure must be repeated to match: ``repeat_rows(memory, width)``.

    Raises ValueError for fewer than one step or beam, and otherwise as ``sample`` does.

    >>> from tinygrad_rnn import log, tensor
    >>> p = tensor([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [1.0, 0.0, 0.0]])  # 1 looks better at first, but 2 0 is likelier
    >>> found = beam_search(lambda tokens, state: (log(p[tokens] + 1e-30), state), None, [0], 2, width=2)
    >>> found.tokens[:, 0, 0].tolist(), np.exp(found.scores[0]).round(2).tolist()
    ([2, 0], [0.4, 0.24])
    """
    home, first = _begun("beam_search", state, start, steps)
    if width < 1:
        raise ValueError(f"beam_search: the width must be at least 1, not {width}")
    batch = len(first)
    state, tokens = repeat_rows(state, width), np.repeat(first, width)
    rows = np.arange(batch)[:, None]
    scores = np.where(np.arange(width) == 0, np.zeros((batch, 1)), -np.inf)  # beams start out equal: only one counts
    ended, lengths = np.zeros((batch, width), bool), np.zeros((batch, width), int)
    written = np.zeros((0, batch, width), int)
    with no_grad():
        for _ in range(steps):
            output, state = step(home.from_host(tokens), state)
            logits = _checked("beam_search", output, end, len(tokens))
            gains = ops.log_softmax(logits).reshape(batch, width, classes := logits.shape[1])
            if end is not None:  # ended beams continue with end tokens, at no cost
                gains[ended] = -np.inf
                gains[ended, end] = 0
            totals = (scores[:, :, None] + gains).reshape(batch, width * classes)
            best = np.argsort(-totals, axis=1, kind="stable")[:, :width]
            scores = totals[rows, best]
            parents, chosen = np.divmod(best, classes)
            written, ended, lengths = (a[..., rows, parents] for a in (written, ended, lengths))
            written, ended = np.concatenate([written, chosen[None]]), ended | (chosen == end)
            lengths += ~ended
            state = take_rows(state, (rows * width + parents).ravel())
            tokens = chosen.ravel()
            if (ended | np.isneginf(scores)).all():
                break
    order = np.argsort(-scores / ((5 + lengths) / 6) ** length_penalty, axis=1, kind="stable")
    return Beams(*(a[..., rows, order] for a in (written, lengths, scores)))


def _check_steps(who: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{who}: at least one step is needed, not {steps}")


def _begun(who: str, state: Any, start: Any, steps: int) -> tuple[backend.Backend, np.ndarray]:
    """The backend to compute on, and the first tokens on the host."""
    _check_steps(who, steps)
    tokens = host_array(start)
    if tokens.ndim != 1:
        raise ValueError(f"{who}: start holds a token for each row, (B,), and not {start!r}")
    return _home(state, start), tokens


def _checked(who: str, output: Any, end: int | None, rows: int) -> np.ndarray:
    """Logits on the host, in float64, checked to leave each row a possible token."""
    logits = host_array(output).astype(np.float64)
    if logits.ndim != 2 or len(logits) != rows:
        raise ShapeError(f"{who}: the step must return logits ({rows}, V), and not of shape {logits.shape}")
    if end is not None and not 0 <= end < logits.shape[-1]:
        raise ValueError(f"{who}: the end is token {end}, but tokens go from 0 to {logits.shape[-1] - 1}")
    if not np.all(logits.max(axis=-1) > -np.inf):  # false for NaN too
        raise FloatingPointError(f"{who}: logits leave no token a chance: they are NaN, or -inf all over")
    certain = np.isposinf(logits)  # softmax makes NaN of infinity
    return np.where(certain.any(axis=-1, keepdims=True), np.where(certain, 0.0, -np.inf), logits)


def _home(*trees: Any) -> backend.Backend:
    """The first backend among the leaves that is not NumPy, or else NumPy."""
    homes = [backend.of(bare_array(leaf)) for leaf in tree_leaves(trees)]
    return next((home for home in homes if home.name != "numpy"), backend.host)
