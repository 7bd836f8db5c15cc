"""Derivatives of tensors (``grad``) and of functions (``vjp``, ``jvp``, ``hvp``, ``jacobian``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .backend import is_array
from .backward import walk
from .create import zeros_like
from .grad_mode import enable_grad, is_grad_enabled
from .graph import reachable
from .ops import astype, stack
from .tape import GraphError, Leaf, Node, Taped, clock
from .tensor import Tensor, as_tensor, owned, seed, tensor
from .tree import tree_leaves, tree_map
from .whereabouts import ShapeError


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """Gradients of outputs with respect to inputs anywhere in the graph; no tensor's ``.grad`` is touched.

    outputs, inputs: a Tensor, several, or nested tuples, lists and dictionaries of them.
    grad_outputs: the initial cotangents, one for each output, or a dictionary like theirs; by default 1, for scalars.
    create_graph: record the backward pass, so that the result can be differentiated again.
    retain_graph: keep what the graph saved; by default the same as ``create_graph``.
    allow_unused: None for an input that no output depends on, instead of a GraphError.

    Returns a Tensor if ``inputs`` is one, a tuple for several, a dictionary for a dictionary, such as
    ``dict(model.named_parameters())``.

    >>> x = tensor(3.0, requires_grad=True)
    >>> g = grad(x**3, x, create_graph=True)
    >>> g.item(), grad(g, x).item()
    (27.0, 18.0)
    """
    outputs, inputs = _tree(outputs), _tree(inputs)
    ys, xs = _tensors("output", outputs), _tensors("input", inputs)
    gs = [None] * len(ys) if grad_outputs is None else _one_for_each(grad_outputs)
    if isinstance(grad_outputs, dict):
        gs = []
        tree_map(lambda _, g: gs.append(g), outputs, grad_outputs)
    if len(gs) != len(ys):
        raise ShapeError(f"grad: {len(gs)} grad_outputs were given for {len(ys)} outputs")
    for x in xs:
        if x.node is None:
            raise GraphError(f"grad: the input {x!r} does not require a gradient")
    roots = [(y.node, seed(y, g, create_graph)) for y, g in zip(ys, gs, strict=True) if y.node is not None]
    if not roots:
        raise GraphError(f"grad: the output {ys[0]!r} has no history")
    arrived = walk(
        roots,
        targets=frozenset(x.node for x in xs if x.node is not None),
        retain=create_graph if retain_graph is None else retain_graph,
        wrap=Tensor.wrap if create_graph else None,
    )

    def arrived_at(x: Tensor) -> Tensor | None:
        if x.node in arrived:
            return as_tensor(arrived[x.node])
        if not allow_unused:
            note = "" if x.is_leaf else " (a slice, stack or copy is a Tensor of its own)"
            raise GraphError(f"grad: no output depends on the input {x!r}{note}; allow_unused=True gives None for it")
        return None

    return tree_map(arrived_at, inputs)


def _tree(given: Any) -> Any:
    """The given tensors; a list or an iterator, such as ``model.parameters()``, becomes a tuple."""
    return given if isinstance(given, (Tensor, tuple, dict)) or not isinstance(given, Iterable) else tuple(given)


def _tensors(role: str, tree: Any) -> list[Tensor]:
    leaves = tree_leaves(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"grad: each {role} must be a Tensor, not {type(leaf).__name__}")
    if not leaves:
        raise GraphError(f"grad: there are no {role}s")
    return leaves


def _one_for_each(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _evaluate(
    f: Callable[..., Any], xs: Sequence[Any], vectors: Sequence[Any] = ()
) -> tuple[list[Tensor], Tensor, bool]:
    """Copies of xs with nodes of their own, so that xs stay untouched; f of the copies; and whether to record.

    The derivative is recorded if it depends on more than these copies: on an x or a vector that requires a gradient, or
    on a parameter that f reads. So derivatives nest, and a penalty on one trains the parameters of f.
    """
    recording = is_grad_enabled()
    birth = clock()
    with enable_grad():
        fresh = [
            astype(x, dtype=x.dtype)
            if recording and isinstance(x, Tensor) and x.requires_grad
            else tensor(x, requires_grad=True)
            for x in xs
        ]
        y = f(*fresh)
    if not isinstance(y, Tensor):
        raise TypeError(f"the function must return one Tensor, not {type(y).__name__}")
    own = {x.node for x in fresh}
    behind = reachable([y.node] if y.node else [], horizon=birth)  # an older history need not be walked to be seen
    met = [*behind, *(p for node in behind if isinstance(node, Node) for p in node.parents if p is not None)]
    others = any((isinstance(node, Leaf) or node.id < birth) and node not in own for node in met)
    return fresh, y, recording and (others or any(v.requires_grad for v in vectors))


def pull_back(
    ys: Sequence[Tensor], xs: Sequence[Tensor], cotangents: Sequence[Any], record: bool, retain: bool | None = None
) -> tuple[Tensor, ...]:
    """The gradients of ys for each x, given the cotangents of ys; zeros for an x on which no y depends."""
    pairs = [(y, v) for y, v in zip(ys, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return tuple(map(zeros_like, xs))
    ys, vs = zip(*pairs, strict=True)
    found = grad(ys, xs, vs, create_graph=record, retain_graph=retain, allow_unused=True)
    return tuple(zeros_like(x) if g is None else g for x, g in zip(xs, found, strict=True))


def vjp(f: Callable[..., Tensor], *xs: Any) -> tuple[Tensor, Callable[[Any], tuple[Tensor, ...]]]:
    """The value f(*xs), and a function from a cotangent v to v^T J, as a tuple with one part for each x.

    Results have a history if an x, or anything else that f reads, requires a gradient; the same holds for ``jvp``,
    ``hvp`` and ``jacobian``. Within ``no_grad`` they have none, which takes half the time.

    >>> value, pull = vjp(lambda x: x * x, tensor([1.0, 2.0]))
    >>> pull(tensor([1.0, 10.0]))[0].numpy()
    array([ 2., 40.], dtype=float32)
    """
    fresh, y, record = _evaluate(f, xs)

    def pull(cotangent: Any) -> tuple[Tensor, ...]:
        also = is_grad_enabled() and isinstance(cotangent, Tensor) and cotangent.requires_grad
        return pull_back([y], fresh, [cotangent], record or also, retain=True)

    return y if record else y.detach(), pull


def jvp(f: Callable[..., Tensor], xs: Any, tangents: Any) -> tuple[Tensor, Tensor]:
    """The value f(*xs), and its derivative J t in the direction of the tangents t, as the vjp of the vjp.

    v^T J is linear in v, so its own vjp with t as the cotangent is J t.

    >>> jvp(lambda x: x * x, tensor([1.0, 2.0]), tensor([1.0, 10.0]))[1].numpy()
    array([ 2., 40.], dtype=float32)
    """
    fresh, y, record, directions = _directed("jvp", f, xs, tangents)
    with enable_grad():
        v = zeros_like(y, requires_grad=y.requires_grad)
        (slope,) = pull_back(pull_back([y], fresh, [v], record=True), [v], directions, record)
    return y if record else y.detach(), slope


def _directed(
    caller: str, f: Callable[..., Any], xs: Any, vectors: Any
) -> tuple[list[Tensor], Tensor, bool, list[Tensor]]:
    """``_evaluate`` for an x or several, and the vector for each; ShapeError if they do not fit."""
    if not isinstance(xs, (list, tuple)):
        xs, vectors = [xs], [vectors]
    vectors = _one_for_each(vectors)
    if len(vectors) != len(xs):
        raise ShapeError(f"{caller}: {len(vectors)} vectors were given for {len(xs)} arguments")
    points = list(map(as_tensor, xs))
    directions = [owned(v, x) for v, x in zip(vectors, points, strict=True)]
    for x, v in zip(points, directions, strict=True):
        if x.shape != v.shape:
            raise ShapeError(f"{caller}: the vector {v!r} does not fit {x!r}")
    return *_evaluate(f, xs, directions), directions


def hvp(f: Callable[..., Tensor], x: Any, v: Any) -> Any:
    """The Hessian of a scalar function times a vector, as the gradient of (gradient . v).

    x, v: a tensor each, or for f(*x) two lists of equal length; then the result is a tuple of that length.

    >>> hvp(lambda x: (x**3).sum(), tensor([1.0, 2.0]), tensor([1.0, 10.0])).numpy()
    array([  6., 120.], dtype=float32)
    """
    fresh, y, record, directions = _directed("hvp", f, x, v)
    with enable_grad():
        gradients = pull_back([y], fresh, [None], record=True)
        found = pull_back(gradients, fresh, directions, record)
    return found if isinstance(x, (list, tuple)) else found[0]


def jacobian(f: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    """All partial derivatives, in an array of the shape of f(x) followed by the shape of x.

    >>> jacobian(lambda x: x * x, tensor([1.0, 2.0])).numpy()
    array([[2., 0.], [0., 4.]], dtype=float32)
    """
    if isinstance(x, (tuple, list)) and any(isinstance(part, Taped) or is_array(part) for part in x):
        raise TypeError(
            f"jacobian: x must be one array, not a {type(x).__name__} of {len(x)}; for one argument among several, "
            "close over the others, jacobian(lambda x: f(x, y), x)"
        )
    y, pull = vjp(f, x)
    rows = []
    for i in range(y.size):
        direction = zeros_like(y)
        direction.array[np.unravel_index(i, y.shape)] = 1  # not in reshape(-1), a copy if the array is transposed
        rows.append(pull(direction)[0])
    if not rows:
        return zeros_like(tensor(y)).reshape((*y.shape, *as_tensor(x).shape))
    return stack(rows).reshape((*y.shape, *rows[0].shape))
