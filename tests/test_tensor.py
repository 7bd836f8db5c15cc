"""The Tensor: constructors, dtypes, operators, repr, conversions, and the errors of backward."""

from __future__ import annotations

import copy
import operator
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, dispatch, hints, nn, optim
from tinygrad_rnn.tape import GraphError

# ---- constructors and dtypes ----


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, "float32", ()),
        (3, "int64", ()),
        (True, "bool", ()),
        ([1.0, 2.0], "float32", (2,)),
        ([1, 2], "int64", (2,)),
        ([1, 2.5], "float32", (2,)),
        ([True, False], "bool", (2,)),
        ([[1.0], [2.0]], "float32", (2, 1)),
        (((1, 2), (3, 4)), "int64", (2, 2)),
        ([], "float32", (0,)),
        (range(3), "int64", (3,)),
        (np.float64(1.5), "float64", ()),
        (np.float16(1.5), "float16", ()),
        (np.int32(3), "int32", ()),
        ([np.float64(1.5), np.float64(2.5)], "float64", (2,)),
        (np.zeros((2, 3)), "float64", (2, 3)),
        (np.zeros(3, np.float32), "float32", (3,)),
        (np.zeros(3, np.uint8), "uint8", (3,)),
        (np.array(2.0), "float64", ()),
        ([np.zeros(2), np.ones(2)], "float64", (2, 2)),
    ],
)
def test_tensor_takes_dtype_and_shape_from_the_data(data: Any, dtype: str, shape: tuple[int, ...]) -> None:
    x = tg.tensor(data)
    assert (x.dtype, x.shape, x.backend) == (np.dtype(dtype), shape, "numpy")
    assert (x.ndim, x.size) == (len(shape), int(np.prod(shape)))
    np.testing.assert_array_equal(x.numpy(), np.array(data))
    assert tg.tensor(data, dtype="float16").dtype == np.float16
    assert tg.tensor(data, dtype=np.float64, requires_grad=True).requires_grad


def test_tensor_copies() -> None:
    a = np.zeros(3)
    x = tg.tensor(a, requires_grad=True)
    y = tg.tensor(x)
    a[0] = 1
    x.data[1] = 1
    np.testing.assert_array_equal(x.data, [0, 1, 0])
    np.testing.assert_array_equal(y.data, [0, 0, 0])
    assert not y.requires_grad
    b = x.numpy()
    b[2] = 1
    np.testing.assert_array_equal(x.data, [0, 1, 0])


@pytest.mark.parametrize("data", [None, "a", 1j, [object()], {"a": 1}, *map(np.array, ([None], "a", 1j))])
def test_tensor_refuses_what_is_not_numbers(data: Any) -> None:
    with pytest.raises(TypeError, match="tensor: "):
        tg.tensor(data)


def test_lists_of_unequal_lengths_are_refused() -> None:
    for ragged in ([[1], [1, 2]], [1.0, [2.0]], [np.ones(2), np.ones(3)]):
        with pytest.raises(ValueError, match="tensor: the nested lists do not form an array"):
            tg.tensor(ragged)


def test_a_list_counts_as_the_array_that_it_makes_at_the_time_of_the_call() -> None:
    x = tg.tensor([2.0, 3.0], requires_grad=True)
    numbers = [1.0, 2.0]
    y = (x * numbers + x**numbers + tg.stack([x, numbers]).prod(axis=0)).sum()
    numbers[:] = [7.0, 7.0]
    y.backward()
    assert x.grad.tolist() == [1 + 1 + 1, 2 + 2 * 3 + 2]


def test_a_list_of_arrays_may_hold_lists_and_begin_with_one() -> None:
    x = tg.tensor([2.0, 3.0], requires_grad=True)
    assert tg.stack([[1.0, 4.0], x], 1).tolist() == tg.stack(map(tg.tensor, [[1.0, 4.0], [2.0, 3.0]]), 1).tolist()
    assert tg.stack([[1.0], [2.0]]).tolist() == tg.stack(x for x in [[1.0], [2.0]]).tolist() == [[1.0], [2.0]]
    assert tg.stack(reversed([2.0, 1.0])).tolist() == tg.stack({"a": 1.0, "b": 2.0}.values()).tolist() == [1.0, 2.0]
    y = tg.concatenate([[1.0], x, [4.0, 5.0], []])
    assert y.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0] == tg.concatenate([[[1.0]], x, [4.0, 5.0]], axis=None).tolist()
    y[:3].sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    assert tg.concatenate([[1, 2], (3,)]).tolist() == [1, 2, 3]


