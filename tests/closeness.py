"""Numbers for tests, and whether they are equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_rnn import Tensor


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers, in float64: the same ones for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def close(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Equal to within a tolerance, relative to the largest element; Tensors of ours or of PyTorch's, or arrays."""
    a, e = _bare(found), _bare(expected)
    assert a.shape == e.shape
    np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(1.0, abs(e).max(initial=0.0)))


def _bare(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, Tensor) else np.asarray(x.detach() if hasattr(x, "detach") else x)
