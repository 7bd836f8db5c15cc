"""How parameters begin: float32 arrays, drawn on the host, so that every backend starts from the same numbers.

``generator`` is a ``numpy.random.Generator``; without one, the generator that ``manual_seed`` restarts is used.
"""

from __future__ import annotations

import math

import numpy as np

from .. import backend

Shape = tuple[int, ...]


def uniform(shape: Shape, bound: float, generator: np.random.Generator | None = None) -> np.ndarray:
    """Uniform on [-bound, bound)."""
    generator = generator or backend.host_generator()
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def normal(shape: Shape, std: float = 1.0, generator: np.random.Generator | None = None) -> np.ndarray:
    """Normal with mean 0."""
    generator = generator or backend.host_generator()
    return (std * generator.standard_normal(shape)).astype(np.float32)


def fan_in_uniform(shape: Shape, fan_in: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Uniform on [-1/sqrt(fan_in), 1/sqrt(fan_in)), where PyTorch's linear and recurrent layers begin."""
    return uniform(shape, 1 / math.sqrt(fan_in) if fan_in else 0.0, generator)
