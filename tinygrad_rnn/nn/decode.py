"""Sequences that a model writes by itself: each output becomes the next input.

A decoder is a function ``step(tokens, state) -> (logits, state)``, with tokens (B,), logits (B, V) and any state; what
it attends to may be in its closure. With ``unroll`` and the layers, a few lines make every shape of a sequence task:

    many to one    ``head(nn.last(outputs, lengths))``, or ``nn.mean``
    aligned        ``head(outputs)``
    one to many    ``greedy(step, state, start, steps)``, from a state that stands for a picture, say
    many to many   ``_, state = encoder(x, lengths=lengths)``, then ``teacher_forced(step, state, start, targets)`` to
                   learn, and ``greedy``, ``sample`` or ``beam_search`` to write

Leaves of a state are (..., B, H) or (B,): the batch is the last axis but one, as in cells, in layers, and in outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import backend, ops, tape
from ..tape import bare_array, host_array
from ..tree import tree_leaves, tree_map
from .recurrent import Unrolled

Step = Callable[[Any, Any], tuple[Any, Any]]


class Written(NamedTuple):
    """What was written, on the host."""

    tokens: np.ndarray  # (T, B), from a row's end on nothing but ends; T is less than asked for if all rows ended
    lengths: np.ndarray  # (B,), how many tokens come before the end
    state: Any


class Beams(NamedTuple):
    """The likeliest sequences of each row, the best one first, on the host."""

    tokens: np.ndarray  # (T, B, width), from the end on nothing but ends
    lengths: np.ndarray  # (B, width), how many tokens come before the end
    scores: np.ndarray  # (B, width), log-probabilities of the sequences, ends included; -inf where there are no more


def roll_out(step: Step, state: Any, first: Any, steps: int, feed: Callable[[Any, int], Any]) -> Unrolled:
    """Unroll a step on what it says itself: ``output_t, state = step(x_t, state)``, ``x_{t+1} = feed(output_t, t)``.

    Gradients flow back through what was fed, if ``feed`` lets them.

    Returns Unrolled(outputs (T, ...), state). Raises ValueError for less than one step.

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
    """The logits for each target, given the ones before it: (T, B, V).

    start: (B,) tokens. targets: (T, B) tokens.
    ratio: how often the input is the target before; it is the likeliest token before otherwise, so that the model
        learns to go on from errors of its own (scheduled sampling, Bengio et al. 2015). Drawn for each step and row.
    generator: what to draw from; that which ``manual_seed`` restarts if None.

    Raises ValueError for a ratio outside of [0, 1], and for targets of another shape.

    >>> from tinygrad_rnn import zeros
    >>> teacher_forced(lambda tokens, state: (zeros(2, 5), state), None, [0, 0], np.ones((3, 2), int)).outputs.shape
    (3, 2, 5)
    """
    start = start if hasattr(start, "shape") else np.asarray(start)
    if not 0 <= ratio <= 1:
        raise ValueError(f"teacher_forced: the ratio is a probability from 0 to 1, not {ratio}")
    if targets.ndim != 2 or tuple(targets.shape[1:]) != tuple(start.shape):
        raise ValueError(
            f"teacher_forced: targets of shape {tuple(targets.shape)} must be (T, B), with start {tuple(start.shape)}"
        )
    home = _home(targets, state)
    size = tuple(targets.shape)
    drawn = home.from_host(generator.random(size)) if generator else home.numbers("random", size, np.float64)
    forced = drawn < ratio

    def feed(logits: Any, t: int) -> Any:
        if ratio == 1:
            return targets[t]
        return ops.where(forced[t], targets[t], ops.argmax(logits.detach(), axis=-1))

    return roll_out(step, state, _moved(home, start), targets.shape[0], feed)


