"""The Tensor: an array that remembers how it was made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import wraps
from sys import getrefcount
from typing import Any

import numpy as np

from . import backend, writes
from .backend import Array, DTypeLike, as_array
from .backward import walk
from .grad_mode import is_grad_enabled
from .hints import TENSORS, hinted
from .operators import Operators
from .readable import Readable
from .tape import GraphError, Leaf, Node, Taped, bare_array, state
from .whereabouts import ShapeError


def _in_place(operator: Any) -> Any:
    """``w -= step`` within ``no_grad`` updates a leaf that requires a gradient; elsewhere it is ``w = w - step``."""

    @wraps(operator)
    def change(self: Tensor, other: Any) -> Any:
        if is_grad_enabled() or not isinstance(self.node, Leaf):
            return NotImplemented
        updated = operator(self, other)
        self.data = updated if updated.dtype == self.dtype else updated.astype(self.dtype)
        return self

    return change


class Tensor(Operators, Readable):
    """A NumPy or CuPy array on the tape.

    Operators, indexing and methods work as for NumPy's arrays, and are recorded if an input requires a gradient.
    Create a Tensor with ``tensor``, ``zeros``, ``randn`` and so on.

    >>> x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad.numpy()
    array([2., 4., 6.], dtype=float32)
    """

    __slots__ = ("__weakref__", "resting")
    __array_ufunc__ = None  # makes ndarray * Tensor use Tensor.__rmul__
    resting: Leaf  # the node of a leaf since requires_grad was set to False; unset in others

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("Tensor: tensors are made by tg.tensor(data), tg.zeros(2, 3) and the like")

    __iadd__, __isub__ = _in_place(Operators.__add__), _in_place(Operators.__sub__)
    __imul__, __itruediv__ = _in_place(Operators.__mul__), _in_place(Operators.__truediv__)
    __ifloordiv__, __imod__ = _in_place(Operators.__floordiv__), _in_place(Operators.__mod__)
    __ipow__, __imatmul__ = _in_place(Operators.__pow__), _in_place(Operators.__matmul__)

    @property
    def data(self) -> Array:
        """The bare array. Assigning a new one does not affect graphs that used the old one.

        After a write into it, x.data[0] = 1, backward refuses graphs that had saved it before ``data`` was read.
        """
        if getrefcount(self.array) > 2 or getattr(self.array, "base", None) is not None:  # a graph may have saved it
            writes.lend(self.array)
        return self.array

    @data.setter
    def data(self, value: Array) -> None:
        array = as_tensor(value).array if isinstance(value, (Taped, np.generic)) else value  # NumPy's 0-d results
        if not backend.is_array(array) or array.shape != self.array.shape:
            raise ShapeError(f"data: {self!r} can only take an array of shape {self.shape}, not {_outline(array)}")
        if isinstance(self.node, Node):
            raise GraphError(f"data: {self!r} is the result of an operation; assign to a leaf, or to x.detach()")
        if array.dtype != self.array.dtype:
            backend.refuse_unreal("data", array.dtype)
            if self.node is not None:
                given = f"an array of {array.dtype}"
                raise TypeError(f"data: {self!r} has a gradient of its own dtype and cannot take {given}")
        if array is self.array:  # x.data -= step, which has just changed the array in place
            writes.wrote(array)
        self.array = array

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded. True makes it a leaf, False makes a leaf a constant.

        If it is made a leaf again, the gradient from before is back, and so is its place in earlier graphs.
        """
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value == self.requires_grad:
            return
        if isinstance(self.node, Node):
            raise GraphError(f"requires_grad: {self!r} is the result of an operation; use x.detach() for a constant")
        if value and self.array.dtype.kind != "f":
            raise TypeError(f"requires_grad: only floating-point tensors have gradients, not {self!r}")
        if isinstance(self.node, Leaf):
            self.resting, self.node = self.node, None
            self.resting.frozen = True
            return
        leaf = leaf_of(self)
        if leaf is None or leaf.dtype != self.dtype or (leaf.grad is not None and leaf.grad.backend != self.backend):
            leaf = Leaf(self.array.shape, self.array.dtype)
        leaf.frozen, self.node = False, leaf

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return not isinstance(self.node, Node)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward passes have accumulated in a leaf; None for anything else."""
        return self.node.grad if isinstance(self.node, Leaf) else None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if not isinstance(self.node, Leaf):
            if value is None:
                if leaf := leaf_of(self):
                    leaf.grad = None
                return
            raise GraphError(f"grad: {self!r} is not a leaf that requires a gradient")
        if value is not None and (not isinstance(value, Tensor) or value.shape != self.shape):
            raise ShapeError(f"grad: {self!r} needs a Tensor of shape {self.shape}, not {_outline(value)}")
        if value is not None and value.dtype != self.dtype:
            raise TypeError(f"grad: {self!r} needs a Tensor of its own dtype, not {value!r}; use g.astype(x.dtype)")
        self.node.grad = value

    def __pos__(self) -> Tensor:
        return Tensor.wrap(self.array, self.node)  # not self, which ``x += 1`` may change in place

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __copy__(self) -> Tensor:
        own = isinstance(self.node, Leaf)  # two tensors with one leaf would share its gradient
        return Tensor.wrap(self.array, Leaf(self.array.shape, self.array.dtype) if own else self.node)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if isinstance(self.node, Node):
            raise GraphError(f"deepcopy: {self!r} is the result of an operation; copy x.detach()")
        return tensor(self.array, requires_grad=self.requires_grad)

    def __reduce__(self) -> Any:
        """What pickle stores: the array, without history and without the gradient."""
        return tensor, (self.numpy(), None, self.backend, isinstance(self.node, Leaf))

    def detach(self) -> Tensor:
        """A Tensor with the same array but no history: backward stops here."""
        return Tensor.wrap(self.array)

    def to(self, where: Any = None, dtype: DTypeLike = None) -> Tensor:
        """A copy on another backend (``"cupy"``), without history, or in another dtype (``"float64"``), as ``astype``.

        Returns the tensor itself if nothing changes.
        """
        if backend.is_dtype(where):
            where, dtype = None, where
        x: Tensor = self if dtype is None or self.dtype == dtype else self.astype(dtype)  # type: ignore[attr-defined]
        if where is None or where == self.backend:
            return x
        return tensor(x.array, backend=where, requires_grad=isinstance(self.node, Leaf))

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool = False,
        create_graph: bool = False,
        horizon: int | None = None,
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf that it was made from.

        gradient: the initial cotangent, of this tensor's shape; by default 1, for a scalar.
        retain_graph: keep what the graph saved, for another backward pass; ``create_graph`` keeps it too.
        create_graph: record the backward pass itself, so that gradients can be differentiated again.
        horizon: a ``tape.mark()``; nodes made before it are not entered, leaves are.

        Raises GraphError, and changes no gradient, if the graph was freed or a saved array was overwritten.
        """
        if not isinstance(horizon, (int, np.integer, type(None))):
            raise TypeError(f"backward: the horizon is a moment, as tape.mark() gives it, not {horizon!r}")
        if self.node is None:
            raise GraphError(
                f"backward: {self!r} has no history; no input of it requires a gradient, it was detached, made in "
                "no_grad, or returned by a captured step, which does its backward itself; the loss of a window of "
                "truncated BPTT goes back by window.backward()"
            )
        arrived = walk(
            [(self.node, seed(self, gradient, create_graph))],
            horizon=horizon or 0,
            retain=retain_graph or create_graph,
            wrap=Tensor.wrap if create_graph else None,
        )
        accumulate(arrived, create_graph)


