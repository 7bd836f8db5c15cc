"""Products of vectors, matrices and stacks of matrices."""

from __future__ import annotations

import functools
import operator
from math import prod
from string import ascii_letters
from typing import Any

import numpy as np

from ..backend import Array, of, signature
from ..op import check_arrays, op
from ..whereabouts import misfit, whereabouts
from .elementwise import multiply
from .reduce import sum
from .shape import Shape, broadcast_to, broadcasts, expand_dims, reshape, rows, transpose, unbroadcast


def mT(x: Any) -> Any:
    """A matrix, or each matrix of a stack, transposed."""
    return x.swapaxes(-1, -2)


@op(name="matmul")
def product(xp: Any, a: Array, b: Array, *, out: Array = None) -> Array:
    """The kernel of ``matmul``, for inputs with two axes or more."""
    if b.ndim == 2 <= a.ndim:
        return _times(xp, a, b, out)
    return xp.matmul(a, b, out=out)


def _times(xp: Any, x: Array, matrix: Array, out: Array) -> Array:
    """x times a matrix along the last axis, as one product; matmul would compute one for each matrix of a stack."""
    if x.ndim == 2:
        return xp.dot(x, matrix, out=out)
    shape = (*x.shape[:-1], matrix.shape[1])
    target = None if out is None else out.reshape(prod(shape[:-1]), shape[-1])
    return xp.dot(x.reshape(prod(x.shape[:-1]), x.shape[-1]), matrix, out=target).reshape(shape)


product.vjp(
    a=lambda g, b: product(g, mT(b)),
    b=lambda g, a, b_shape: product(mT(rows(a)), rows(g)) if len(b_shape) == 2 else product(mT(a), g),
)


def _factor_gradient(gs: Any, xs: Any, shape: Shape) -> Any:
    """The gradient from all uses of one matrix as one product; for a stack, which may broadcast, one per use."""
    if len(shape) == 2:
        return product(mT(rows(*xs)), rows(*gs))
    return functools.reduce(operator.add, [unbroadcast(product(mT(x), g), shape) for g, x in zip(gs, xs, strict=True)])


product.merge(b=lambda g, a, b_shape: _factor_gradient(g, a, b_shape[0]))


@product.explain
def _no_product(a: Array, b: Array) -> str | None:
    if a.ndim < 2 or b.ndim < 2:
        return f"a {signature(a)} and b {signature(b)} need axes to sum over"
    if a.shape[-1] != b.shape[-2]:
        return f"a {signature(a)} does not fit b {signature(b)} (last axis {a.shape[-1]}, b expects {b.shape[-2]})"
    return None


def matmul(a: Any, b: Any) -> Any:
    """Matrix product as in NumPy: vectors on either side, and stacks of matrices that broadcast.

    >>> import numpy as np
    >>> matmul(np.eye(2), np.array([1.0, 2.0]))
    array([1., 2.])
    """
    ndim = getattr(a, "ndim", None), getattr(b, "ndim", None)
    if ndim == (1, 1):
        if a.shape != b.shape:
            raise misfit(f"matmul: a {signature(a)} does not fit b {signature(b)}")
        return sum(multiply(a, b))
    if ndim[0] == 1:
        y = product(expand_dims(a, 0), b)
        return reshape(y, (*y.shape[:-2], y.shape[-1]))
    if ndim[1] == 1:
        y = product(a, expand_dims(b, 1))
        return reshape(y, y.shape[:-1])
    return product(a, b)  # also reports what is wrong with other inputs


@op
def linear(xp: Any, x: Array, weight: Array, bias: Array | None = None, *, out: Array = None) -> Array:
    """Affine map of the last axis, y = x W^T + b, with W of shape (out, in).

    bias: b, of shape (out,) or any that broadcasts to y's.
    """
    if weight.ndim != 2:
        raise ValueError("the weight is no matrix")
    if bias is not None and not x.dtype == weight.dtype == bias.dtype:
        return xp.add(_times(xp, x, weight.T, None), bias, out=out)  # in the widest dtype, which may be the bias's
    y = _times(xp, x, weight.T, out)
    if bias is not None:
        y += bias
    return y


linear.vjp(
    x=lambda g, weight: product(g, weight),
    weight=lambda g, x: product(mT(rows(g)), rows(x)),
    bias=lambda g: g,
)


linear.merge(weight=lambda g, x: product(mT(rows(*g)), rows(*x)))


@linear.explain
def _no_map(x: Array, weight: Array, bias: Array | None) -> str | None:
    if weight.ndim != 2:
        return f"weight {signature(weight)} needs two axes, (out, in)"
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        last = x.shape[-1] if x.ndim else "missing"
        wanted = f"(last axis {last}, weight expects {weight.shape[1]})"
        return f"x {signature(x)} does not fit weight {signature(weight)} {wanted}"
    shape = (*x.shape[:-1], weight.shape[0])
    if bias is not None and not broadcasts(bias.shape, shape):
        return f"bias {signature(bias)} does not broadcast to the result, x W^T of shape {shape}"
    return None


def outer(a: Any, b: Any) -> Any:
    """Outer product of vectors, y_ij = a_i b_j."""
    check_arrays("outer", a=a, b=b)
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))