def test_widths_that_are_changed_before_backward_change_no_gradient() -> None:
    x, widths = tg.ones(2, 2, requires_grad=True), ((0, 1), [2, 0])
    y = x.pad(widths)
    widths[1][:] = 0, 2
    (y * y).sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_complex_numbers_are_refused_and_not_made_real() -> None:
    x = tg.ones(2, requires_grad=True)
    calls: list[Callable[[], Any]] = [
        lambda: tg.tensor([1.0], dtype=complex),
        lambda: tg.zeros(2, dtype="complex64"),
        lambda: tg.zeros_like(np.ones(2) * 1j),
        lambda: tg.arange(3, dtype=complex),
        lambda: x.astype(complex),
        lambda: x.to("complex64"),
        lambda: x + 1j,
        lambda: 1j * x,
        lambda: x ** np.complex64(1j),
        lambda: tg.where(x > 0, x, np.complex128(1j)),
        lambda: x * np.array(1j),
        lambda: tg.concatenate([x, np.ones(2) * 1j]),
        lambda: tg.clip(x, 1j, 2),
        lambda: x.clip(max=np.complex64(1)),
        lambda: tg.exp(1j),
        lambda: setattr(tg.ones(2), "data", np.ones(2) * 1j),
        lambda: tg.full(2, 1j),
        lambda: tg.full_like(x, 1j),
        lambda: tg.pad(x, widths=1, value=1j),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="tensors hold real numbers or booleans, not complex"):
            call()
    turned = tg.op(lambda xp, x: x * 1, name="turned").vjp(x=lambda g: g * np.array(1j))
    for create_graph in (False, True):
        with pytest.raises(GraphError, match=r"turned .*failed: .*real numbers .*not complex"):
            tg.grad(turned(x).sum(), x, create_graph=create_graph)


@pytest.mark.parametrize("value", [Fraction(1, 2), timedelta(1), np.timedelta64(1, "s")], ids=repr)
def test_numbers_that_are_none_of_numpys_are_refused(value: Any) -> None:
    for x in (tg.ones(2, requires_grad=True), tg.zeros(0)):
        with pytest.raises(TypeError, match=r"multiply: a f32.*: tensors hold real numbers or booleans, not \w+"):
            _ = x * value
    with pytest.raises(TypeError, match=r"stack: xs\[0\] f32.*: tensors hold real numbers or booleans, not object"):
        tg.stack([tg.ones(()), Fraction(1, 2)])
    with pytest.raises(
        TypeError, match=r"where: .*: tensors hold real numbers or booleans, not str\d+, test_tensor.py"
    ):
        tg.where(tg.ones(2) > 0, tg.ones(2), "none")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: tg.zeros(2, 3), np.zeros((2, 3), np.float32)),
        (lambda: tg.zeros((2, 3), dtype="float64"), np.zeros((2, 3))),
        (lambda: tg.zeros([2]), np.zeros(2, np.float32)),
        (lambda: tg.zeros(), np.zeros((), np.float32)),
        (lambda: tg.zeros(np.int64(2), 0), np.zeros((2, 0), np.float32)),
        (lambda: tg.ones(2, dtype=int), np.ones(2, int)),
        (lambda: tg.full((2,), 1.5), np.full(2, 1.5, np.float32)),
        (lambda: tg.full(2, 7, dtype="int32"), np.full(2, 7, np.int32)),
        (lambda: tg.zeros_like(np.ones((1, 2))), np.zeros((1, 2))),
        (lambda: tg.ones_like(tg.zeros(2, dtype="int8")), np.ones(2, np.int8)),
        (lambda: tg.full((2,), fill_value=1), np.ones(2, np.float32)),
        (lambda: tg.zeros_like(np.ones((1, 2)), dtype="float32"), np.zeros((1, 2), np.float32)),
        (lambda: tg.ones_like(tg.zeros(2), int), np.ones(2, int)),
        (lambda: tg.arange(3), np.arange(3)),
        (lambda: tg.arange(1, 7, 2), np.array([1, 3, 5])),
        (lambda: tg.arange(0, 1, 0.25), np.array([0, 0.25, 0.5, 0.75], np.float32)),
        (lambda: tg.arange(3.0), np.array([0, 1, 2], np.float32)),
        (lambda: tg.arange(3, dtype="float64"), np.arange(3.0)),
        (lambda: tg.full_like(tg.zeros(2, dtype="int8"), 3), np.full(2, 3, np.int8)),
        (lambda: tg.full_like(np.ones((1, 2), int), 0.5, dtype="float32"), np.full((1, 2), 0.5, np.float32)),
        (lambda: tg.linspace(0, 1, 5), np.array([0, 0.25, 0.5, 0.75, 1], np.float32)),
        (lambda: tg.linspace(1.0, -1.0, num=3, dtype="float64"), np.array([1.0, 0.0, -1.0])),
        (lambda: tg.eye(2), np.eye(2, dtype=np.float32)),
        (lambda: tg.eye(2, 3, dtype="float64"), np.eye(2, 3)),
    ],
)
def test_constructors(made: Callable[[], Tensor], expected: np.ndarray) -> None:
    np.testing.assert_array_equal(made().data, expected, strict=True)