hinted(Tensor, TENSORS, "a Tensor")


def leaf_of(x: Tensor) -> Leaf | None:
    """The leaf of a tensor that requires a gradient or did so before; None for the result of an operation."""
    leaf = getattr(x, "resting", None) if x.node is None else x.node
    return leaf if isinstance(leaf, Leaf) else None


def _outline(value: Any) -> str:
    if isinstance(value, Taped):
        return repr(value)
    return backend.signature(value) if backend.is_array(value) else type(value).__name__


def seed(output: Tensor, gradient: Any, record: bool) -> Any:
    """The initial cotangent: an array, or a Tensor if the walk is recorded."""
    if gradient is None:
        if output.size != 1:
            raise GraphError(
                f"backward: {output!r} is not a scalar; sum it up, or give a gradient of shape {output.shape}"
            )
        gradient = Tensor.wrap(filled_like(output.array, 1))
    if not isinstance(gradient, Tensor):
        gradient = tensor(gradient, dtype=output.dtype, backend=output.backend)
    if gradient.shape != output.shape or gradient.backend != output.backend:
        raise ShapeError(f"backward: gradient {gradient!r} does not fit {output!r}, in shape or in backend")
    return gradient if record else gradient.array


_accumulating = threading.RLock()  # threads may share leaves, and a sum that is read and then written would lose others


def accumulate(arrived: dict[Node | Leaf, Any], record: bool = False) -> None:
    """Add a walk's results to the gradients of the leaves; with ``record``, the sums are differentiable."""
    if lost := [leaf for leaf in arrived if isinstance(leaf, Leaf) and leaf.converted]:
        raise GraphError(
            f"backward: since the forward pass, {len(lost)} of its tensors, such as {list(lost[0].shape)}, were "
            "converted to another dtype or backend, so their gradients do not fit them; convert before the forward pass"
        )
    with _accumulating:
        for leaf, g in arrived.items():
            assert isinstance(leaf, Leaf)
            if leaf.frozen:  # since the graph was made
                continue
            if leaf.grad is None:
                leaf.grad = as_tensor(g)
            elif record or leaf.grad.node is not None:
                leaf.grad = leaf.grad + g
            else:
                leaf.grad.array = as_tensor(leaf.grad.array + g).array  # a graph may have saved the old array


def filled_like(array: Array, value: float) -> Array:
    """A new array of the same shape, dtype and backend, filled with a value: a cotangent to begin with."""
    filled = backend.of(array).xp.full_like(array, value)
    return filled if state.keep is None else state.keep(filled)


def as_tensor(value: Any) -> Tensor:
    """Wrap an array without a copy; a Tensor is returned unchanged; anything else goes through ``tensor``."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):  # NumPy's 0-d results
        value = np.asarray(value)
    return Tensor.wrap(value) if backend.is_array(value) else tensor(value)


def owned(value: Any, like: Tensor | None = None) -> Tensor:
    """A caller's value as a Tensor; an array is copied, as its owner may write into it before backward.

    like: gives lists and numbers its dtype, if that is floating-point, and its backend, as operations do.
    """
    if like is not None and not hasattr(value, "dtype"):
        return tensor(value, like.dtype if like.dtype.kind == "f" else None, like.backend)
    return as_tensor(writes.own(value) if backend.is_array(value) else value)


def tensor(data: Any, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of the data: an array, a Tensor, a number, or nested lists of numbers.

    Arrays keep their dtype, Python floats become float32. The backend is that of the array, or the default one.

    >>> tensor([[1.0, 2.0]])
    Tensor(f32[1,2] numpy)
    """
    made = Tensor.wrap(as_array(bare_array(data), dtype, backend))
    made.requires_grad = requires_grad
    return made