@op(name="einsum")
def contract(xp: Any, *xs: Array, subscripts: str) -> Array:
    """The kernel of ``einsum``, for explicit subscripts in which no operand repeats a letter."""
    if any(of(x) is not of(xs[0]) for x in xs):
        raise TypeError("operands live in different places")  # CuPy would silently copy NumPy's to the device
    if xp is not np and len(xs) == 2 and (y := _as_product(xp, *xs, *_terms(subscripts))) is not None:
        return y  # CuPy's own einsum cannot be captured
    return xp.einsum(subscripts, *xs, optimize=True)


def _as_product(xp: Any, a: Array, b: Array, terms: list[str], result: str) -> Array | None:
    """A contraction of two operands as a product of stacks of matrices, if some axes are summed and some left."""
    of_a, of_b = terms
    size = dict(zip(of_a + of_b, a.shape + b.shape, strict=True))
    both = [c for c in of_a if c in of_b]
    stack, summed = [c for c in both if c in result], [c for c in both if c not in result]
    left, right = ([c for c in of if c not in both] for of in (of_a, of_b))
    one_length = all(size[c] == n for c, n in zip(of_a, a.shape, strict=True))  # else one operand broadcasts
    if not summed or not (left or right) or not one_length or not {*left, *right} <= {*result}:
        return None

    def lengths(letters: list[str]) -> Shape:
        return tuple(size[c] for c in letters)

    def matrices(x: Array, of: str, rows: list[str], columns: list[str]) -> Array:
        turned = x.transpose([of.index(c) for c in (*stack, *rows, *columns)])
        return turned.reshape((*lengths(stack), prod(lengths(rows)), prod(lengths(columns))))

    y = product.op.kernel(xp, matrices(a, of_a, left, summed), matrices(b, of_b, summed, right))
    letters = [*stack, *left, *right]
    return xp.ascontiguousarray(y.reshape(lengths(letters)).transpose([letters.index(c) for c in result]))


def _contract_back(g: Any, xs: tuple[Any, ...], k: int, subscripts: str) -> Any:
    """The product of g and the other operands, summed to the letters of operand k."""
    terms, result = _terms(subscripts)
    others = [(term, x) for i, (term, x) in enumerate(zip(terms, xs, strict=True)) if i != k]
    wanted = terms[k]
    seen = set(result).union(*(term for term, _ in others))
    kept = "".join(c for c in wanted if c in seen)  # letters of operand k alone were summed: g is constant along them
    g = contract(g, *(x for _, x in others), subscripts=",".join([result, *(term for term, _ in others)]) + "->" + kept)
    if kept != wanted:
        g = expand_dims(g, axis=tuple(i for i, c in enumerate(wanted) if c not in seen))
    # An axis of length 1 was broadcast, and the engine sums g along it.
    return broadcast_to(g, shape=tuple(m if n == 1 else n for n, m in zip(xs[k].shape, g.shape, strict=True)))


contract.vjp(xs=_contract_back)


def _terms(subscripts: str) -> tuple[list[str], str]:
    left, _, result = subscripts.partition("->")
    return left.split(","), result


def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein summation as in NumPy, with ``...``, implicit output and repeated letters.

    >>> import numpy as np
    >>> einsum("ij,j->i", np.eye(2), np.array([1.0, 2.0]))
    array([1., 2.])
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: subscripts such as 'ij,jk->ik' come first, not {subscripts!r}{whereabouts()}")
    given = subscripts.replace(" ", "")
    terms, result = _terms(given)
    if len(terms) != len(operands):
        count = f"{len(operands)} {'was' if len(operands) == 1 else 'were'}"
        raise misfit(f"einsum: {subscripts!r} names {len(terms)} operands, but {count} given")
    free = [c for c in ascii_letters if c not in given]
    if not all(hasattr(x, "ndim") for x in operands):
        contract.op.fail(AttributeError("an array is needed"), operands, {})
    spans = [x.ndim - len(t) + 3 if "..." in t else 0 for t, x in zip(terms, operands, strict=True)]  # axes of each ...
    widest = max(spans)
    dots = "".join(free[len(free) - widest :])
    terms = [t.replace("...", dots[widest - span :]) for t, span in zip(terms, spans, strict=True)]
    if "->" not in given:
        joined = "".join(terms)
        result = dots + "".join(sorted(c for c in set(joined) - set(dots) if joined.count(c) == 1))
    result = result.replace("...", dots)
    plain = [_diagonal(x, t) for x, t in zip(operands, terms, strict=True)]
    return contract(*(x for x, _ in plain), subscripts=",".join(t for _, t in plain) + "->" + result)


def _diagonal(x: Any, term: str) -> tuple[Any, str]:
    """An operand and its term without repeated letters: the diagonal of x along axes that share one."""
    for c in term:
        while term.count(c) > 1:
            if len(term) != x.ndim:
                raise misfit(f"einsum: {term!r} does not name the axes of {signature(x)}, a letter for each")
            i = term.index(c)
            j = term.index(c, i + 1)
            order = [*(a for a in range(x.ndim) if a not in (i, j)), i, j]
            x = transpose(x, axes=order)
            n = x.shape[-1]
            if x.shape[-2] != n:
                raise misfit(f"einsum: the letter {c!r} stands for axes of lengths {x.shape[-2]} and {n}")
            x = reshape(x, (*x.shape[:-2], n * n))[(..., slice(None, None, n + 1))]
            term = "".join(term[a] for a in order[:-1])
    return x, term