def greedy(step: Step, state: Any, start: Any, steps: int, end: int | None = None) -> Written:
    """At each step the likeliest token.

    start: (B,) tokens. steps: how many to write at most. end: the token that ends a row; none does if None.

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
    """At each step a token drawn from softmax(logits / temperature).

    start: (B,) tokens. steps: how many to write at most. end: the token that ends a row; none does if None.
    temperature: less than 1 favours what is likely, 0 takes the likeliest. generator: as in ``teacher_forced``.

    Raises ValueError for a negative temperature, for less than one step, and for an end that is no token;
    FloatingPointError for logits that leave no token a chance, such as NaN.

    >>> from tinygrad_rnn import zeros
    >>> sample(lambda tokens, state: (zeros(2, 5), state), None, [0, 0], 7).tokens.shape
    (7, 2)
    """
    home, tokens = _begun("sample", state, start, steps)
    if temperature < 0:
        raise ValueError(f"sample: the temperature must not be negative, as {temperature} is")
    rng = generator or backend.host.generator
    ended, lengths, written = np.zeros(len(tokens), bool), np.zeros(len(tokens), int), []
    with tape.no_grad():
        for _ in range(steps):
            output, state = step(home.from_host(tokens), state)
            logits = _checked("sample", output, end)
            # The index of the largest logit, each with Gumbel noise added, is distributed as softmax says.
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
    """The likeliest sequences, of which ``width`` for each row are followed at a time.

    start: (B,) tokens. steps: how many to write at most. end: the token that ends a sequence; none does if None.
    length_penalty: sequences are ranked by score / ((5 + length) / 6) ** length_penalty, which for more than 0 favours
        long ones (Wu et al. 2016).

    ``step`` is called with B * width tokens, the ``width`` of a row side by side, and with a state of as many rows.
    What it has in its closure for each row must be repeated alike: ``repeat_rows(memory, width)``.

    Raises ValueError for less than one step or beam, and otherwise as ``sample`` does.

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
    scores = np.where(np.arange(width) == 0, np.zeros((batch, 1)), -np.inf)  # all beams are equal: only one counts
    ended, lengths = np.zeros((batch, width), bool), np.zeros((batch, width), int)
    written = np.zeros((0, batch, width), int)
    with tape.no_grad():
        for _ in range(steps):
            output, state = step(home.from_host(tokens), state)
            gains = ops.log_softmax(_checked("beam_search", output, end)).reshape(batch, width, -1)
            if end is not None:  # what has ended goes on with ends, at no cost
                gains[ended] = -np.inf
                gains[ended, end] = 0
            totals = (scores[:, :, None] + gains).reshape(batch, -1)
            best = np.argsort(-totals, axis=1, kind="stable")[:, :width]
            scores = np.take_along_axis(totals, best, axis=1)
            parents, chosen = np.divmod(best, gains.shape[-1])
            written, ended, lengths = (
                np.take_along_axis(a, _to(parents, a), axis=-1) for a in (written, ended, lengths)
            )
            written, ended = np.concatenate([written, chosen[None]]), ended | (chosen == end)
            lengths += ~ended
            state = take_rows(state, (np.arange(batch)[:, None] * width + parents).ravel())
            tokens = chosen.ravel()
            if (ended | np.isneginf(scores)).all():
                break
    order = np.argsort(-scores / ((5 + lengths) / 6) ** length_penalty, axis=1, kind="stable")
    return Beams(*(np.take_along_axis(a, _to(order, a), axis=-1) for a in (written, lengths, scores)))


def _to(indices: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Indices (B, width) for an array that may have time in front."""
    return indices[None] if a.ndim > indices.ndim else indices


def take_rows(state: Any, rows: Any) -> Any:
    """These rows of a state, in this order; its leaves are (..., B, H) or (B,)."""
    return tree_map(lambda leaf: ops.index(leaf, rows if leaf.ndim == 1 else (..., rows, slice(None))), state)


def repeat_rows(state: Any, times: int) -> Any:
    """Each row of a state several times, side by side; its leaves are (..., B, H) or (B,).

    >>> from tinygrad_rnn import tensor
    >>> repeat_rows(tensor([[1.0], [2.0]]), 2).tolist()
    [[1.0], [1.0], [2.0], [2.0]]
    """
    return tree_map(lambda leaf: take_rows(leaf, np.repeat(np.arange(leaf.shape[-2:][0]), times)), state)


def _check_steps(who: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{who}: at least one step is needed, not {steps}")


def _begun(who: str, state: Any, start: Any, steps: int) -> tuple[backend.Backend, np.ndarray]:
    """Where to compute, and the first tokens on the host."""
    _check_steps(who, steps)
    tokens = host_array(start)
    if tokens.ndim != 1:
        raise ValueError(f"{who}: start holds a token for each row, (B,), and not {start!r}")
    return _home(state, start), tokens


def _checked(who: str, output: Any, end: int | None) -> np.ndarray:
    """Logits on the host, in float64, of which at least one in each row is a number."""
    logits = host_array(output).astype(np.float64)
    if end is not None and not 0 <= end < logits.shape[-1]:
        raise ValueError(f"{who}: the end is token {end}, but tokens go from 0 to {logits.shape[-1] - 1}")
    if not np.all(logits.max(axis=-1) > -np.inf):  # which NaN is not either
        raise FloatingPointError(f"{who}: logits leave no token a chance: they are NaN, or -inf all over")
    return logits


def _home(*trees: Any) -> backend.Backend:
    """The device on which any of the leaves is, or else NumPy."""
    homes = [backend.of(bare_array(leaf)) for leaf in tree_leaves(trees)]
    return next((home for home in homes if home.name != "numpy"), backend.host)


def _moved(home: backend.Backend, x: Any) -> Any:
    """x itself if it is at home, else a copy there."""
    return x if backend.of(bare_array(x)) is home else home.from_host(host_array(x))
