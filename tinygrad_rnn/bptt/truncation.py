"""Truncated BPTT: training on streams that have no end, with a way back that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import index
from typing import Any

from .. import tape
from ..tape import GraphError, Node
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from .state import detach
from .trail import StepFunction, Trail, Window


def truncated(
    step: StepFunction, xs: Iterable[Any], state: Any, k1: int, k2: int | None = None, *, recompute: bool = False
) -> Iterator[Window]:
    """Truncated BPTT: every k1 steps a Window, whose gradient reaches k2 steps back, in bounded memory.

    With steps counted from 1, l_t the loss of step t, W_s the parameters as step s uses them, the window (a, b] adds

        sum over t in (a, b], s in (b - k2, t]:  dl_t / dW_s / (b - a)        b = a + k1, or the stream's end

    k1: how many steps a window has; the stream's last one may be shorter. k2: how far back its end reaches; None is k1,
        but with the start of the window as a limit, so that a short last window too reaches no older one.

        loss t                 k1 = k2 = 3        k1 = 2, k2 = 4       k1 = 1, k2 = 3       k1 = 3, k2 = 2
          1                    #                  #                    #                    .
          2                    # #                # #                  # #                  . #
          3                    # # #              # # #                # # #                . # #
          4                    . . . #            # # # #              . # # #              . . . .
          5                    . . . # #          . . # # #            . . # # #            . . . . #
          6                    . . . # # #        . . # # # #          . . . # # #          . . . . # #
        use in step s          1 2 3 4 5 6        1 2 3 4 5 6          1 2 3 4 5 6          1 2 3 4 5 6

    - k1 = k2, "chunks": what most programs do, with a detach between windows. A loss reaches back 1 to k1 steps, by
      where in its window it lies.
    - k1 < k2, "BPTT(h; h')" with h = k2 and h' = k1 (Williams and Peng 1990): a loss reaches at least k2 - k1 + 1
      steps. "BPTT(h)" is k1 = 1: each loss reaches the same h steps (also the estimator of Aicher et al. 2019).
    - k1 > k2 (the names are those of Sutskever 2013): losses older than the reach are measured, and teach nothing.

    What others call truncated: ``GatesDetached`` (the LSTM of 1997), ``randomly_truncated`` (without bias).

    step: ``step(x_t, state) -> (loss_t, state)``, with a scalar loss (a constant where a step has none). State goes in
        and comes out: nested tuples, lists, dicts of Tensors, of one structure and shape, after None to begin with too.
    xs: any iterable, read one step at a time and never ahead.
    state: what to begin with. A leaf that requires a gradient (a learned initial state) gets it, and so does what was
        computed before the stream, from the windows that reach back to its beginning.
    recompute: what is differentiated if parameters change between windows and k2 > k1. By default each step as it was
        done, at its parameters of that time, and dl_t / dW_s is added to the gradient of the present ones. With True
        the steps in reach are done again with the present parameters, from the state that the first of them began
        with; that is the exact gradient of the loss that it gives, at k2 / k1 times the cost of going forward. If the
        parameters do not change, the two are the same.

    Raises ValueError for k1 or k2 that are not positive integers, and for an empty stream; TypeError, ShapeError and
    GraphError for a step that does not do what is said here, with its number. Every window is to be sent back, or
    not, before the next is drawn.

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
    """Windows of the steps that are drawn for each, with a cut between them."""
    time = 0
    while window := Trail(step, state, None, time).window(drawn()):
        yield window
        state, time = window.state, window.stop


def _carried(step: StepFunction, xs: Iterator[Any], state: Any, k1: int, k2: int) -> Iterator[Window]:
    """Windows of one trail, whose graph lasts from one to the next."""
    trail = Trail(step, state, k2)
    while window := trail.window(islice(xs, k1)):
        yield window


def _repeated(step: StepFunction, xs: Iterator[Any], state: Any, k1: int, k2: int) -> Iterator[Window]:
    """Windows that each do all steps in reach again, from the state that was kept of the first of them."""
    past: list[tuple[Any, Any]] = []  # x and the state before it, of the last k2 steps
    time = 0
    while new := list(islice(xs, k1)):
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


def randomly_truncated(
    step: StepFunction,
    xs: Iterable[Any],
    state: Any,
    stop_probability: float | Callable[[int], float],
    generator: Any,
) -> Iterator[Window]:
    """Truncated BPTT without bias: windows end at random, and what passes an end that might have been is enlarged.

    After each step the window ends with probability p; where it goes on, the gradient of the state is divided by
    1 - p on its way back. In expectation this is the whole gradient (ARTBP, Tallec and Ollivier 2017).

    For that the losses must add up: ``window.backward(window.steps)`` for their sum, ``window.steps / T`` for the mean
    over T steps; a mean over each window would weigh the steps of short windows more.

    step, xs, state: as for ``truncated``.
    stop_probability: p in [0, 1), or a function from the steps since the last end, 1, 2, ..., to p: one that falls
        lets some windows be long at the price of a smaller variance.
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
    passed = _probability(chance(1))  # the probability with which the window could have ended before the present step

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
    """x, finite numbers to the last bit, with a gradient that is multiplied by a factor."""
    return x.detach() + factor * (x - x.detach()) if isinstance(x, Tensor) and x.requires_grad else x


def _yielded(windows: Iterator[Window]) -> Iterator[Window]:
    """Windows one at a time: each is closed when the next is there, as what it reaches may be let go by then."""
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
