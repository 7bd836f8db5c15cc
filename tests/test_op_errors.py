"""What operations say when their inputs do not go together: the operation, the shapes, the time step, the line."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, bptt, nn

M = np.zeros((2, 3), np.float32)


def line() -> int:
    """The number of the caller's line."""
    return sys._getframe(1).f_lineno


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda m: m @ m, ShapeError, ["matmul: a f32[2,3] does not fit b f32[2,3] (last axis 3, b expects 2)"]),
        (lambda m: m @ tg.ones(4), ShapeError, ["matmul: ", "a f32[2,3]", "b f32[4"]),
        (lambda m: tg.ones(4) @ tg.ones(5), ShapeError, ["matmul: ", "f32[4]", "f32[5]"]),
        (lambda m: tg.tensor(2.0) @ m, ShapeError, ["matmul: ", "f32[]", "f32[2,3]"]),
        (
            lambda m: tg.linear(tg.ones(32, 128), tg.ones(512, 64)),
            ShapeError,
            ["linear: x f32[32,128] does not fit weight f32[512,64] (last axis 128, weight expects 64)"],
        ),
        (lambda m: tg.linear(m, tg.ones(4, 3), tg.ones(5)), ShapeError, ["linear: bias f32[5]", "4"]),
        (lambda m: tg.linear(m, tg.ones(3)), ShapeError, ["linear: weight f32[3] needs two axes"]),
        (
            lambda m: tg.linear_scan(m, m),
            ShapeError,
            ["linear_scan: a f32[2,3], b f32[2,3]: b must be one step longer than a, along the first axis"],
        ),
        (lambda m: tg.linear_scan(m[0, 0], m[0]), ShapeError, ["linear_scan: a f32[], b f32[3]: b must be one"]),
        (lambda m: tg.linear_scan(0.5, m), TypeError, ["linear_scan: a 0.5, b f32[2,3]: a must be an array"]),
        (lambda m: m + tg.ones(4), ShapeError, ["add: a f32[2,3], b f32[4]", "broadcast"]),
        (
            lambda m: tg.ones(4, 2, 3).transpose(0, 1),
            ShapeError,
            ["transpose: x f32[4,2,3] needs all of its 3 axes in order, not (0, 1); swapaxes(0, 1) swaps two"],
        ),
        (lambda m: m.transpose(0, 2), IndexError, ["transpose: x f32[2,3]: axis 2 is out of bounds"]),
        (lambda m: m.reshape(4, 2), ShapeError, ["reshape: x f32[2,3]", "(4,2)"]),
        (lambda m: m.flatten(0, 2), ShapeError, ["flatten: x f32[2,3] has no axes from 0 to 2"]),
        (lambda m: m.flatten(1, 0), ShapeError, ["flatten: x f32[2,3] has no axes from 1 to 0"]),
        (lambda m: m.sum(dim=1), TypeError, ["sum: there is no argument 'dim'; it is called 'axis' here"]),
        (lambda m: tg.stack([m, m], dim=1), TypeError, ["stack: there is no argument 'dim'; it is called 'axis' here"]),
        (lambda m: tg.sum(M, where=1), TypeError, ["sum: there is no argument 'where'; the arguments are x, axis"]),
        (lambda m: m.repeat([1, 2], 1), ShapeError, ["repeat: x f32[2,3] needs 3 whole numbers along axis 1"]),
        (lambda m: m[5], IndexError, ["x f32[2,3]", "index 5 is out of bounds for axis 0 with size 2"]),
        (lambda m: m[:, 7], IndexError, ["x f32[2,3]", "index 7", "axis 1"]),
        (lambda m: tg.embedding(tg.tensor([1, 2]), m), IndexError, ["embedding: ", "index 2", "from 0 to 1"]),
        (lambda m: tg.embedding(tg.tensor([-1]), m), IndexError, ["embedding: ", "index -1", "from 0 to 1"]),
        (
            lambda m: tg.embedding(tg.tensor([1.0]), m),
            TypeError,
            ["embedding: indices f32[1], weight f32[2,3]: indices must be integers"],
        ),
        (
            lambda m: tg.cross_entropy(m, tg.tensor([0, 1, 2])),
            ShapeError,
            ["cross_entropy: logits f32[2,3], targets i64[3]: targets must have the shape (2,)"],
        ),
        (lambda m: tg.cross_entropy(m, tg.tensor([0, 3])), IndexError, ["cross_entropy: ", "target 3", "from 0 to 2"]),
        (lambda m: tg.cross_entropy(m, m), (TypeError, ShapeError), ["cross_entropy: ", "must be integers"]),
        (lambda m: tg.softmax(m, axis=2), (IndexError, ShapeError), ["softmax: x f32[2,3]", "axis 2"]),
        (lambda m: m.sum(axis=2), (IndexError, ShapeError), ["sum: x f32[2,3]", "axis 2"]),
        (lambda m: tg.stack([m, tg.ones(3)]), ShapeError, ["stack: xs[0] f32[2,3], xs[1] f32[3]"]),
        (lambda m: tg.concatenate([m, tg.ones(3)]), ShapeError, ["concatenate: xs[0] f32[2,3], xs[1] f32[3]"]),
        (lambda m: tg.concatenate(m, m), ShapeError, ["concatenate: arrays go in as one list, concatenate([a, b])"]),
        (lambda m: tg.split(m, 2, axis=1), ValueError, ["split: ", "length 3", "2 equal parts"]),
        (lambda m: tg.einsum("ij,jk->ik", m, m), ShapeError, ["einsum: ", "f32[2,3]"]),
        (lambda m: tg.einsum("iij->j", m), ShapeError, ["einsum: 'iij' does not name the axes of f32[2,3], a letter"]),
        (lambda m: tg.einsum(m, [0, 1]), TypeError, ["einsum: subscripts such as 'ij,jk->ik' come first, not Tensor("]),
        (lambda m: m @ 3, TypeError, ["matmul: a f32[2,3], b 3: b must be an array, such as tg.tensor(b)"]),
        (lambda m: tg.embedding(2, m), TypeError, ["embedding: indices 2, weight f32[2,3]: indices must be an array"]),
        (lambda m: tg.linear(1.0, m), TypeError, ["linear: x 1.0, weight f32[2,3]: x must be an array"]),
        (lambda m: tg.concatenate([m, 1.0]), TypeError, ["xs[1] must be an array, such as tg.tensor(xs[1])"]),
        (lambda m: tg.max_pool2d(m, 2, stride=0), ShapeError, ["max_pool2d: x f32[2,3]", "stride (0, 0)"]),
        (lambda m: tg.conv2d(m[None, None], m[None, None], stride=0), ShapeError, ["stride (0, 0) do not fit"]),
        (lambda m: tg.max_pool2d(m[0], 2), ShapeError, ["x f32[3]: windows need two axes, height and width"]),
        (lambda m: nn.MaxPool2d(2, padding=1)(m[0]), ShapeError, ["max_pool2d: x f32[3]: windows need two axes"]),
        (lambda m: m.roll((1, 2)), TypeError, ["roll: the shift must be one whole number, not (1, 2); call roll once"]),
        (lambda m: m.tile(2.0), TypeError, ["tile: reps must be a whole number, or one for each axis, not 2.0"]),
        (lambda m: m.tile((2, 1.0)), TypeError, ["tile: reps must be a whole number, or one for each axis, not (2, 1"]),
        (lambda m: m.repeat(2.0), ShapeError, ["repeat: x f32[6] needs 6 whole numbers along axis 0, or one, not 2.0"]),
        (lambda m: m.repeat(-1), ShapeError, ["repeat: x f32[6] needs 6 whole numbers along axis 0, or one, not -1"]),
        (lambda m: nn.repeat_rows(m, 1.5), ShapeError, ["repeat: x f32[2,3] needs 2 whole numbers along axis 0"]),
        (lambda m: m.tile((2, -1)), ShapeError, ["tile: reps must be a whole number, or one for each axis, not (2, -"]),
        (lambda m: m.sort(axis=2), IndexError, ["sort: x f32[2,3] has no axis 2"]),
        (lambda m: m.std(axis=2), IndexError, ["std: x f32[2,3]: axis 2 is out of bounds"]),
        (lambda m: m.std(dim=1), TypeError, ["std: there is no argument 'dim'; it is called 'axis' here"]),
        (lambda m: tg.outer(m, [1.0]), TypeError, ["outer: make a tensor of the list 'b', tg.tensor(b)"]),
        (lambda m: m.pad((1, 2, 3)), ShapeError, ["pad: x f32[2,3]: widths are whole numbers: one, (before, after), "]),
        (lambda m: m.pad(1.0), TypeError, ["pad: widths are whole numbers: one, (before, after), ", "axis, not 1.0"]),
        (lambda m: tg.stack([m, m], 0, 1), TypeError, ["stack: after the list of arrays comes axis, not [0, 1]"]),
        (lambda m: m * np.array([1, 2, 3], object), TypeError, ["multiply: a f32[2,3], b object[3]", "not object"]),
        (lambda m: tg.concatenate([m[0], np.array(["a"])]), TypeError, ["concatenate: ", "real numbers", "not str"]),
        (lambda m: m.clip(tg.ones(3), 2.0), TypeError, ["clip: min is a Tensor", "min.data"]),
        (lambda m: m @ nn.LSTMState(m, m), TypeError, ["matmul: b is a LSTMState, of which one field is meant: h, c"]),
        (lambda m: tg.stack([m] * 9 + [m[0]]), ShapeError, ["xs[2] f32[2,3], ..., xs[9] f32[3]: "]),
    ],
)
def test_errors_show_the_operation_the_shapes_and_the_place(call: Any, error: Any, parts: list[str]) -> None:
    with pytest.raises(error) as caught:
        call(tg.tensor(M, requires_grad=True))
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert re.search(r"test_op_errors\.py:\d+", message)
    assert "time step" not in message