def test_all_constructors_make_leaves() -> None:
    for x in (
        *(make((2, 2), requires_grad=True) for make in (tg.zeros, tg.ones, tg.rand, tg.randn)),
        *(make(tg.ones(2), requires_grad=True) for make in (tg.zeros_like, tg.ones_like)),
        *(tg.full_like(tg.ones(2), 3, requires_grad=True), tg.linspace(0, 1, 3, requires_grad=True)),
        *(tg.full(2, 0.5, requires_grad=True), tg.eye(2, requires_grad=True), tg.arange(2.0, requires_grad=True)),
    ):
        assert x.requires_grad
        assert x.is_leaf


@pytest.mark.parametrize("draw", [tg.randn, tg.rand])
def test_random_numbers(draw: Any) -> None:
    x = draw(200, 50, requires_grad=True)
    assert (x.dtype, x.shape, x.requires_grad) == (np.float32, (200, 50), True)
    assert draw((2, 3), dtype="float64").dtype == np.float64
    assert draw().shape == ()
    mean, std = (0.0, 1.0) if draw is tg.randn else (0.5, 12**-0.5)
    np.testing.assert_allclose([x.data.mean(), x.data.std()], [mean, std], atol=0.03)
    tg.manual_seed(7)
    a = draw(5).numpy()
    tg.manual_seed(7)
    np.testing.assert_array_equal(draw(5).numpy(), a)


