"""Real-time recurrent learning: exact gradients at every step, without storing the past."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate as running_sums
from typing import Any, NamedTuple

import numpy as np

from .. import backend, tape
from ..grad import grad
from ..grad_mode import enable_grad
from ..nn.states import detach
from ..replay.recorder import is_recording
from ..replay.refusal import refuse
from ..tape import GraphError
from ..tensor import Tensor, accumulate
from ..tree import tree_leaves, tree_map
from ..whereabouts import ShapeError
from .trail import checked


class Moment(NamedTuple):
    """One time step of ``real_time``: its loss, the state after it, and the loss's gradient for each parameter."""

    step: int
    loss: Tensor
    state: Any
    parameters: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def backward(self) -> None:
        """Add the gradients to ``.grad`` of the parameters."""
        pairs = zip(self.parameters, self.gradients, strict=True)
        accumulate({p.node: g.array.copy() for p, g in pairs if p.node is not None})


def real_time(
    step: Callable[[Any, Any], tuple[Tensor, Any]], xs: Iterable[Any], state: Any, parameters: Iterable[Tensor]
) -> Iterator[Moment]:
    """Real-time recurrent learning (Williams and Zipser 1989): every loss comes with its full gradient at once.

    With the influence P_t = ds_t/dtheta of the parameters on the state, through all of the past,

        dL_t/dtheta = dL_t/dtheta|direct + dL_t/ds_{t-1} P_{t-1}
        P_t = ds_t/ds_{t-1} P_{t-1} + ds_t/dtheta|direct

    step: ``step(x_t, state) -> (loss_t, state)``, as for truncated BPTT, with a scalar loss.
    xs: an iterable of inputs. state: nested Tensors; if they depend on the parameters, gradients include this.
    parameters: leaves; only their gradients are computed, exactly.

    Yields a Moment for each step; ``moment.backward()`` adds its gradients to ``.grad``. Over a sequence they add up to
    those of full BPTT. An optimizer may step after each Moment. P_t is then a sum over parameters of different times,
    which is the online form of Williams and Zipser, close to the gradient for small steps.

    No past graph or state is kept, so memory does not depend on T. With N = B n state elements and p parameters, it
    stores N p numbers, and each step takes N backward passes through one step and N^2 p multiplications. BPTT takes one
    pass, and stores T N numbers. For a plain RNN p is about n^2, so a step costs O(n^4) operations instead of O(n^2).
    That is why BPTT is used wherever the past can be stored. Rows of a batch may depend on one another; if they do not,
    a call for each row costs B times less.

    Raises GraphError for parameters that require no gradient, ValueError if one is given twice, TypeError or ShapeError
    if a step does not return a scalar loss and a state, CaptureError in a captured step.

    >>> from tinygrad_rnn import nn, ones
    >>> cell = nn.RNNCell(2, 3)
    >>> def step(x, state):
    ...     output, state = cell(x, state)
    ...     return (output * output).mean(), state
    >>> for moment in real_time(step, ones(5, 1, 2), cell.initial_state(ones(1, 3)), cell.parameters()):
    ...     moment.backward()
    >>> moment.step, cell.weight_hh.grad.shape
    (4, (3, 3))
    """
    learned = tuple(parameters)
    if not learned or not all(p.is_leaf and p.requires_grad for p in learned):
        raise GraphError("real_time: the parameters must be leaves that require a gradient, one or more")
    if len(set(learned)) < len(learned):
        raise ValueError("real_time: a parameter was given twice, and its gradient would count twice")
    if is_recording():
        refuse("calls real_time, which writes its derivatives row by row")
    influence = _rows(_carried(state), learned)
    for t, x in enumerate(xs):
        birth = tape.clock()
        with tape.timeline() as mark, enable_grad():  # even if the caller updates parameters in no_grad
            mark(t)
            state = tree_map(_begun_anew, state)
            before = _carried(state)
            loss, after = checked("real_time", step(x, state), t)
            if loss.size != 1:
                raise ShapeError(f"real_time: the loss of a step must be a scalar, not {loss!r}")
            sources = [*before, *learned]
            (row,) = _through(_rows([loss], sources), influence)
            influence = _through(_rows(_carried(after), sources), influence)
            state = detach(after)
        tape.unmark(birth, tape.clock())  # the graph of the step is gone
        yield Moment(t, loss.detach(), state, learned, _apart(row, learned))


def _carried(state: Any) -> list[Tensor]:
    """The Tensors of a state that can have derivatives."""
    return [x for x in tree_leaves(state) if isinstance(x, Tensor) and x.dtype.kind == "f"]


def _begun_anew(x: Any) -> Any:
    """A state's Tensor as a new leaf that requires a gradient; anything else unchanged."""
    if not isinstance(x, Tensor) or x.dtype.kind != "f":
        return x
    fresh = x.detach()
    fresh.requires_grad = True
    return fresh


def _rows(ys: Sequence[Tensor], sources: Sequence[Tensor]) -> Any:
    """The Jacobian (elements of ys, elements of sources), by one backward pass per row."""
    xp = backend.of(sources[0].array).xp
    dtype = np.result_type(*{x.dtype for x in sources})  # a first state is often narrower than the parameters
    bounds = [0, *running_sums(x.size for x in sources)]
    elements = [(y, i) for y in ys for i in range(y.size)]
    jacobian = xp.zeros((len(elements), bounds[-1]), dtype=dtype)
    for row, (y, i) in enumerate(elements):
        if y.node is not None:
            direction = xp.zeros(y.size, dtype=y.dtype)
            direction[i] = 1
            parts = grad(y, sources, direction.reshape(y.shape), retain_graph=True, allow_unused=True)
            for start, part in zip(bounds, parts, strict=False):
                if part is not None:
                    jacobian[row, start : start + part.size] = part.array.ravel()
    return jacobian


def _through(jacobian: Any, influence: Any) -> Any:
    """Total derivatives for the parameters: through the previous state, plus direct."""
    carried = influence.shape[0]
    return jacobian[:, :carried] @ influence + jacobian[:, carried:]


def _apart(row: Any, learned: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A row of derivatives split into a Tensor for each parameter, with its shape and dtype."""
    ends = list(running_sums(p.size for p in learned))
    return tuple(
        Tensor.wrap(row[end - p.size : end].reshape(p.shape).astype(p.dtype))
        for p, end in zip(learned, ends, strict=True)
    )
