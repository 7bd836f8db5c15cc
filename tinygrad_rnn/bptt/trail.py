"""Running a step function along a stream: its windows, and how far back their gradients can still reach."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .. import tape
from ..backward import walk
from ..graph import reachable
from ..nn.checks import outline
from ..nn.states import detach
from ..ops import stack
from ..tape import GraphError, Leaf, Node
from ..tensor import Tensor, accumulate, filled_like
from ..tree import tree_leaves
from ..whereabouts import ShapeError

StepFunction = Callable[[Any, Any], tuple[Any, Any]]


class Window:
    """Consecutive steps of a stream with one backward pass for their losses. Invalid once the next window is drawn.

    start, stop: its steps are start, ..., stop - 1, counted from the start of the stream; ``steps`` is their number.
    reach: the gradient covers the computations of steps reach, ..., stop - 1.
    losses, loss: the loss of each step, and their mean; without history, as gradients go through ``backward``.
    state: the state after the window, without history.
    horizon: the ``tape.mark`` at which backward stops.
    """

    def __init__(self, trail: Trail, start: int, losses: list[Tensor]):
        self.start, self.stop, self.reach = start, trail.time, trail.first
        self.state = detach(trail.state)
        self._values = [loss.array for loss in losses]
        reached = losses[max(0, self.reach - start) :]
        self.horizon, self._retain = trail.horizon, trail.moments.maxlen is not None
        self._roots = [
            (loss.node, loss.array)
            for loss in reached
            if loss.node is not None and (isinstance(loss.node, Leaf) or loss.node.id >= self.horizon)
        ]
        self._over = ""

    @property
    def steps(self) -> int:
        """The number of steps: with ``truncated``, k1, or fewer in the last window."""
        return self.stop - self.start

    @property
    def losses(self) -> Tensor:
        """The loss of each step, (steps,)."""
        return Tensor.wrap(stack(self._values))

    @property
    def loss(self) -> Tensor:
        """The mean of the losses."""
        return self.losses.mean()

    def roots(self, weight: float = 1.0) -> list[tuple[Node | Leaf, Any]]:
        """Where backward begins: the losses within reach, with weight / steps for each; none once it is over."""
        return [(node, filled_like(array, weight / self.steps)) for node, array in self._roots]

    def backward(self, weight: float = 1.0) -> None:
        """Add the gradient of weight * loss to ``.grad``, as far as it comes from steps within reach.

        Weights combine windows of different lengths into one mean: with ``window.steps / k1`` a short last window
        counts by its length; with ``window.steps / T`` the gradients add up to that of the mean over T steps.

        Raises GraphError, without touching a gradient, if it was called before, if the next window has been drawn, if
        no loss within reach has a history, or if an array that the graph needs was changed in place.
        """
        if self._over:
            raise GraphError(f"backward: {self!r} {self._over}")
        if not self._roots:
            raise GraphError(
                f"backward: no loss within the reach of {self!r} has a history; does the step use parameters that "
                "require a gradient, outside of no_grad?"
            )
        accumulate(walk(self.roots(weight), horizon=self.horizon, retain=self._retain))
        self.close("was sent back before; a second time would count its gradient twice")

    def close(self, why: str) -> None:
        """Release the graph. why: the reason, for the error if ``backward`` is called later."""
        self._over, self._roots = self._over or why, []

    def __repr__(self) -> str:
        return f"Window(steps {self.start} to {self.stop - 1})"


class Trail:
    """A step function running along a stream, with the start and the initial state of the last ``reach`` steps.

    With a reach of None it serves for one window, which reaches back to the start of the trail.
    There is one graph. Its parts out of reach are released step by step: the initial state of the oldest step in reach
    drops its history, which frees everything before it.
    """

    def __init__(self, step: StepFunction, state: Any, reach: int | None, time: int = 0):
        self.step, self.state, self.time = step, state, time
        self.birth = tape.clock()
        self.moments: deque[int] = deque(maxlen=reach)
        self.states: deque[Any] = deque(maxlen=reach)

    @property
    def first(self) -> int:
        """The oldest step in reach."""
        return self.time - len(self.moments)

    @property
    def horizon(self) -> int:
        """The moment at which backward stops; 0 from the stream's start, to include the initial state's history."""
        return self.moments[0] if self.first else 0

    def window(self, xs: Iterator[Any], leading: int = 0) -> Window | None:
        """Run some steps as a window; None if there are none. Losses of the ``leading`` steps are not part of it."""
        start = self.time
        losses = []
        with tape.timeline() as mark:
            while True:
                moment = mark(self.time)  # before x is drawn: computing x belongs to its step
                try:
                    x = next(xs)
                except StopIteration:
                    break
                losses.append(self._advance(x, moment, self.time > start or not start))
        return Window(self, start + leading, losses[leading:]) if losses else None

    def _advance(self, x: Any, moment: int, trusted: bool) -> Tensor:
        """Run one step. Unless trusted, check that its history leads only to its state, its input and leaves."""
        before = self.state
        self.moments.append(moment)
        self.states.append(before)
        self._let_go()
        loss, state = checked("truncated", self.step(x, before), self.time)
        if loss.array.shape != ():
            cure = "make it a scalar with .mean() or .sum() (and return the loss first, then the state)"
            raise ValueError(f"truncated: the loss of step {self.time} has shape {loss.shape}; {cure}")
        _check_successor(before, state, self.time)
        if not trusted:
            _refuse_strangers([loss, state], before, moment, self.time)
        self.state = state
        self.time += 1
        return loss

    def _let_go(self) -> None:
        for leaf in tree_leaves(self.states[0]):
            node = getattr(leaf, "node", None)
            if isinstance(node, Node) and node.id > self.birth:
                node.clear()


def checked(who: str, result: Any, time: int) -> tuple[Tensor, Any]:
    """What a step returned, checked to be a loss and a state."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{who}: step {time} must return (loss, state), not {type(result).__name__}")
    loss, state = result
    if not isinstance(loss, Tensor):
        cure = "return (loss, state), in this order, the loss a Tensor; tg.zeros(()) where a step has none"
        raise TypeError(f"{who}: the loss of step {time} is a {type(loss).__name__}; {cure}")
    return loss, state