# ---- operators ----

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
WITHOUT_SLOPE = [operator.floordiv, operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
A = np.array([[1.0, 2.0, 0.5]])


@pytest.mark.parametrize("apply", [*OPERATORS, operator.mod, *WITHOUT_SLOPE])
@pytest.mark.parametrize(
    "other",
    [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.array(2.0), np.array([[1.0], [2.0]]), [1.0, 2.0, 3.0]],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators_do_what_numpy_does_on_both_sides(apply: Any, other: Any, dtype: str) -> None:
    a = A.astype(dtype)
    x = tg.tensor(a, requires_grad=True)
    numpy = np.power if apply is operator.pow else apply  # before NumPy 2.3 its own ** could forget a float64
    for result, expected in ((apply(x, other), numpy(a, other)), (apply(other, x), numpy(other, a))):
        assert isinstance(result, Tensor)
        np.testing.assert_array_equal(result.data, expected, strict=True)
        assert result.requires_grad is (apply not in WITHOUT_SLOPE)


@pytest.mark.parametrize("apply", OPERATORS)
def test_gradients_of_operators_with_an_array_or_a_number_on_either_side(apply: Any) -> None:
    x = tg.tensor(A, requires_grad=True)
    eps = 1e-6
    for other in (2.0, np.array([[1.5], [2.0]])):
        for call in (lambda a, other=other: apply(a, other), lambda a, other=other: apply(other, a)):
            x.grad = None
            call(x).sum().backward()
            slope = (call(A + eps) - call(A - eps)) / (2 * eps)
            np.testing.assert_allclose(x.grad.data, np.broadcast_to(slope, (len(slope), 3)).sum(0, keepdims=True), 1e-7)


def test_matrix_products_mix_with_arrays() -> None:
    x, a = tg.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True), np.ones((3, 4))
    np.testing.assert_array_equal((x @ a).data, x.data @ a)
    np.testing.assert_array_equal((a.T @ x.T).data, a.T @ x.data.T)
    np.testing.assert_array_equal((x @ np.ones(3)).data, x.data @ np.ones(3))
    np.testing.assert_array_equal((np.ones(2) @ x).data, np.ones(2) @ x.data)


def test_unary_operators_and_shapes() -> None:
    x = tg.tensor(np.array([[1.0, -2.0, 3.0]]))
    np.testing.assert_array_equal((-x).data, -x.data)
    np.testing.assert_array_equal(abs(x).data, abs(x.data))
    np.testing.assert_array_equal((+x).data, x.data)
    np.testing.assert_array_equal(round(x * 0.75).data, [[1, -2, 2]])
    np.testing.assert_array_equal(round(x / 3, 2).data, [[0.33, -0.67, 1]])
    assert x.T.shape == x.mT.shape == x.reshape(3, 1).shape == x.reshape((3, -1)).shape == (3, 1)
    assert x.transpose(1, 0).shape == x.transpose((1, 0)).shape == x.transpose().shape == (3, 1)


def test_a_plus_sign_changes_nothing() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (+x * (+x).detach()).sum().backward()
    assert x.grad.tolist() == [1, 2]
    assert +x is not x


def test_a_place_in_a_matrix_from_its_number_in_a_row() -> None:
    i = tg.tensor([3, 0, 11])
    for found, expected in ((divmod(i, 4), divmod(i.data, 4)), (divmod(7, i + 1), divmod(7, i.data + 1))):
        np.testing.assert_array_equal(found[0].data, expected[0])
        np.testing.assert_array_equal(found[1].data, expected[1])


def test_what_is_no_number() -> None:
    x = tg.tensor([1.0, np.nan, np.inf, -np.inf], requires_grad=True)
    for found, expected in (
        (x.isnan(), [False, True, False, False]),
        (x.isinf(), [False, False, True, True]),
        (x.isfinite(), [True, False, False, False]),
    ):
        assert found.tolist() == expected
        assert not found.requires_grad


@pytest.mark.parametrize("kind", [tg.tensor, np.array])
def test_the_bounds_of_clip_have_names(kind: Any) -> None:
    x = kind([-2.0, 0.5, 2.0])
    assert tg.clip(x, min=0, max=1).tolist() == tg.clip(x, 0, 1).tolist() == [0, 0.5, 1]
    assert (tg.clip(x, min=0).tolist(), x.clip(max=0).tolist()) == ([0, 0.5, 2], [-2, 0, 0])
    assert np.clip(x, 0, 1).tolist() == [0, 0.5, 1]


def test_a_method_takes_what_its_function_takes() -> None:
    x = tg.tensor(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(x.transpose(axes=(1, 0)).data, x.data.T)
    np.testing.assert_array_equal(x.reshape(shape=(3, -1)).data, x.data.reshape(3, 2))
    np.testing.assert_array_equal(x.where(x > 2, 0.0).data, np.where(x.data > 2, x.data, 0))
    np.testing.assert_array_equal(x.less(3.0).data, x.data < 3)


def test_masks_combine_as_those_of_numpy() -> None:
    x = tg.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    a, b = x > 1, x < 4
    for found, expected in (
        (a & b, a.data & b.data),
        (a | b, a.data | b.data),
        (a ^ b, a.data ^ b.data),
        (~a, ~a.data),
        (a.data & b, a.data & b.data),
        (True ^ a, ~a.data),
        (tg.tensor([6, 3]) & 5, np.array([4, 1])),
    ):
        assert isinstance(found, Tensor)
        assert not found.requires_grad
        np.testing.assert_array_equal(found.data, expected)
    assert (x == x).all()
    assert not (x < 0).any()
    assert tg.all(a, axis=1).tolist() == [False, True]
    assert a.any(axis=0, keepdims=True).shape == (1, 3)
    with pytest.raises(TypeError, match=r"bitwise_and: a f64\[2,3\], b bool\[2,3\]: "):
        x & a


def test_augmented_assignment_makes_a_new_tensor() -> None:
    x = y = tg.tensor([1.0], requires_grad=True)
    y += 1
    assert (x.item(), y.item()) == (1.0, 2.0)
    assert y.requires_grad


def test_augmented_assignment_within_no_grad_updates_a_leaf() -> None:
    """The loop of every tutorial: it must not train a copy."""
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    loss = (w * w).sum()
    loss.backward()
    kept, before = w, w.data
    with tg.no_grad():
        w -= 0.5 * w.grad * np.float64(0.5)
        w *= 2
        w /= 4
        w += 1
    assert kept is w
    assert (w.tolist(), w.dtype, before.tolist()) == ([1.25, 1.5], np.float32, [1.0, 2.0])
    with tg.no_grad(), pytest.raises(tg.ShapeError, match="can only take"):
        w += tg.ones(3, 2)


METHODS = """abs absolute add all any argmax argmin argsort astype bitwise_and bitwise_or bitwise_xor broadcast_to
ceil clip conv2d cos cross_entropy cumsum divide dropout embedding equal exp expand_dims expm1 flatten flip floor
floor_divide greater greater_equal invert isfinite isinf isnan layer_norm less less_equal linear linear_scan log log1p
log_softmax logaddexp logsumexp matmul max max_pool2d maximum mean min minimum multiply negative normalize not_equal
outer pad power prod reciprocal relu remainder repeat reshape roll round sigmoid sign sin softmax softplus sort
split sqrt square squeeze std subtract sum swapaxes take_along_axis tanh tile transpose tril triu var where"""


@pytest.mark.parametrize("name", METHODS.split())
def test_each_operation_is_a_function_and_a_method(name: str) -> None:
    assert callable(getattr(tg, name))
    assert callable(getattr(Tensor, name))


# ---- repr and conversions ----


def test_repr_reads_exactly_so() -> None:
    x = tg.zeros(32, 128)
    assert repr(x) == "Tensor(f32[32,128] numpy)"
    x.requires_grad = True
    assert repr(x) == f"Tensor(f32[32,128] numpy, leaf#{x.node.id})"
    y = x.tanh()
    assert repr(y) == f"Tensor(f32[32,128] numpy, tanh#{y.node.id})"
    assert y.node.id == x.node.id + 1
    assert repr(tg.tensor(np.zeros((), np.float64))) == "Tensor(f64[] numpy)"
    assert repr(tg.tensor([True])) == "Tensor(bool[1] numpy)"
    assert repr(tg.tensor(np.zeros((0, 2), np.uint8))) == "Tensor(u8[0,2] numpy)"
    assert repr(tg.tensor([1])) == "Tensor(i64[1] numpy)"


def test_repr_of_a_freed_graph() -> None:
    x = tg.ones(2, requires_grad=True)
    y = x.sum()
    y.backward()
    assert re.fullmatch(r"Tensor\(f32\[\] numpy, sum#\d+\)", repr(y))


def test_one_element_converts() -> None:
    for x in (tg.tensor(2.5), tg.tensor([2.5]), tg.tensor([[2.5]], requires_grad=True)):
        assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
        assert type(x.item()) is float
    assert type(tg.tensor(3).item()) is int
    assert float(tg.tensor(3)) == 3
    assert not tg.tensor(0.0)
    assert tg.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]


def test_a_scalar_is_formatted_like_its_number() -> None:
    """``f"{loss:.4f}"`` is what every training loop prints."""
    assert f"{tg.tensor(1.25, requires_grad=True):.1f} {tg.tensor(3):>3d}" == "1.2   3"
    x = tg.ones(3)
    assert f"{x}" == str(x) == "[1. 1. 1.]"


def test_an_integer_tensor_serves_as_an_index() -> None:
    i = tg.tensor(2)
    assert [10, 20, 30][i] == 30
    assert list(range(i)) == [0, 1]
    x = tg.arange(5)
    assert (x[i].item(), x[:i].tolist(), x[tg.tensor([0, -1])].tolist()) == (2, [0, 1], [0, 4])
    with pytest.raises(TypeError):
        [10, 20, 30][tg.tensor(1.0)]


def test_length_and_iteration() -> None:
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert len(x) == 2
    a, b = x
    assert a.tolist() == [1, 2]
    assert b.requires_grad
    with pytest.raises(TypeError, match="no axis"):
        len(tg.tensor(1.0))
    with pytest.raises(TypeError, match="no axis"):
        iter(tg.tensor(1.0))


@pytest.mark.parametrize("convert", [float, int, Tensor.item])
def test_several_elements_do_not_convert(convert: Any) -> None:
    with pytest.raises(ValueError, match=r"Tensor\(f32\[2,3\] numpy\) has 6 elements"):
        convert(tg.zeros(2, 3))


def test_truth_of_several_elements_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 elements: say whether any or all"):
        bool(tg.zeros(3))
    with pytest.raises(ValueError, match="has 0 elements"):
        bool(tg.zeros(0))


def test_tensors_are_keys_by_identity() -> None:
    x, y = tg.ones(2), tg.ones(2)
    assert len({x, y, x}) == 2
    assert {x: 1}[x] == 1


@pytest.mark.parametrize("reduce", [np.sum, np.mean, np.var, np.std, np.max, np.min, np.prod])
def test_reductions_of_numpy_are_those_of_a_tensor(reduce: Any) -> None:
    a = np.arange(6.0).reshape(2, 3)
    x = tg.tensor(a, requires_grad=True)
    y = reduce(x, axis=1, keepdims=True)
    assert y.requires_grad
    np.testing.assert_allclose(y.numpy(), reduce(a, axis=1, keepdims=True))
    with pytest.raises(TypeError, match=r"mean: there is no argument 'dtype'"):
        np.mean(x, dtype="float32")


def test_numpy_does_not_take_tensors_unasked() -> None:
    assert np.asarray(tg.ones(2)).tolist() == np.concatenate([tg.ones(1), tg.ones(1)]).tolist() == [1, 1]  # constants
    with pytest.raises(ValueError, match=r"a copy and no view; x\.data is the array itself"):
        np.array(tg.ones(2), copy=False)
    x = tg.ones(3, requires_grad=True)
    for use in (np.asarray, np.sin, lambda x: np.concatenate([x, x]), lambda x: np.array([x, x])):
        with pytest.raises(TypeError):
            use(x)


def test_a_list_of_tensors_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="stack"):
        tg.tensor([tg.tensor(1.0, requires_grad=True), tg.tensor(2.0)])


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda: tg.ones(2).permute, "a Tensor has no attribute 'permute'; instead: transpose"),
        (lambda: tg.ones(2).nonsense, "'Tensor' object has no attribute 'nonsense'$"),
        (lambda: tg.cat, "instead: concatenate"),
        (lambda: tg.ones(2).fill_, "instead: nn.init.constant_"),
        (lambda: tg.nn.ReLU, "instead: tg.relu"),
        (lambda: tg.nn.Linear(2, 2).register_buffer, "a module has no attribute.*an attribute that holds a Tensor"),
        (lambda: tg.nn.GRU(2, 2).weight_hh_l0, r"instead: layer.named_parameters"),
        (lambda: tg.nn.SequenceLayer().input_size, "defines no input_size"),
    ],
)
def test_a_name_of_another_library_is_answered_with_ours(ask: Any, match: str) -> None:
    with pytest.raises((AttributeError, NotImplementedError), match=match):
        ask()


