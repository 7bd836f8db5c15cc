"""Values and gradients against NumPy's and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import assert_same, changed, cotangents, function, law, leaf, pull
from samples import COMPOSITES, SAMPLES
from sampling import Sample

import tinygrad_rnn as tg
from tinygrad_rnn.tensor import Tensor
from tinygrad_rnn.tree import tree_leaves, tree_map

SAME_NAME = (
    "add subtract multiply divide floor_divide remainder power negative absolute square reciprocal exp expm1 log "
    "log1p sqrt sin cos tanh sign floor ceil round isnan isinf isfinite maximum minimum equal not_equal less "
    "less_equal greater greater_equal bitwise_and bitwise_or bitwise_xor invert any all sum prod mean max min var "
    "argmax argmin where std reshape transpose broadcast_to expand_dims squeeze flip concatenate outer matmul "
    "einsum split"
)

# What computes the same in NumPy, as a function of the same arguments.
NUMPY: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in SAME_NAME.split()},
    "clip": lambda x, min=None, max=None: np.clip(x, min, max),
    "cumsum": lambda x, axis=-1: np.cumsum(x, axis=axis),
    "flatten": lambda x, start_dim=0, end_dim=-1: x.reshape(*x.shape[:start_dim], -1, *x.shape[end_dim:][1:]),
    "getitem": lambda x, key: x[key],
    "index": lambda x, key: x[tree_map(lambda k: k.array if isinstance(k, Tensor) else k, key)],
    "linear": lambda x, weight, bias=0.0: x @ weight.T + bias,
    "logsumexp": lambda x, axis=None, keepdims=False: np.logaddexp.reduce(x, axis=axis, keepdims=keepdims),
    "pad": lambda x, widths, value=0.0: np.pad(x, widths, constant_values=value),
    "product": np.matmul,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "stack": lambda *xs, axis=0: np.stack(xs, axis=axis),
    "swapaxes": lambda x, a, b: np.swapaxes(x, a, b),
    "take_along_axis": lambda x, indices, axis=-1: np.take_along_axis(x, indices, axis=axis),
    "windows": lambda x, size, stride, dilation=(1, 1): np.lib.stride_tricks.sliding_window_view(
        x, [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)], axis=(-2, -1)
    )[..., :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]],
}
TABLE = {name: samples for name, samples in {**SAMPLES, **COMPOSITES}.items() if name in NUMPY}


@law(TABLE)
def test_values_are_those_of_numpy(name: str, sample: Sample) -> None:
    if name == "logsumexp" and isinstance(sample.attributes.get("axis", 0), tuple):
        return  # np.logaddexp reduces along one axis
    if name == "pad" and not sample.inputs[0].ndim:
        return  # np.pad refuses
    expected = tree_leaves(NUMPY[name](*sample.inputs, **sample.attributes))
    for wrap in (np.asarray, leaf):
        inputs = changed(sample, wrap).inputs
        for y, value in zip(tree_leaves(function(name)(*inputs, **sample.attributes)), expected, strict=True):
            assert_same(y, value)


def torch_functions() -> dict[str, Callable[..., Any]]:
    torch = pytest.importorskip("torch")
    nn = torch.nn.functional

    def max_pool(x: Any, size: Any, stride: Any = None) -> Any:
        return nn.max_pool2d(x, size, stride)

    def layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        if bias is None or bias.shape == x.shape[-1:]:
            return nn.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return nn.layer_norm(x, x.shape[-1:], weight, None, eps) + bias  # ours may be any that broadcasts

    def cross_entropy(logits: Any, targets: Any) -> Any:
        flat = nn.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long(), reduction="none")
        return flat.reshape(targets.shape)

    def var(x: Any, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Any:
        return torch.var(x, dim=axis, keepdim=keepdims, correction=ddof)

    def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return torch.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)

    return {
        **{name: getattr(torch, name) for name in ("matmul", "einsum", "outer", "sigmoid", "exp", "tanh")},
        "conv2d": nn.conv2d,
        "cross_entropy": cross_entropy,
        "embedding": lambda indices, weight: nn.embedding(indices.long(), weight),
        "layer_norm": layer_norm,
        "linear": lambda x, weight, bias=0.0: x @ weight.T + bias,
        "log_softmax": lambda x, axis=-1: torch.log_softmax(x, axis),
        "logsumexp": logsumexp,
        "max_pool2d": max_pool,
        "power": torch.pow,
        "relu": torch.relu,
        "softmax": lambda x, axis=-1: torch.softmax(x, axis),
        "softplus": nn.softplus,
        "stack": lambda *xs, axis=0: torch.stack(xs, axis),
        "std": lambda x, **options: var(x, **options).sqrt(),
        "var": var,
        "where": lambda condition, a, b: torch.where(torch.as_tensor(condition), a, b),
    }


TORCH = (
    "matmul einsum where outer sigmoid exp tanh conv2d cross_entropy embedding layer_norm linear log_softmax logsumexp "
    "max_pool2d power relu softmax softplus stack std var"
)
TORCH_TABLE = {name: samples for name, samples in {**SAMPLES, **COMPOSITES}.items() if name in TORCH.split()}


@law(TORCH_TABLE, differentiable=True)
def test_values_and_gradients_are_those_of_pytorch(name: str, sample: Sample) -> None:
    torch = pytest.importorskip("torch")
    if sample.attributes.get("axis") == () or (name in ("var", "std") and not sample.inputs[0].size):
        return  # PyTorch refuses, or warns
    inputs = tree_map(lambda x: torch.tensor(np.array(x)) if isinstance(x, np.ndarray) else x, sample.inputs)
    xs = [x for x in tree_leaves(inputs) if torch.is_tensor(x) and x.is_floating_point()]
    for x in xs:
        x.requires_grad = True
    expected = torch_functions()[name](*inputs, **sample.attributes)
    found = function(name)(*changed(sample, leaf).inputs, **sample.attributes)
    np.testing.assert_allclose(found.array, expected.detach().numpy(), rtol=1e-10, atol=1e-10)
    expected.backward(torch.tensor(cotangents([found])[0]))
    for g, x in zip(pull(name, sample), xs, strict=True):
        np.testing.assert_allclose(g.array, x.grad.numpy(), rtol=1e-10, atol=1e-10)


# ---- where derivatives are a choice ----


def gradient(f: Callable[[Tensor], Tensor], x: Any) -> list[float]:
    leaf = tg.tensor(np.array(x, dtype=float), requires_grad=True)
    result: list[float] = tg.grad(f(leaf).sum(), leaf).tolist()
    return result


def test_ties_share_the_gradient() -> None:
    assert gradient(tg.max, [1.0, 3.0, 3.0, 0.0]) == [0, 0.5, 0.5, 0]
    assert gradient(tg.min, [1.0, 3.0, 1.0, 1.0]) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert gradient(lambda x: tg.maximum(x, 3.0), [1.0, 3.0, 4.0]) == [0, 0.5, 1]
    assert gradient(lambda x: tg.minimum(3.0, x), [1.0, 3.0, 4.0]) == [1, 0.5, 0]


def test_slopes_at_corners() -> None:
    assert gradient(tg.abs, [-1.0, 0.0, 2.0]) == [-1, 0, 1]
    assert gradient(tg.relu, [-1.0, 0.0, 2.0]) == [0, 0, 1]
    assert gradient(lambda x: tg.clip(x, -1, 1), [-2.0, -1.0, 0.0, 1.0, 2.0]) == [0, 1, 1, 1, 0]
    assert gradient(lambda x: x**0, [0.0, 2.0]) == [0, 0]
    assert gradient(lambda x: x**2, [0.0, 2.0]) == [0, 4]
    assert gradient(lambda x: 0.0**x, [1.0, 2.0]) == [0, 0]
    assert gradient(lambda x: x**0.0 + 0.0 * x, [0.0]) == [0]
    assert gradient(tg.prod, [2.0, 0.0, 3.0]) == [0, 6, 0]
    assert gradient(tg.prod, [2.0, 0.0, 0.0]) == [0, 0, 0]


def test_a_tie_is_no_corner_of_a_smooth_function() -> None:
    x = tg.tensor([0.0, 1.0, 1.0, -np.inf], dtype="float64")
    found = tg.hvp(lambda x: tg.logaddexp(x, np.array([0.0, 1.0, 0.0, -np.inf])).sum(), x, tg.ones(4))
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(found.numpy(), [0.25, 0.25, p * (1 - p), 0])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_the_slope_of_a_power_whose_exponent_is_a_small_integer(dtype: str) -> None:
    exponent = np.array([0, 0, 1, 2, 0], dtype)
    assert gradient(lambda x: x**exponent, [200.0, 0.0, 0.0, 3.0, -2.0]) == [0, 0, 1, 6, 0]
    assert gradient(lambda x: x ** exponent[0], [200.0, 0.0]) == [0, 0]
    if dtype == "int8":
        np.testing.assert_allclose(gradient(lambda x: x ** np.int8(-128), [1.1]), -128 * 1.1**-129)


def test_the_slope_of_a_power_whose_base_is_a_small_integer_has_all_digits() -> None:
    base = np.array([0, 1, 3], "uint8")
    np.testing.assert_allclose(gradient(lambda x: base**x, [2.0, 2.0, 2.0]), [0, 0, 9 * np.log(3)], rtol=1e-14)


def test_a_cast_to_integers_sends_nothing_back() -> None:
    assert gradient(lambda x: x * tg.ops.astype(x, dtype=int), [1.5, 2.5]) == [1, 2]


def test_large_numbers_do_not_overflow() -> None:
    x = np.array([-1e4, 0.0, 1e4])
    for f in (tg.sigmoid, tg.tanh, tg.softplus, tg.softmax, tg.log_softmax, tg.logsumexp):
        assert np.isfinite(np.asarray(f(x))).all()
        assert np.isfinite(gradient(f, x)).all()
    assert np.isfinite(gradient(lambda x: tg.cross_entropy(x, np.array(0)), x)).all()
    minus = np.array([-np.inf, -np.inf])
    assert tg.logsumexp(minus) == -np.inf
    assert gradient(tg.logsumexp, [-np.inf, 0.0]) == [0, 1]
    with np.errstate(all="raise"):
        assert gradient(lambda x: tg.where(np.array([True, False]), tg.logsumexp(x, axis=1), 0.0), [minus, minus]) == [
            [0, 0],
            [0, 0],
        ]


@pytest.mark.parametrize("far", [0.0, -3000.0, 5e4, 1e12])
def test_derivatives_of_logsumexp_are_as_exact_far_from_0(far: float) -> None:
    """There y has few digits behind the point, and exp(x - y) has no more."""
    x = (far + np.array([[0.0, 1.5, -2.25], [0.5, 0.25, 3.0]])).astype(np.float32)
    x64 = x.astype(np.float64)
    p = np.exp(x64 - x64.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    v = np.array([[1.0, -2.0, 0.5]] * 2, np.float32)
    leaf = tg.tensor(x, requires_grad=True)
    (g,) = tg.grad(tg.logsumexp(leaf, axis=1).sum(), [leaf], create_graph=True)
    np.testing.assert_allclose(g.data, p, rtol=1e-6)
    (hv,) = tg.grad((g * v).sum(), [leaf])
    np.testing.assert_allclose(hv.data, p * (v - (p * v).sum(axis=1, keepdims=True)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("far", [0.0, -3000.0, 1e6])
def test_a_loss_is_as_exact_far_from_0(far: float) -> None:
    x = (far + np.array([[0.0, 1.5, -2.25], [0.5, 0.25, 3.0]])).astype(np.float32)
    x64 = x.astype(np.float64) - far
    expected = np.log(np.exp(x64).sum(axis=1)) - x64[:, 1]
    np.testing.assert_allclose(tg.cross_entropy(x, np.array([1, 1])), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint64", "int64"])
def test_exponentials_of_integers_are_those_of_float64(dtype: str) -> None:
    few = np.array([[0, 1, 2], [100, 0, 120]]).astype(dtype)
    many = np.tile(few, (2, 5000))  # which are looked at first
    for x in (few, many):
        for f in (tg.softmax, tg.log_softmax, tg.logsumexp, lambda x: tg.cross_entropy(x, np.zeros(len(x), int))):
            with np.errstate(all="raise", under="ignore"):
                assert_same(f(x), f(x.astype(np.float64)))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (0, 0), (3, 0, 2)])
def test_over_nothing_they_are_pytorchs(name: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    for axis in range(len(shape)):
        x, theirs = tg.zeros(*shape, requires_grad=True), torch.zeros(*shape, requires_grad=True)
        y, expected = getattr(tg, name)(x, axis=axis), getattr(torch, name)(theirs, dim=axis)
        assert_same(y.numpy(), expected.detach().numpy())
        (y * y).sum().backward()
        assert x.grad.shape == shape


def test_sums_of_many_exponentials_in_float16() -> None:
    x = np.full((1, 5000), 4, np.float16)
    np.testing.assert_allclose(tg.softmax(x), 1 / 5000, rtol=1e-2)
    np.testing.assert_allclose(tg.cross_entropy(x, np.array([3])), np.log(5000), rtol=1e-2)


def test_variance_of_one_element_is_not_a_number() -> None:
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="Degrees of freedom"):
        assert np.isnan(gradient(lambda x: tg.var(x, ddof=1), [2.0])).all()


def test_letters_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="the letter 'i' stands for axes of lengths 2 and 3"):
        tg.einsum("ii->i", np.ones((2, 3)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_where_with_0_masks_every_bit(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 64, 64)).astype(dtype)
    x[0, :2, :2] = [[np.nan, np.inf], [-np.inf, -0.0]]
    for mask in (rng.random((3, 64, 64)) > 0.5, rng.random((64, 1)) > 0.5):
        for a in (x, x.transpose(0, 2, 1), x[:, ::-1]):
            found = tg.where(mask, a, 0)
            np.testing.assert_array_equal(found, np.where(mask, a, np.zeros((), dtype)))
            assert found.dtype == a.dtype
