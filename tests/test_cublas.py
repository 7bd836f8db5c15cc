"""cuBLAS through ctypes: the order of its arguments, proved on a library that reads raw memory by columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import columns
import numpy as np
import pytest
import strict
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.cublas import Cublas, CublasError
from tinygrad_rnn.cupy_backend import CupyBackend

NAN = float("nan")


@pytest.fixture
def blas() -> Cublas:
    return Cublas(columns.library(), strict.xp)


def window(draw: Any, rows: int, width: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """A matrix somewhere in a larger one, by rows or by columns, and the whole memory that it lies in."""
    above, left, below, right = (draw(st.integers(0, 3)) for _ in range(4))
    by_columns = draw(st.booleans())
    shape = (width, rows) if by_columns else (rows, width)
    whole = np.full((above + shape[0] + below, left + shape[1] + right), NAN, dtype)
    part = whole[above : above + shape[0], left : left + shape[1]]
    return (part.T if by_columns else part), whole


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_products_of_all_layouts(data: st.DataObject) -> None:
    m, k, n = (data.draw(st.integers(1, 5)) for _ in range(3))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    numbers = np.random.default_rng(0)
    (a, _), (b, _), (out, around) = (window(data.draw, *shape, dtype) for shape in ((m, k), (k, n), (m, n)))
    a[...], b[...] = numbers.standard_normal((m, k)), numbers.standard_normal((k, n))
    out[...] = NAN
    call = Cublas(columns.library(), strict.xp).product(*map(strict.StrictArray, (a, b, out)))
    assert call is not None
    assert call() == 0
    np.testing.assert_allclose(out, a @ b, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)
    out[...] = NAN
    assert np.isnan(around).all()  # nothing was written around it


TALL = np.arange(24, dtype=np.float32).reshape(6, 4)
SQUARE = TALL[:4]
COPIED = {
    "every other column": (TALL[:, ::2], TALL[:2, :3]),
    "rows backwards": (TALL[::-1], SQUARE),
    "columns backwards": (TALL[:, ::-1], SQUARE),
    "one row for all": (np.broadcast_to(TALL[0], (3, 4)), SQUARE),
    "both": (TALL[::-1], SQUARE[:, ::-1]),
}
UNNAMED = {
    "half precision": (TALL.astype(np.float16), SQUARE.astype(np.float16)),
    "two dtypes": (TALL, SQUARE.astype(np.float64)),
    "integers": (TALL.astype(int), SQUARE.astype(int)),
    "empty": (TALL[:0], SQUARE),
    "nothing to sum": (TALL[:, :0], SQUARE[:0]),
}


@pytest.mark.parametrize("case", COPIED)
def test_what_lies_otherwise_is_copied(case: str, blas: Cublas) -> None:
    """The array module would copy it too, but no CUDA graph can hold its products."""
    a, b = map(strict.StrictArray, COPIED[case])
    np.testing.assert_array_equal(blas.dot(a, b).get(), np.dot(*COPIED[case]))
    assert blas._library.calls == [68]


@pytest.mark.parametrize("case", UNNAMED)
def test_what_it_has_no_name_for_goes_to_the_array_module(case: str, blas: Cublas) -> None:
    a, b = map(strict.StrictArray, UNNAMED[case])
    np.testing.assert_array_equal(blas.dot(a, b).get(), np.dot(*UNNAMED[case]))
    assert blas._library.calls == []


def test_wrong_shapes_and_types_are_refused_by_the_array_module(blas: Cublas) -> None:
    with pytest.raises(ValueError, match="not aligned"):
        blas.dot(strict.StrictArray(TALL), strict.StrictArray(TALL))
    for operands in ((strict.StrictArray(TALL), SQUARE), (TALL, strict.StrictArray(SQUARE))):
        with pytest.raises(TypeError, match="expected StrictArray"):
            blas.dot(*operands)
    with pytest.raises(TypeError, match="expected StrictArray"):
        blas.dot(strict.StrictArray(TALL), strict.StrictArray(SQUARE), out=TALL.copy())
    with pytest.raises(ValueError, match="must be C-contiguous"):  # as CuPy says, whether cuBLAS is there or not
        blas.dot(strict.StrictArray(SQUARE), strict.StrictArray(SQUARE), out=strict.StrictArray(SQUARE.T.copy().T))


@pytest.mark.parametrize("place", ["a", "b", "beside"])
def test_out_may_be_an_operand(place: str, blas: Cublas) -> None:
    memory = np.arange(48, dtype=np.float32).reshape(3, 4, 4) % 7
    a, b, beside = map(strict.StrictArray, memory)
    expected = memory[0] @ memory[1]
    out = {"a": a, "b": b, "beside": beside}[place]
    if place == "beside":
        assert blas.dot(a, b, out=out) is out
        np.testing.assert_array_equal(out.get(), expected)
    assert len(blas._library.calls) == (place == "beside")  # CuPy's product makes a copy for the others


def test_each_stream_has_a_handle_with_its_workspace(blas: Cublas) -> None:
    x = strict.StrictArray(SQUARE)
    blas.dot(x, x)
    blas.dot(x, x)
    other = SimpleNamespace(ptr=2**40 + 8)  # an address that 32 bits cannot hold
    with patch.object(strict.xp.cuda, "get_current_stream", lambda: other):
        blas.dot(x, x)
    assert list(blas._library.streams.values()) == [7, other.ptr]
    blas.forget([other.ptr, 2])
    assert [stream for _, stream in blas._handles] == [7]
    other.ptr += 8
    with patch.object(strict.xp.cuda, "get_current_stream", lambda: other):
        blas.dot(x, x)  # on the handle that is left
    assert list(blas._library.streams.values()) == [7, other.ptr]
    with (
        patch.object(strict.xp.cuda.runtime, "getDevice", lambda: 1),
        patch.object(blas._library, "cublasSetStream_v2", columns.SET_STREAM(lambda *_: columns.NOT_INITIALIZED)),
        pytest.raises(CublasError, match="cublasSetStream_v2 returned status 1"),
    ):
        blas.product(x, x, strict.StrictArray(np.empty_like(SQUARE)))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_stacks_of_all_layouts(data: st.DataObject) -> None:
    """Stacks that broadcast, of parts of larger arrays, with axes in any order, against NumPy."""
    m, k, n = (data.draw(st.integers(1, 4)) for _ in range(3))
    stack = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    numbers = np.random.default_rng(0)

    def operand(*matrix: int) -> np.ndarray:
        kept = stack[data.draw(st.integers(0, len(stack))) :]
        shape = [1 if data.draw(st.booleans()) and data.draw(st.booleans()) else size for size in kept] + [*matrix]
        order = data.draw(st.permutations(range(len(shape))))
        whole = numbers.standard_normal([shape[axis] + data.draw(st.integers(0, 1)) for axis in order]).astype("f4")
        turned = whole.transpose(np.argsort(order))[tuple(slice(0, size) for size in shape)]
        return turned[..., ::-1, :] if data.draw(st.integers(0, 9)) == 0 else turned

    a, b = operand(m, k), operand(k, n)
    blas = Cublas(columns.library(), strict.xp)
    found = blas.matmul(strict.StrictArray(a), strict.StrictArray(b))
    np.testing.assert_allclose(found.get(), np.matmul(a, b), rtol=1e-5, atol=1e-6)
    assert bool(blas._library.calls) == bool(found.size)
    out = strict.StrictArray(np.full_like(found.get(), NAN))
    assert blas.matmul(strict.StrictArray(a), strict.StrictArray(b), out=out) is out
    np.testing.assert_array_equal(out.get(), found.get())


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk->ik", ((3, 4), (4, 2))),
        ("ji,jk->ki", ((3, 4), (3, 2))),
        ("bij,bkj->bik", ((2, 3, 4), (2, 5, 4))),
        ("bhd,btd->bth", ((2, 3, 4), (2, 5, 4))),
        ("abij,abj->abi", ((2, 2, 3, 4), (2, 2, 4))),
        ("ij,ij->i", ((3, 4), (3, 4))),
        ("ij,jk->i", ((3, 4), (4, 2))),
        ("i,j->ij", ((3,), (4,))),
        ("ij,jk->ik", ((3, 1), (4, 2))),
        ("ij,jk->ik", ((3, 4), (1, 2))),
        ("ij,kj,k->i", ((3, 4), (2, 4), (2,))),
    ],
)
def test_einsum_by_products(subscripts: str, shapes: Any, device: Backend) -> None:
    values = [np.random.default_rng(k).standard_normal(shape) for k, shape in enumerate(shapes)]
    found = tg.einsum(subscripts, *(tg.tensor(x, backend=device.name) for x in values))
    np.testing.assert_allclose(found.numpy(), np.einsum(subscripts, *values), rtol=1e-10, atol=1e-12)


def test_tf32_is_a_choice(blas: Cublas, monkeypatch: pytest.MonkeyPatch) -> None:
    single, double = strict.StrictArray(SQUARE), strict.StrictArray(SQUARE.astype(np.float64))
    monkeypatch.setenv("CUPY_TF32", "1")
    chosen = Cublas(blas._library, strict.xp)
    for library in (blas, chosen):
        library.dot(single, single)
        library.dot(double, double)
    assert blas._library.calls == [68, 70, 77, 70]  # COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32, COMPUTE_64F


def test_a_product_that_fails_is_done_by_the_array_module(blas: Cublas) -> None:
    x = strict.StrictArray(SQUARE)
    blas.handle()
    blas._library.cublasGemmEx = lambda *_: columns.NOT_SUPPORTED
    np.testing.assert_array_equal(blas.dot(x, x).get(), SQUARE @ SQUARE)


def missing() -> Any:
    raise OSError("libcublas.so.12: cannot open shared object file")


def wrong() -> Any:
    library = columns.library()
    library.cublasGemmEx = columns.GEMM_EX(lambda *_: columns.SUCCESS)
    return library


@pytest.mark.parametrize(
    ("load", "reason"), [(missing, "OSError: libcublas.so.12: cannot open"), (wrong, "it computes wrong numbers")]
)
def test_without_it_the_array_module_does_all_products(load: Any, reason: str) -> None:
    class Device(strict.StrictBackend):
        load_cublas = staticmethod(load)

    home: CupyBackend = Device(strict.xp)
    assert str(home.cublas).startswith(reason)
    assert home.xp.dot is strict.xp.dot


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_operations_and_their_rules_use_it(shape: tuple[int, ...], device: Backend) -> None:
    assert isinstance(device, CupyBackend)
    assert isinstance(device.cublas, Cublas), device.cublas
    library = device.cublas._library
    gemm, calls = library.cublasGemmEx, []
    results = []
    for name in ("numpy", device.name):
        tg.manual_seed(0)
        x, weight, bias = (tg.randn(*s, backend=name, requires_grad=True) for s in (shape, (6, 3), (6,)))
        with patch.object(library, "cublasGemmEx", lambda *arguments: calls.append(1) or gemm(*arguments)):
            y = tg.linear(x, weight, bias)
            ((y @ weight) ** 2).sum().backward()
        results.append([y.numpy(), x.grad.numpy(), weight.grad.numpy()])
    assert len(calls) == 6  # for each of the two operations forward, and for both its operands
    for found, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