@pytest.mark.parametrize("name", ["elu", "leaky_relu", "logsigmoid", "silu"])
def test_hints_that_are_formulas_are_right_where_they_have_a_corner(name: str) -> None:
    functional = pytest.importorskip("torch.nn.functional")
    numbers = [-2.0, -0.0, 0.0, 1.0, 200.0]
    x, theirs = tg.tensor(numbers, requires_grad=True), functional.torch.tensor(numbers, requires_grad=True)
    y, expected = eval(hints.TENSORS[name], vars(tg) | {"x": x}), getattr(functional, name)(theirs)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


def test_hints_are_seen_by_nobody_who_does_not_ask_for_them() -> None:
    class Own(tg.nn.Module):
        def float(self) -> str:
            return "mine"

    x, own = tg.ones(2), Own()
    own.cuda = "this too"
    assert (own.float(), own.cuda) == ("mine", "this too")
    assert not hasattr(x, "permute")
    assert getattr(x, "permute", None) is None
    assert "permute" not in dir(x)
    assert "reshape" in dir(x)
    assert not hasattr(own, "register_buffer")


def test_what_is_suggested_exists() -> None:
    for names, owners in ((hints.TENSORS, (tg, tg.Tensor)), (hints.LAYERS, (tg.nn,)), (hints.MODULES, (tg.nn.Module,))):
        for name, cure in names.items():
            assert not all(hasattr(owner, name) for owner in owners), name
            for word in re.findall(r"(?:^|(?:tg|nn|x)\.)([a-z_0-9]{2,})(?:$|\((?!x, tg))", cure):
                assert any(hasattr(owner, word) for owner in (tg, tg.Tensor, tg.nn, tg.nn.Module)), cure