def test_errors_name_the_very_line() -> None:
    x = tg.ones(2, 3)
    with pytest.raises(ShapeError, match=rf", test_op_errors\.py:{line() + 1}$"):
        x + tg.ones(4)
    with pytest.raises(ShapeError, match=rf"size 6 into shape \(4,4\), test_op_errors\.py:{line() + 1}$"):
        x.reshape(4, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m @ [[1.0], [2.0], [3.0]],
        lambda m: tg.linear([[1.0, 2.0, 3.0]], m),
        lambda m: tg.embedding([1, 0], m),
        lambda m: tg.cross_entropy(m, [0, 1]),
        lambda m: tg.concatenate([m, [[1.0, 2.0, 3.0]]]),
        lambda m: tg.einsum("ij,j", m, [1.0, 2.0, 3.0]),
    ],
    ids=["matmul", "linear", "embedding", "cross_entropy", "concatenate", "einsum"],
)
def test_lists_are_taken_or_refused_by_name(call: Any) -> None:
    """A Python list where an array belongs either works or is refused in words, never with a bare AttributeError."""
    try:
        call(tg.tensor(M))
    except TypeError as error:
        message = str(error)
    else:
        return
    assert re.match(r"\w+: .*list", message)


COMPOSITES: dict[str, Any] = {
    "split": lambda x: tg.split(x, 2),
    "roll": lambda x: tg.roll(x, 1),
    "repeat": lambda x: tg.repeat(x, 2),
    "tile": lambda x: tg.tile(x, 2),
    "tril": tg.tril,
    "triu": tg.triu,
    "sort": lambda x: tg.sort(x, None),
    "flatten": tg.flatten,
    "pad": lambda x: tg.pad(x, 1),
    "swapaxes": lambda x: tg.swapaxes(x, 0, 1),
    "dropout": lambda x: tg.dropout(x, 0.0),
    "conv2d": lambda x: tg.conv2d(x, tg.ones(1, 1, 2, 2)),
    "LayerNorm": nn.LayerNorm(3),
    "Conv1d": nn.Conv1d(1, 1, 1),
    "Conv2d": nn.Conv2d(1, 1, 1),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_functions_made_of_operations_refuse_what_is_no_array_in_their_own_name(name: str) -> None:
    m = tg.tensor(M)
    for wrong, told in (
        (3.0, r"x 3\.0: x must be an array, such as tg\.tensor\(x\)"),
        ([1.0, 2.0], r"make a tensor of the list 'x', tg\.tensor\(x\)"),
        (nn.LSTMState(m, m), "x is a LSTMState, of which one field is meant: h, c"),
    ):
        with pytest.raises(TypeError, match=rf"{name}.*: {told}, .*test_op_errors\.py:\d+"):
            COMPOSITES[name](wrong)


def test_strings_and_none_are_refused_by_name() -> None:
    for wrong in ("a", None):
        with pytest.raises(TypeError, match=rf"add: a f32\[2,3\], b {wrong!r}: "):
            tg.tensor(M) + wrong
    with pytest.raises(TypeError, match=r"sum: x None: x must be an array, such as tg\.tensor\(x\), test_op_errors"):
        tg.sum(None)


def test_an_explanation_blames_no_input_that_fits() -> None:
    x, weight, bias = tg.ones(2, 3), tg.ones(3), tg.zeros(3)
    with pytest.raises(TypeError, match=r"layer_norm: eps is a Tensor, but no gradient goes there"):
        tg.layer_norm(x, weight, bias, tg.tensor(1e-5))
    with pytest.raises(ShapeError, match=r"linear: x f32\[2,3\], weight f32\[4,3\], bias f32\[4\]: output array"):
        tg.linear(M, np.ones((4, 3), np.float32), np.ones(4, np.float32), out=np.empty((9, 9), np.float32))


class WrongAtStep(nn.RNNCell):
    """A cell that loses half of its state at time step 3."""

    def initial_state(self, z: Tensor) -> Any:
        self.count = 0
        return super().initial_state(z)

    def step(self, z: Any, state: Any) -> Any:
        self.count += 1
        return super().step(z, state if self.count < 4 else state[:, :2])


def test_an_error_within_unroll_says_which_step() -> None:
    with pytest.raises(ShapeError) as caught:
        bptt.unroll(WrongAtStep(3, 4), np.ones((5, 2, 3), np.float32))
    message = str(caught.value)
    assert message.startswith("linear: x f32[2,2] does not fit weight f32[4,4] (last axis 2, weight expects 4)")
    assert re.search(r", time step 3, cells\.py:\d+, called from test_op_errors\.py:\d+$", message)


def with_k(xp: Any, x: Any, *, k: float = 1.0) -> Any:
    """A kernel with an attribute of a name that rules know as something else."""
    return x * k


def with_g(xp: Any, g: Any) -> Any:
    """A kernel with such an input."""
    return g


@pytest.mark.parametrize("kernel", [with_k, with_g])
def test_names_that_have_a_meaning_of_their_own_in_rules_are_refused(kernel: Any) -> None:
    with pytest.raises(TypeError, match=f"'{kernel.__name__[-1]}' has a meaning of its own in rules"):
        tg.op(kernel)


def test_an_input_may_be_called_as_the_output_is() -> None:
    @tg.op
    def times(xp: Any, x: Any, y: Any) -> Any:
        return x * y

    times.vjp(x=lambda g, y: g * y, y=lambda g, x: g * x)
    x, y = (tg.tensor(v, requires_grad=True) for v in (3.0, 5.0))
    (dx,) = tg.grad(times(times(x, y), y), [x], create_graph=True)
    assert [d.item() for d in tg.grad(dx, [y])] == [10.0]  # of x y^2 first y^2, then 2 y


@pytest.mark.parametrize("name", ["_kernel", "_new", "_state", "_write_out"])
def test_a_kernel_may_be_called_as_the_engine_calls_something(name: str) -> None:
    def kernel(xp: Any, x: Any) -> Any:
        return x * 2

    double = tg.op(kernel, name=name).vjp(x=lambda g: g * 2)
    x = tg.tensor(3.0, requires_grad=True)
    assert tg.grad(double(double(x)), x).item() == 4


def test_an_attribute_without_a_default_after_an_optional_input_is_given_by_name() -> None:
    @tg.op
    def affine(xp: Any, x: Any, shift: Any = 0.0, *, factor: float) -> Any:
        return x * factor + shift

    assert affine(2.0, factor=3.0) == 6
    assert affine(2.0, 1.0, factor=3.0) == 7
    with pytest.raises(TypeError, match="positional"):
        affine(2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (lambda xp, x, **options: x, "double: a kernel names its attributes one by one, not as **options"),
        (lambda xp, x, *, _scale=1.0: x, "double: '_scale' begins with an underscore"),
        (lambda: 0.0, "double: a kernel takes the array module and then arrays, double(xp, x)"),
    ],
)
def test_kernels_with_other_parameters_are_refused(kernel: Any, told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)):
        tg.op(kernel, name="double")


