"""Truncated BPTT: training on endless streams, with a bounded backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import index
from typing import Any

from .. import tape
from ..backend import is_array
from ..nn.states import detach
from ..ops import isfinite, where
from ..tape import GraphError, Node
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from ..writes import own
from .trail import StepFunction, Trail, Window


def truncated(
    step: StepFunction, xs: Iterable[Any], state: Any, k1: int, k2: int | None = None, *, recompute: bool = False
) -> Iterator[Window]:
    """Truncated BPTT in bounded memory: every k1 steps, yield a Window with a gradient that reaches k2 steps back.

    With steps counted from 1, l_t the loss of step t, W_s the parameters as used in step s, the window (a, b] adds

        sum over t in (a, b], s in (b - k2, t]:  dl_t / dW_s / (b - a)        b = a + k1, or the stream's end

    k1: the number of steps in a window; the last one may be shorter. k2: how many steps back its end reaches. None
        means k1, but never beyond the start of the window, even if that is the short last one.

        loss t                 k1 = k2 = 3        k1 = 2, k2 = 4       k1 = 1, k2 = 3       k1 = 3, k2 = 2
          1                    #                  #                    #                    .
          2                    # #                # #                  # #                  . #
          3                    # # #              # # #                # # #                . # #
          4                    . . . #            # # # #              . # # #              . . . .
          5                    . . . # #          . . # # #            . . # # #            . . . . #
          6                    . . . # # #        . . # # # #          . . . # # #          . . . . # #
        use in step s          1 2 3 4 5 6        1 2 3 4 5 6          1 2 3 4 5 6          1 2 3 4 5 6

    - k1 = k2, "chunks": what most programs do, with a detach between windows. A loss reaches 1 to k1 steps back,
      depending on its place in the window.
    - k1 < k2, "BPTT(h; h')" with h = k2 and h' = k1 (Williams and Peng 1990): a loss reaches at least k2 - k1 + 1
      steps. "BPTT(h)" is k1 = 1: every loss reaches h steps (also the estimator of Aicher et al. 2019).
    - k1 > k2 (the names are those of Sutskever 2013): losses beyond the reach are computed, but give no gradient.

    Other kinds of truncation: ``GatesDetached`` (the LSTM of 1997), ``randomly_truncated`` (without bias).

    step: ``step(x_t, state) -> (loss_t, state)``, with a scalar loss (a constant if a step has none). The state is
        nested tuples, lists and dicts of Tensors, of one structure and shape in all steps; it may be None at first.
    xs: any iterable, read one step at a time and never ahead.
    state: the initial state. A leaf that requires a gradient (a learned initial state) gets it, and so do tensors
        computed before the stream, from the windows that reach back to its beginning.
    recompute: matters if parameters change between windows and k2 > k1. By default, each step is differentiated as it
        was run, at its parameters of that time, and dl_t / dW_s is added to the gradient of the current ones. With
        True, the steps in reach are run again with the current parameters, from the state before the first of them.
        This is the exact gradient of the recomputed loss, at k2 / k1 times the forward cost. If the parameters do not
        change, the two are the same.

    Raises ValueError if k1 or k2 is not a positive integer or the stream is empty; TypeError, ShapeError and GraphError
    for a step that violates the above, with its number. Call a window's ``backward``, if at all, before drawing the
    next window.

    >>> from tinygrad_rnn import bptt, nn, ones, optim
    >>> cell = nn.RNNCell(1, 4)
    >>> optimizer = optim.SGD(cell.parameters(), lr=0.1)
    >>> def step(x, h):
    ...     y, h = cell(x, h)
    ...     return nn.mse_loss(y.mean(), 0.5), h
    >>> for window in bptt.truncated(step, ones(50, 2, 1), None, k1=20, k2=30):
    ...     optimizer.zero_grad()
    ...     window.backward(weight=window.steps / 20)
    ...     optimizer.step()
    ...     print(window, window.reach)
    Window(steps 0 to 19) 0
    Window(steps 20 to 39) 10
    Window(steps 40 to 49) 20
    """
    k1 = _positive("k1", k1)
    source = _iterator(xs)
    if k2 is None:
        return _yielded(_chunks(step, state, lambda: islice(source, k1)))
    return _yielded((_repeated if recompute else _carried)(step, source, state, k1, _positive("k2", k2)))


def _chunks(step: StepFunction, state: Any, drawn: Callable[[], Iterator[Any]]) -> Iterator[Window]:
    """Windows of the steps that ``drawn`` yields for each, detached from one another."""
    time = 0
    while window := Trail(step, state, None, time).window(drawn()):
        yield window
        state, time = window.state, window.stop


def _carried(step: StepFunction, xs: Iterator[Any], state: Any, k1: int, k2: int) -> Iterator[Window]:
    """Windows of one trail, with a graph that carries over from one to the next."""
    trail = Trail(step, state, k2)
    while window := trail.window(islice(xs, k1)):
        yield window


def _repeated(step: StepFunction, xs: Iterator[Any], state: Any, k1: int, k2: int) -> Iterator[Window]:
    """Windows that each rerun all steps in reach, from the kept state before the first of them."""
    past: list[tuple[Any, Any]] = []  # x and the state before it, of the last k2 steps
    time = 0
    while new := [tree_map(_own, x) for x in islice(xs, k1)]:
        again = past[max(0, len(past) + len(new) - k2) :]
        inputs = [x for x, _ in again] + new
        for x in tree_leaves(inputs):
            if isinstance(getattr(x, "node", None), Node):
                raise GraphError(f"truncated: with recompute=True, {x!r} in the stream must not have a history")
        trail = Trail(step, again[0][1] if again else state, k2, time - len(again))
        window = trail.window(iter(inputs), leading=len(again))
        assert window is not None
        yield window
        kept = [s if t == 0 else detach(s) for t, s in enumerate(trail.states, trail.first)]
        past = list(zip(inputs[-len(kept) :], kept, strict=True))
        state, time = window.state, window.stop


def _own(x: Any) -> Any:
    """A copy of an array or a constant, as a stream may fill one buffer again and again; anything else unchanged."""
    if isinstance(x, Tensor) and x.node is None:
        return Tensor.wrap(own(x.array))
    return own(x) if is_array(x) else x


def randomly_truncated(
    step: StepFunction,
    xs: Iterable[Any],
    state: Any,
    stop_probability: float | Callable[[int], float],
    generator: Any,
) -> Iterator[Window]:
    """Unbiased truncated BPTT: windows end at random, and gradients that pass a possible end are scaled up.

    After each step the window ends with probability p; if it goes on, backward divides the gradient of the state by
    1 - p. In expectation this is the full gradient (ARTBP, Tallec and Ollivier 2017).

    For that the losses must add up: ``window.backward(window.steps)`` for their sum, ``window.steps / T`` for the mean
    over T steps; a mean over each window would weight the steps of short windows more.

    step, xs, state: as for ``truncated``.
    stop_probability: p in [0, 1), or a function from the steps since the last end, 1, 2, ..., to p. If it decreases,
        some windows become long, but the variance is smaller.
    generator: numpy.random.Generator, or anything else with ``random()``.

    >>> import numpy as np
    >>> from tinygrad_rnn import bptt, nn, ones
    >>> def step(x, h):
    ...     return (x * h).sum(), h
    >>> stream = bptt.randomly_truncated(step, ones(9, 1), ones(1), 0.5, np.random.default_rng(0))
    >>> [window.steps for window in stream]
    [2, 1, 1, 5]
    """
    chance = stop_probability if callable(stop_probability) else lambda _: stop_probability
    source = _iterator(xs)
    passed = _probability(chance(1))  # the probability that the window could have ended before the current step

    def drawn() -> Iterator[Any]:
        nonlocal passed
        passed = 0.0
        for since, x in enumerate(source, 1):
            yield x
            passed = _probability(chance(since))
            if generator.random() < passed:
                return

    def enlarged(x: Any, state: Any) -> tuple[Any, Any]:
        factor = 1 / (1 - passed)
        return step(x, tree_map(lambda leaf: _scale_gradient(leaf, factor), state) if factor > 1 else state)

    return _yielded(_chunks(enlarged, state, drawn))


def _scale_gradient(x: Any, factor: float) -> Any:
    """x with its gradient multiplied by a factor; infinite elements, such as log 0, pass none on."""
    if not isinstance(x, Tensor) or not x.requires_grad:
        return x
    finite = where(isfinite(x), x, 0)
    return x.detach() + factor * (finite - finite.detach())


def _yielded(windows: Iterator[Window]) -> Iterator[Window]:
    """Windows one at a time; each is closed when the next is drawn, as its graph may have been released by then."""
    window, birth = None, tape.clock()
    for following in windows:
        if window is not None:
            window.close("can no longer be sent back, as the next one was drawn; call backward first")
        window = following
        tape.unmark(birth, window.horizon)
        yield window
    if window is None:
        raise ValueError(
            "truncated: the stream is empty; it must have at least one step (was an iterator read before?)"
        )


def _positive(name: str, value: Any) -> int:
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"truncated: {name} must be a positive integer, a number of steps, not {value!r}")
    return number


def _probability(p: float) -> float:
    if not 0 <= p < 1:
        raise ValueError(f"randomly_truncated: the probability to stop must be in [0, 1), not {p!r}")
    return p


def _iterator(xs: Any) -> Iterator[Any]:
    try:
        return iter(xs)
    except TypeError as error:
        raise TypeError(f"truncated: xs must be an iterable of steps, not a {type(xs).__name__}") from error