def test_arrays_of_another_library_are_refused() -> None:
    class Foreign:
        def __dlpack__(self) -> None: ...

    with pytest.raises(TypeError, match=r"Foreign is no array of NumPy or CuPy.*x\.numpy\(\)"):
        tg.linear(Foreign(), tg.ones(2, 2))
    x, layer = tg.ones(1, 2), nn.RNN(2, 3)
    calls: list[Callable[[Any], Any]] = [
        lambda foreign: x * foreign,
        lambda foreign: tg.stack([x, foreign]),
        lambda foreign: x[foreign],
        layer,
        lambda foreign: layer(x, foreign),
        lambda foreign: layer(tg.ones(1, 1, 2), lengths=foreign),
        lambda foreign: layer(tg.ones(1, 1, 2), mask=foreign),
        lambda foreign: nn.reset(x, foreign),
    ]
    torch = pytest.importorskip("torch")
    for call in calls:
        with pytest.raises(TypeError, match=r"a torch\.Tensor is no array of NumPy or CuPy; bring it there first"):
            call(torch.ones(1))
    with pytest.raises(TypeError, match="chooses between two"):
        tg.where(tg.tensor([True]), tg.ones(1), None)


def test_masked_arrays_are_refused_and_do_not_lose_their_mask() -> None:
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    for call in (tg.exp, tg.tensor, lambda masked: tg.ones(2) * masked, lambda masked: masked * tg.ones(2)):
        with pytest.raises(TypeError, match=r"masked: use x\.filled\(0\)"):
            call(masked)


def test_writing_into_a_tensor_is_refused_with_the_cure() -> None:
    x = tg.ones(3)
    with pytest.raises(TypeError, match="where"):
        x[0] = 2.0


