"""Check derivatives, of a function and of its gradient, against finite differences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from . import backend
from .backend import Array, is_finite
from .finite_differences import TOLERANCE, Problem, disagreement, worst
from .op import Op
from .tape import GraphError
from .tensor import Tensor, tensor
from .tree import tree_items, tree_leaves, tree_map

ROUNDING = 1e-10  # allowed difference between two ways to compute the same result
DIRECTIONS = 3
FEW = 200  # up to this many elements, the worst one is located


class CheckError(AssertionError):
    """A derivative disagrees with finite differences, or a rule fails another of the checks."""


def check(function: Callable[..., Any], *samples: Any, **attributes: Any) -> None:
    """Compare the derivatives of an operation, or of any function of Tensors, with finite differences, in float64.

    For each input x and random u and v, ``gradient(v . f) . u = v . (f(x + h u) - f(x - h u)) / 2h`` must hold, and
    again with that gradient in place of f (order two). A rule must give the same on Tensors as on arrays. A merge must
    give the sum of the rule's results for the single uses. A kernel with ``out`` must write all of it.

    function: an ``@op``, or a function that returns Tensors, perhaps in tuples.
    samples: its arguments. Floating-point arrays, Tensors and Python floats, also nested in tuples, are differentiated;
        all else is passed on unchanged. Without samples, random arrays of shape (3, 4) are drawn.
    attributes: keyword arguments, passed on unchanged.

    Returns None on success. Otherwise CheckError names the input, the two numbers and the worst element.

    >>> from tinygrad_rnn.ops import softmax, tanh
    >>> check(tanh)
    >>> check(softmax, np.array([[1.0, 2.0], [3.0, 5.0]]), axis=0)
    >>> check(lambda x: x * x.detach())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    tinygrad_rnn.check.CheckError: check(<lambda>): the gradient for 'x' is wrong: d/dx along a random direction is ...
    """
    with np.errstate(all="ignore"):  # non-finite values are reported in words
        report = _Report(function, attributes)
        report.check(samples or report.drawn())


class _Report:
    """The checks of one function, and their messages."""

    def __init__(self, function: Callable[..., Any], attributes: dict[str, Any]) -> None:
        op = getattr(function, "op", None)
        self.function, self.attributes = function, attributes
        self.op = op if isinstance(op, Op) else None
        name = self.op.name if self.op else getattr(function, "__name__", type(function).__name__)
        self.title = f"check({name})"
        self.rule = "rule" if self.op else "gradient"
        self.random = np.random.default_rng(0)
        parameters = list(inspect.signature(function).parameters.values())
        named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)} | set(attributes)
        self.parameters = [p for p in parameters if p.name not in named]

    def check(self, samples: Sequence[Any]) -> None:
        """Run the checks kind by kind; the first kind with failures raises, reporting all of its failures."""
        problem = self.problem(samples)
        problem.cotangents = list(map(self.normal, self.outputs(problem)))
        for kind in (self.rules, self.rules_on_tensors, self.merges, self.order_two):
            lines = [f"{self.title}: {line}" for k in problem.positions for line in kind(problem, k)]
            if lines:
                raise CheckError("\n".join(lines))

    def drawn(self) -> list[Array]:
        """Random samples: normal ones, or positive ones if the result is not finite, as for a logarithm."""
        inputs = self.op.inputs if self.op else ()
        wanted = [p for p in self.parameters if p.default is p.empty and (not inputs or p.name in inputs)]
        count = sum(2 if p.kind is p.VAR_POSITIONAL else 1 for p in wanted)
        samples = [backend.default().from_host(self.random.standard_normal((3, 4))) for _ in range(count)]
        try:
            ys = self.problem(samples).outputs()
        except (TypeError, ValueError, IndexError) as error:
            raise CheckError(
                f"{self.title}: it fails on random arrays of shape (3, 4) ({error}). Give samples that fit, "
                f"check(function, {', '.join(p.name for p in wanted)}), and by keyword what else it needs"
            ) from error
        return samples if all(map(is_finite, ys)) else [abs(x) + 0.5 for x in samples]

    def normal(self, like: Array) -> Array:
        """Normal random numbers with an array's shape, dtype and backend."""
        return backend.of(like).from_host(np.asarray(self.random.standard_normal(like.shape), dtype=like.dtype))

    def problem(self, samples: Sequence[Any]) -> Problem:
        """The function with its nested samples and results flattened."""
        names: list[str] = []
        for p in self.parameters:
            rest = range(len(samples) - len(names))
            names += [f"{p.name}[{k}]" for k in rest] if p.kind is p.VAR_POSITIONAL else [p.name]
        names += [f"argument {k}" for k in range(len(names), len(samples))]
        tree = dict(zip(names, samples, strict=False))

        def run(leaves: list[Any]) -> list[Tensor]:
            given = iter(leaves)
            result = self.function(*tree_map(lambda _: next(given), tree).values(), **self.attributes)
            ys = tree_leaves(result)
            if not ys or not all(isinstance(y, Tensor) for y in ys):
                raise CheckError(f"{self.title}: it must return Tensors, not {type(result).__name__}")
            return [y for y in ys if y.dtype.kind == "f"]

        leaves = [(name, _float64(value)) for name, value in tree_items(tree)]
        positions = [k for k, (_, x) in enumerate(leaves) if backend.is_array(x) and x.dtype.kind == "f"]
        if not positions:
            raise CheckError(f"{self.title}: no sample is a floating-point array, so there is nothing to differentiate")
        return Problem(run, [name for name, _ in leaves], [x for _, x in leaves], positions)

    def outputs(self, problem: Problem) -> list[Array]:
        """The outputs at the samples, after checking that the function can be differentiated there."""
        before = {k: problem.values[k].copy() for k in problem.positions}
        ys = [y.copy() for y in problem.outputs()]
        for k, x in before.items():
            if not _same(problem.values[k], x, 0):
                raise CheckError(f"{self.title}: it changes its input {problem.names[k]!r} in place")
        if not all(_same(y, z, 0) for y, z in zip(ys, problem.outputs(), strict=True)):
            raise CheckError(f"{self.title}: two calls gave different results; draw random numbers before the call")
        if not all(map(is_finite, ys)):
            raise CheckError(f"{self.title}: the result is not finite; give samples from inside its domain")
        if self.op and self.op.writes_out:
            for y in ys:  # one, or none if it is of integers or booleans
                out = backend.of(y).xp.full_like(y, np.nan)
                self.function(*problem.values, **self.attributes, out=out)
                if not _same(out, y, ROUNDING):
                    raise CheckError(
                        f"{self.title}: it names out=, but does not write the result there; write every element, or "
                        "leave out= away"
                    )
        return ys

    def rules(self, problem: Problem, k: int) -> Iterator[str]:
        """Compare the derivative with finite differences."""
        name, op = problem.names[k], self.op
        word = name.partition("[")[0]
        if op and word in op.inputs and word not in op.rules:
            yield (
                f"there is no rule for {name!r}; write one, {op.name}.vjp({word}=lambda g, ...: ...), or, if it is an "
                "attribute, let it follow a * in the kernel"
            )
            return
        try:
            wrong = self.compare(problem, k, problem.gradient(k), f"by the {self.rule}")
            if wrong:
                yield f"the {self.rule} for {name!r} is wrong: d/d{name} {wrong}"
        except Exception as error:
            yield f"the {self.rule} for {name!r} failed: {self.reason(error)}"

    def rules_on_tensors(self, problem: Problem, k: int) -> Iterator[str]:
        """Compare the recorded gradient, used for gradients of gradients, with the one on bare arrays."""
        title = f"the {self.rule} for {problem.names[k]!r}"
        advice = "use operators and tinygrad_rnn ops in it, not NumPy functions"
        try:
            if not _same(problem.gradient(k, record=True), problem.gradient(k), ROUNDING):
                yield f"{title} gives one result on arrays and another on Tensors: {advice}"
        except Exception as error:
            yield f"{title} works on arrays but not on Tensors: {advice} ({self.reason(error)})"

    def merges(self, problem: Problem, k: int) -> Iterator[str]:
        """Compare the merged gradient of three uses with the sum."""
        if self.op and self.op.merges:
            several = replace(problem, run=lambda leaves: [y for _ in range(3) for y in problem.run(leaves)])
            several.cotangents = [factor * v for factor in (1, 3, 5) for v in problem.cotangents]
            sum_of_uses = 9 * problem.gradient(k)
            if not all(_same(several.gradient(k, record), sum_of_uses, ROUNDING) for record in (False, True)):
                yield f"the merge for {problem.names[k]!r} does not give the sum of what the rule gives for each use"

    def order_two(self, problem: Problem, k: int) -> Iterator[str]:
        """Compare the derivatives of the gradient with its finite differences."""
        title = f"the {self.rule} for {problem.names[k]!r}"
        derivative = problem.derivative(k)
        derivative.cotangents = [self.normal(problem.values[k])]
        for j in derivative.positions:
            try:
                wrong = self.compare(derivative, j, derivative.gradient(j), f"by differentiating the {self.rule}")
                if wrong:
                    yield f"{title} has a wrong derivative (order two): d/d{derivative.names[j]} of it {wrong}"
            except Exception as error:
                yield f"{title} cannot be differentiated (order two): {self.reason(error)}"

    def reason(self, error: Exception) -> str:
        """What went wrong inside a rule; for a plain function, with the name of that rule."""
        cause = error.__cause__ if self.op and isinstance(error, GraphError) else error
        return f"{type(cause).__name__}: {cause}"

    def compare(self, problem: Problem, k: int, gradient: Array, by: str) -> str | None:
        """None if the gradient for input k agrees with finite differences in random directions, else the mismatch."""
        x = problem.values[k]
        for _ in range(DIRECTIONS):
            pair = disagreement(problem, k, gradient, self.normal(x) * backend.of(x).xp.maximum(1, abs(x)))
            if pair:
                numeric, ruled = pair
                error = abs(ruled - numeric) / abs(numeric) if numeric else inf
                where = ""
                if x.ndim and x.size <= FEW:
                    index, wrong = worst(problem, k, gradient)
                    where = f"; worst at {problem.names[k]}{index} ({wrong} of {x.size} elements are wrong)"
                return (
                    f"along a random direction is {numeric:.5g} by finite differences, {ruled:.5g} {by} "
                    f"(relative error {error:.2g}; {TOLERANCE:.0e} is allowed){where}"
                )
        return None


def _same(a: Array, b: Array, tolerance: float) -> bool:
    same = backend.of(a).xp.allclose
    return a.shape == b.shape and bool(same(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def _float64(value: Any) -> Any:
    """A floating-point array, Tensor or number as a float64 array; anything else unchanged."""
    kind = value.dtype.kind if hasattr(value, "dtype") else "f" if isinstance(value, float) else ""
    return tensor(value, dtype=np.float64).array if kind == "f" else value