def _refuse_strangers(results: Any, before: Any, moment: int, time: int) -> None:
    """Raise if a step used tensors computed outside it, other than its state: backward would silently stop there.

    For tensors made before the stream, each window would have to go back through their graph again. Tensors passed
    from step to step outside the state would keep the whole stream alive.
    """
    known, roots = (
        [leaf.node for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.node is not None]
        for tree in (before, results)
    )
    strangers = [x for x in reachable(roots, without=frozenset(known)) if isinstance(x, Node) and x.id < moment]
    if strangers:
        raise GraphError(
            f"truncated: step {time} uses {strangers[-1].origin}, which was computed outside of this step and is not "
            "part of its state. Compute it inside step, carry it in the state, or use it without history, x.detach()"
        )


def _check_successor(before: Any, after: Any, time: int) -> None:
    """Raise unless a step returned a state with the structure and shapes of the one it was given, or was given None."""
    if before is None:
        return
    old, new = _form(before), _form(after)
    if old != new:
        kind = ShapeError if _form(before, shapes=False) == _form(after, shapes=False) else TypeError
        raise kind(
            f"truncated: step {time} was given the state {outline(before)} and returned {outline(after)}; "
            "a state keeps its structure and its shapes"
        )


def _form(tree: Any, shapes: bool = True) -> Any:
    """A state's structure, with shapes or without; types of tuples and lists do not matter."""
    if isinstance(tree, dict):
        return {name: _form(part, shapes) for name, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [_form(part, shapes) for part in tree]
    shape = getattr(tree, "shape", None)
    return tree if tree is None else tuple(shape) if shapes and shape is not None else ()