def test_detach_and_to() -> None:
    x = tg.ones(3, requires_grad=True)
    y = x * 2
    assert y.detach().data is y.data
    assert not y.detach().requires_grad
    assert y.to("numpy") is y
    assert y.to("float32") is y
    assert (y.to("float64").dtype, y.to(dtype=np.float16).dtype) == (np.float64, np.float16)
    assert tg.grad(y.to("numpy", "float64").sum(), x).tolist() == [2, 2, 2]
    with pytest.raises(tg.BackendError, match="'nonsense'"):
        y.to("nonsense")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_of_constants_and_leaves(duplicate: Any) -> None:
    c, w = tg.ones(2), tg.ones(2, requires_grad=True)
    assert not duplicate(c).requires_grad
    assert duplicate(w).requires_grad
    assert duplicate(w).is_leaf
    np.testing.assert_array_equal(duplicate(w).data, w.data)


# ---- requires_grad, data, grad ----


def test_only_floats_require_gradients() -> None:
    for data in ([1, 2], [True], np.zeros(2, np.uint8)):
        with pytest.raises(TypeError, match="only floating-point"):
            tg.tensor(data, requires_grad=True)
        x = tg.tensor(data)
        with pytest.raises(TypeError, match="only floating-point"):
            x.requires_grad = True
        assert not x.requires_grad
    tg.tensor(np.zeros(2, np.float16), requires_grad=True)


def test_requires_grad_is_switched_on_leaves_only() -> None:
    x = tg.ones(2)
    assert x.is_leaf
    assert not x.requires_grad
    x.requires_grad = True
    node = x.node
    x.requires_grad = True
    assert x.node is node
    y = x * 2
    assert not y.is_leaf
    with pytest.raises(GraphError, match="detach"):
        y.requires_grad = False
    x.requires_grad = False
    assert x.grad is None


def test_a_leaf_goes_on_where_it_was_after_a_while_as_a_constant() -> None:
    """As in PyTorch: its gradient is back, earlier graphs lead to it, and what arrived meanwhile is dropped."""
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    before, meanwhile = (x * x).sum(), (x * 100).sum()
    (x * 3).sum().backward()
    x.requires_grad = False
    meanwhile.backward()
    assert x.grad is None
    assert not (x * 2).requires_grad
    x.requires_grad = True
    before.backward()
    assert x.grad.tolist() == [5, 7]


def test_a_gradient_can_be_dropped_while_the_leaf_is_a_constant() -> None:
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    weight = model.weight
    for drop in (lambda: setattr(weight, "grad", None), optimizer.zero_grad, model.zero_grad):
        model(tg.ones(3, 2)).sum().backward()
        weight.requires_grad = False
        drop()
        weight.requires_grad = True
        assert weight.grad is None


def test_a_leaf_of_another_dtype_starts_anew() -> None:
    x = tg.ones(2, requires_grad=True)
    x.sum().backward()
    x.requires_grad = False
    x.data = np.ones(2)
    x.requires_grad = True
    assert x.grad is None
    x.sum().backward()
    assert x.grad.dtype == np.float64


def test_integers_and_comparisons_carry_no_gradient() -> None:
    x = tg.tensor([0.5, 2.0], requires_grad=True)
    for y in (x > 1, x == x, x.argmax(), x.astype("int64"), x.astype(bool)):
        assert not y.requires_grad
    tg.where(x > 1, x, 0.0).sum().backward()
    assert x.grad.tolist() == [0, 1]


def test_data_takes_the_scalar_that_numpy_makes_of_a_0d_result() -> None:
    x = tg.tensor(3.0, dtype="float64", requires_grad=True)
    (x * x).backward()
    x.data = x.data - 0.5 * x.grad.data
    assert x.item() == 0.0
    assert isinstance(x.data, np.ndarray)


def test_data_takes_arrays_that_fit() -> None:
    x = tg.zeros(2, requires_grad=True)
    x.data = np.ones(2, np.float32)
    assert x.tolist() == [1, 1]
    for wrong in (np.ones(3, np.float32), np.ones((2, 1), np.float32), [1.0, 2.0], 1.0, None):
        with pytest.raises(ShapeError, match=r"data: Tensor\(f32\[2\] numpy, leaf#\d+\) can only take .*shape \(2,\)"):
            x.data = wrong
    with pytest.raises(TypeError, match="dtype"):
        x.data = np.ones(2)
    with pytest.raises(GraphError, match="result of an operation"):
        (x * 2).data = np.ones(2, np.float32)
    assert x.tolist() == [1, 1]