def test_a_kernel_without_arrays_is_refused() -> None:
    with pytest.raises(TypeError, match=r"forgot: a kernel takes the array module and then arrays, forgot\(xp, x\)"):

        @tg.op
        def forgot(x: Any) -> Any:
            return x


@pytest.mark.parametrize("wrong", [2.0, [1.5], None, "12", [[1], [2]]])
def test_where_to_split_is_never_rounded(wrong: Any) -> None:
    for x in (M, tg.tensor(M)):
        with pytest.raises(TypeError, match=r"split: sections are a number of equal parts, or .*, test_op_errors\.py"):
            tg.split(x, wrong, axis=1)
    assert [part.shape for part in tg.split(M, np.array([1, -1]), axis=1)] == [(2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x: tg.split(x, 2, axis=5), r"split: x f32\[2,3\] has no axis 5"),
        (lambda x: tg.swapaxes(x, 0, 2), r"swapaxes: x f32\[2,3\] has no axis 2"),
        (lambda x: tg.roll(x, (1, 1), axis=(0, 1)), r"roll: x f32\[2,3\] has no axis \(0, 1\)"),
        (lambda x: tg.pad(x, [(1, 1)] * 3), r"pad: x f32\[2,3\]: 3 pairs of widths were given for 2 axes"),
    ],
)
def test_an_axis_that_is_not_there_is_named(call: Any, told: str) -> None:
    for x in (M, tg.tensor(M)):
        with pytest.raises((IndexError, ShapeError), match=told):
            call(x)
