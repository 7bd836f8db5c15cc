"""Layers that stand in front of a recurrent network, against PyTorch (test_parity.py has more)."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, bptt, nn, optim

torch = pytest.importorskip("torch")


def assert_close(found: Any, expected: Any) -> None:
    a = found.numpy() if isinstance(found, Tensor) else np.asarray(found)
    e = expected.detach().numpy()
    assert a.shape == e.shape
    np.testing.assert_allclose(a, e, rtol=0, atol=1e-10 * max(1.0, abs(e).max(initial=0.0)))


def assert_layer(module: nn.Module, reference: Any, x: np.ndarray) -> None:
    """Same output, same gradients for parameters and, if it has any, for the input."""
    theirs = dict(reference.named_parameters())
    assert [name for name, _ in module.named_parameters()] == list(theirs)
    with torch.no_grad():
        for name, p in module.named_parameters():
            theirs[name].copy_(torch.tensor(p.data))
    floating = x.dtype.kind == "f"
    a, b = tg.tensor(x, requires_grad=floating), torch.tensor(x, requires_grad=floating)
    y, expected = module(a), reference(b)
    assert_close(y, expected)
    weights = np.random.default_rng(9).standard_normal(y.shape)
    (y * weights).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None
        assert_close(p.grad, theirs[name].grad)
    if floating:
        assert a.grad is not None
        assert_close(a.grad, b.grad)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(0).standard_normal(shape))


# ---- convolution and pooling ----


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 3), channels=st.integers(1, 3), out=st.integers(1, 3), size=st.integers(1, 4),
    extra=st.integers(0, 6), stride=st.integers(1, 3), padding=st.integers(0, 3), bias=st.booleans(),
    dilation=st.integers(1, 3), groups=st.integers(1, 2),
)  # fmt: skip
def test_conv1d(
    batch: int, channels: int, out: int, size: int, extra: int, stride: int, padding: int, bias: bool,
    dilation: int, groups: int,
) -> None:  # fmt: skip
    length = max(dilation * (size - 1) + 1 - 2 * padding, 1) + extra
    ends = channels * groups, out * groups, size, stride, padding
    ours = nn.Conv1d(*ends, dilation, groups, bias, dtype="float64")
    theirs = torch.nn.Conv1d(*ends, dilation, groups, bias, dtype=torch.float64)
    assert_layer(ours, theirs, normal(batch, channels * groups, length))


@settings(deadline=None, max_examples=40)
@given(
    channels=st.integers(1, 3), out=st.integers(1, 3), size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(), dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)), groups=st.integers(1, 3),
)  # fmt: skip
def test_conv2d(
    channels: int, out: int, size: Any, stride: Any, padding: Any, bias: bool, dilation: Any, groups: int
) -> None:
    ends = channels * groups, out * groups, size, stride, padding
    ours = nn.Conv2d(*ends, dilation, groups, bias, dtype="float64")
    theirs = torch.nn.Conv2d(*ends, dilation, groups, bias, dtype=torch.float64)
    assert_layer(ours, theirs, normal(2, channels * groups, 7, 5))


@settings(deadline=None, max_examples=40)
@given(
    leading=array_shapes(min_dims=1, max_dims=2, max_side=3), size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)), padded=st.booleans(),
)  # fmt: skip
def test_max_pool2d(leading: Any, size: Any, stride: Any, padded: bool) -> None:
    padding = (size[0] // 2, size[1] // 2) if padded else 0
    x = normal(*leading, 5, 6) - 5  # all below 0: a padding with zeros would win
    assert_layer(nn.MaxPool2d(size, stride, padding), torch.nn.MaxPool2d(size, stride, padding), x)


def test_groups_that_do_not_divide_are_refused() -> None:
    for channels, out, groups in ((3, 4, 2), (4, 3, 2)):
        with pytest.raises(ValueError, match=f"{channels} channels in and {out} out must both divide into {groups}"):
            nn.Conv2d(channels, out, 3, groups=groups)
    for groups, kind in ((0, ValueError), (-2, ValueError), (2.0, TypeError)):
        with pytest.raises(kind, match=f"Conv2d: groups is a whole number, at least 1, not {groups}"):
            nn.Conv2d(4, 4, 3, groups=groups)
    with pytest.raises(tg.ShapeError, match="channels / 2 groups"):
        tg.conv2d(tg.ones(1, 4, 5, 5), tg.ones(4, 4, 2, 2), groups=2)


@pytest.mark.parametrize(("kernels", "bias"), [(1, np.ones(5)), (3, np.ones(1)), (3, np.ones((3, 1))), (3, 2.0)])
def test_a_bias_of_another_size_does_not_broadcast(kernels: int, bias: Any) -> None:
    with pytest.raises(tg.ShapeError, match=rf"conv2d: the bias .* each of the {kernels} kernels, test_frontends"):
        tg.conv2d(tg.ones(2, 1, 4, 4), tg.ones(kernels, 1, 2, 2), bias)


def test_a_dilation_of_0_is_named() -> None:
    with pytest.raises(tg.ShapeError, match=r"stride \(1, 1\) and dilation \(0, 0\) do not fit"):
        tg.conv2d(tg.ones(1, 1, 4, 4), tg.ones(1, 1, 2, 2), dilation=0)


@pytest.mark.parametrize("wrong", ["same", 1.5, (1, 2, 3), (1, 0.5)])
def test_what_is_no_pair_of_integers_is_refused(wrong: Any) -> None:
    for make in (
        lambda: nn.Conv2d(1, 1, 3, padding=wrong),
        lambda: nn.Conv2d(1, 1, wrong),
        lambda: nn.MaxPool2d(wrong),
        lambda: tg.conv2d(tg.ones(1, 1, 4, 4), tg.ones(1, 1, 3, 3), stride=wrong),
    ):
        with pytest.raises(TypeError, match="integer for height and width, or one for each, is needed, not"):
            make()
    assert nn.Conv2d(1, 1, np.int64(3), padding=[1, 1])(tg.ones(1, 1, 4, 4)).shape == (1, 1, 4, 4)


def test_a_convolution_over_time_feeds_a_recurrent_network() -> None:
    """(T, B, F) to (B, F, T) and back, and the gradient goes all the way."""
    x = tg.randn(20, 2, 3, requires_grad=True)
    conv, cell = nn.Conv1d(3, 6, kernel_size=4, stride=2), nn.GRUCell(6, 5)
    features = conv(x.transpose(1, 2, 0)).relu().transpose(2, 0, 1)
    outputs, _ = bptt.unroll(cell, features)
    assert outputs.shape == (9, 2, 5)
    outputs[-1].sum().backward()
    assert x.grad.data.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (nn.Conv1d(3, 4, 5), [(2, 3, 4), (2, 4, 9), (3, 9), (2, 3, 9, 9)]),
        (nn.Conv1d(3, 4, 5, padding=1), [(2, 3, 2)]),
        (nn.Conv1d(4, 4, 3, dilation=3, groups=2), [(2, 4, 6), (2, 2, 9)]),
        (nn.Conv2d(3, 4, (2, 5)), [(2, 3, 9, 4), (2, 3, 1, 9), (2, 2, 9, 9), (3, 9, 9)]),
        (nn.MaxPool2d(3), [(2, 2, 5), (5, 2)]),
        (nn.LayerNorm(4), [(3, 5), (4, 1), (4, 3), ()]),
        (nn.LayerNorm(1), [(3, 5)]),  # which would broadcast
        (nn.LayerNorm((2, 3)), [(3, 2), (3,), (5, 2, 1)]),
    ],
    ids=repr,
)
def test_an_input_that_does_not_fit_is_refused(layer: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    for shape in shapes:
        with pytest.raises(ShapeError, match=r"test_frontends\.py"):
            layer(tg.zeros(*shape))


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.MaxPool2d])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "dilation", "padding"])
def test_sizes_below_1_and_paddings_below_0_are_refused(layer: Any, name: str) -> None:
    ends, least = () if layer is nn.MaxPool2d else (1, 2), int(name != "padding")
    if name in inspect.signature(layer).parameters:
        for wrong in (least - 1, (3, least - 1)):
            with pytest.raises((ValueError, TypeError), match=rf"{layer.__name__}: {name} .* at least {least}, not"):
                layer(*ends, **({"kernel_size": 3} | {name: wrong}))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at most half of the window"):
        nn.MaxPool2d(3, padding=2)
    for index in (5, -6):
        with pytest.raises(ValueError, match=f"padding_idx {index} is not among 5 symbols"):
            nn.Embedding(5, 2, padding_idx=index)


def test_reprs_read_like_the_call() -> None:
    assert repr(nn.Conv1d(3, 4, 5)) == "Conv1d(3, 4, 5, stride=1, padding=0)"
    assert repr(nn.Conv2d(3, 4, 5, 2)) == "Conv2d(3, 4, (5, 5), stride=(2, 2), padding=(0, 0))"
    told = "Conv1d(4, 6, 3, stride=1, padding=0, dilation=2, groups=2)"
    assert repr(nn.Conv1d(4, 6, 3, dilation=2, groups=2)) == told
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d((2, 2), stride=(2, 2), padding=(0, 0))"
    assert repr(nn.LayerNorm(4)) == "LayerNorm(4)"
    assert repr(nn.LayerNorm((4, 5))) == "LayerNorm((4, 5))"
    assert repr(nn.Embedding(4, 5, padding_idx=-1)) == "Embedding(4, 5, padding_idx=3)"


# ---- layer normalisation ----


@settings(deadline=None, max_examples=40)
@given(shape=array_shapes(min_dims=1, max_dims=4, max_side=4), data=st.data())
def test_layer_norm(shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, len(shape)))
    eps = data.draw(st.sampled_from([1e-5, 0.1]))
    ours = nn.LayerNorm(shape[-axes:], eps, dtype="float64")
    ours.weight.data, ours.bias.data = normal(*shape[-axes:]), normal(*shape[-axes:]) + 1
    assert_layer(ours, torch.nn.LayerNorm(shape[-axes:], eps, dtype=torch.float64), normal(*shape))


def test_derivatives_of_layer_norm_of_two_axes() -> None:
    layer = nn.LayerNorm((2, 3), dtype="float64")
    tg.check(lambda x: layer(x).sin(), normal(4, 2, 3))


# ---- embedding ----


@settings(deadline=None, max_examples=60)
@given(
    shape=array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), seed=st.integers(0, 99),
    padding=st.none() | st.integers(-5, 4),
)  # fmt: skip
def test_embedding(shape: tuple[int, ...], seed: int, padding: int | None) -> None:
    indices = np.asarray(np.random.default_rng(seed).integers(5, size=shape))
    ours = nn.Embedding(5, 3, padding, dtype="float64")
    theirs = torch.nn.Embedding(5, 3, padding, dtype=torch.float64)
    assert padding is None or not ours.weight.data[padding].any()
    assert_layer(ours, theirs, indices)
    assert padding is None or not ours.weight.grad.data[padding].any()


def test_the_vector_of_the_padding_stays_zero_while_the_others_learn() -> None:
    layer = nn.Embedding(4, 3, padding_idx=2)
    start = layer.weight.numpy()
    opt = optim.Adam(layer.parameters(), lr=0.1)
    for indices in (np.array([[0, 2], [2, 2]]), tg.tensor([1, 2]), np.array([2])):
        for _ in range(2):
            opt.zero_grad()
            ((layer(indices) - 1.0) ** 2).sum().backward()
            opt.step()
    assert (layer.weight.data != start).any(axis=1).tolist() == [True, True, False, False]
    assert not layer.weight.data[2].any()


def test_a_padding_vector_that_was_loaded_is_used_as_it_is() -> None:
    """As in PyTorch: pretrained tables may mean something by it."""
    layer = nn.Embedding(3, 2, padding_idx=0)
    layer.load_state_dict({"weight": np.arange(6.0).reshape(3, 2)})
    assert layer(np.array([0, 2])).tolist() == [[0, 1], [4, 5]]
    layer(np.array([0, 2])).sum().backward()
    assert layer.weight.grad.tolist() == [[0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 2, 2, 1), (2, 2, 5)),
        (nn.Conv2d(1, 2, 2, 1, 1), (2, 1, 3, 3)),
        (nn.MaxPool2d(3, 2, 1), (1, 5, 5)),
        (nn.LayerNorm((3, 2)), (4, 3, 2)),
    ],
    ids=repr,
)
def test_float32_stays_float32(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = tg.randn(*shape, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == np.float32
    assert all(p.grad is not None and p.grad.dtype == np.float32 for p in [x, *layer.parameters()])