def test_grad_takes_tensors_that_fit() -> None:
    x = tg.zeros(2, requires_grad=True)
    x.grad = tg.ones(2)
    assert x.grad.tolist() == [1, 1]
    for wrong in (tg.ones(3), np.ones(2), 1.0):
        with pytest.raises(ShapeError, match=r"grad: Tensor\(f32\[2\] numpy, leaf#\d+\) needs .*shape \(2,\)"):
            x.grad = wrong
    x.grad = None
    assert x.grad is None
    with pytest.raises(GraphError, match="not a leaf"):
        (x * 2).grad = tg.ones(2)


def test_forgetting_the_gradient_of_a_constant_is_no_error() -> None:
    """``zero_grad`` over parameters of which some were frozen."""
    x = tg.zeros(2)
    x.grad = None
    assert x.grad is None


# ---- backward's errors ----


def test_backward_of_several_elements_needs_a_gradient() -> None:
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(GraphError, match=r"multiply#\d+\) is not a scalar; .*shape \(3,\)"):
        (x * 2).backward()
    (x * 2).backward([1, 2, 3])
    assert x.grad.tolist() == [2, 4, 6]
    tg.ones(1, 1, requires_grad=True).backward()


def test_backward_without_history() -> None:
    x = tg.ones(3, requires_grad=True)
    for y in (tg.ones(3).sum(), x.detach().sum(), (x > 0).sum()):
        with pytest.raises(GraphError, match="has no history"):
            y.backward()
    with tg.no_grad():
        y = x.sum()
    with pytest.raises(GraphError, match="no_grad"):
        y.backward()


@pytest.mark.parametrize("gradient", [np.ones(4), tg.ones(1, 3), 1.0])
def test_backward_with_a_gradient_of_another_shape(gradient: Any) -> None:
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(ShapeError, match=r"does not fit Tensor\(f32\[3\] numpy, multiply#\d+\)"):
        (x * 2).backward(gradient)
    assert x.grad is None


def test_a_rule_that_fails_is_named() -> None:
    @tg.op
    def wrong(xp: Any, x: Any) -> Any:
        return x + 1

    wrong.vjp(x=lambda g: g[:1])
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(GraphError, match=r"wrong.*'x'|wrong#\d+"):
        wrong(x).sum().backward()
    assert x.grad is None


# ---- the package ----


def test_shapes_that_were_met_are_not_remembered_without_bound() -> None:
    x = tg.ones(1, requires_grad=True)
    for n in range(2 * dispatch._SHAPES_KEPT):
        tg.broadcast_to(x, shape=(n,))
    assert len(dispatch._shapes) <= dispatch._SHAPES_KEPT
    assert tg.tanh(x).node.shape is tg.exp(x).node.shape


def test_import_needs_numpy_alone() -> None:
    source = """if True:
        import sys
        import numpy
        before = set(sys.modules)
        import tinygrad_rnn
        new = set(sys.modules) - before
        print(sorted({name.partition(".")[0] for name in new} - set(sys.stdlib_module_names)))
    """  # a part of NumPy would be told too: numpy.random takes half as long to import as the engine
    root = Path(tg.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", source], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tinygrad_rnn']"


def test_what_would_go_wrong_later_is_refused_at_once() -> None:
    for seed, error in ((-1, ValueError), (None, TypeError), (0.5, TypeError)):
        with pytest.raises(error):
            tg.manual_seed(seed)
    assert tg.randn(2).shape == (2,)
    with pytest.raises(TypeError, match="drawn in floating point, not int64"):
        tg.rand(3, dtype="int64")
    with pytest.raises(TypeError, match="needs a Tensor of its own dtype"):
        tg.ones(2, requires_grad=True).grad = tg.ones(2, dtype="float64")
    for x in (tg.ones(2), tg.tensor(1.0)):
        with pytest.raises(IndexError, match=r"concatenate: x f32\[.*\] has no axis 7"):
            tg.concatenate([x], axis=7)
    with pytest.raises(ShapeError, match=r"pad: .* widths must not be negative"):
        tg.pad(tg.ones(3), (-1, 0))


def test_random_generators_go_on_from_where_they_were() -> None:
    before = tg.random_state()
    first = tg.randn(3), tg.dropout(tg.ones(50), 0.5)
    tg.set_random_state(before)
    for a, b in zip(first, (tg.randn(3), tg.dropout(tg.ones(50), 0.5)), strict=True):
        assert a.tolist() == b.tolist()
    with pytest.raises(TypeError, match="what random_state\\(\\) returned is needed"):
        tg.set_random_state(3)


def test_tensors_are_not_made_by_their_class() -> None:
    with pytest.raises(TypeError, match=r"made by tg.tensor"):
        tg.Tensor([1.0])
