"""Cells that look at other vectors in every step, such as the outputs of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from ..ops import concatenate, expand_dims, linear, matmul, softmax, sum, tanh, where
from ..tensor import Tensor
from ..whereabouts import ShapeError, misfit
from . import init
from .cells import Cell, Gates
from .sequences import over, time_major
from .wrappers import Wrapper


class Attention(Wrapper):
    """Attention of each step's output over given vectors, such as an encoder's outputs (Luong et al. 2015, "general").

    a = softmax over s of (h_t . W_a m_s)
    y_t = tanh(W_c [sum_s a_s m_s, h_t])

    W_a and W_c are ``weight_a`` and ``weight_c``; h_t is the inner cell's output, and y_t has its size. The m_s differ
    between sequences, so ``over(memory)`` returns the cell to unroll. Its gate "attention" holds the weights a.
    memory_size: the length of each m_s.

    >>> from tinygrad_rnn import nn, ones
    >>> attention = nn.Attention(nn.GRUCell(3, 5), memory_size=4)
    >>> outputs, h = nn.unroll(attention.over(ones(7, 2, 4)), ones(6, 2, 3))
    >>> outputs.shape
    (6, 2, 5)
    """

    look: Callable[[Any], tuple[Any, Any]] | None = None  # from h to the context and the weights

    def __init__(self, cell: Any, memory_size: int):
        super().__init__(cell)
        size, self.memory_size = cell.output_size, memory_size
        self.weight_a = self.filled(init.fan_in_uniform((size, memory_size), memory_size))
        self.weight_c = self.filled(init.fan_in_uniform((size, memory_size + size), memory_size + size))

    def over(self, memory: Any, lengths: Any = None, mask: Any = None) -> Cell:
        """A cell that attends to memory (S, B, memory_size); lengths (B,) or a mask (S, B) mark its real steps.

        Memory of one row is that of all. Raises ShapeError for other shapes, also where the state has other rows.
        """
        name = type(self).__name__
        if memory.ndim != 3 or memory.shape[-1] != self.memory_size:
            raise ShapeError(f"{name}: the memory must have shape (S, B, {self.memory_size}), not {memory.shape}")
        memory, real = time_major(name, memory, lengths, mask)
        memory = memory if real is None else where(over(real, memory), memory, 0)
        keys = linear(memory, self.weight_a)

        def look(h: Any) -> tuple[Any, Any]:
            if memory.shape[1] not in (1, len(h)):
                raise misfit(
                    f"{name}: the memory has {memory.shape[1]} rows, the state {len(h)}; for beam_search, attend to "
                    "nn.repeat_rows(memory, width), with np.repeat(lengths, width)"
                )
            scores = self.scores(keys, h)
            if real is not None:
                scores = where(real, scores, float(np.finfo(scores.dtype).min) / 2)  # not -inf: none may be real
            a = softmax(scores, axis=0)
            return sum(expand_dims(a, axis=-1) * memory, axis=0), a

        attending = copy(self)  # shares the parameters
        attending.look = look
        return attending

    def scores(self, keys: Any, h: Any) -> Tensor:
        """How well each of the keys W_a m_s (S, B, H) fits the output h (B, H): (S, B)."""
        return sum(keys * h, axis=-1)  # type: ignore[no-any-return]

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Any, Gates]:
        if self.look is None:
            raise TypeError(
                f"{type(self).__name__}: what to attend to is not given; call attention.over(memory), which is the cell"
            )
        h, state, gates = self.inner_step(z, state)
        context, a = self.look(h)
        y = tanh(linear(concatenate([context, h], axis=-1), self.weight_c))
        return y, state, gates | {"attention": a}


class AdditiveAttention(Attention):
    """Attention in which a small network says how well an output and a vector fit (Bahdanau et al. 2015).

    a = softmax over s of v_a . tanh(W_a m_s + U_a h_t)

    All else is as in ``Attention``. U_a and v_a are ``weight_h`` and ``weight_v``.

    >>> from tinygrad_rnn import nn, ones
    >>> attention = nn.AdditiveAttention(nn.GRUCell(3, 5), memory_size=4)
    >>> nn.unroll(attention.over(ones(7, 2, 4)), ones(6, 2, 3)).outputs.shape
    (6, 2, 5)
    """

    def __init__(self, cell: Any, memory_size: int):
        super().__init__(cell, memory_size)
        size = cell.output_size
        self.weight_h = self.filled(init.fan_in_uniform((size, size), size))
        self.weight_v = self.filled(init.fan_in_uniform((size,), size))

    def scores(self, keys: Any, h: Any) -> Tensor:
        """How well each of the keys W_a m_s (S, B, H) fits the output h (B, H): (S, B)."""
        return matmul(tanh(keys + linear(h, self.weight_h)), self.weight_v)  # type: ignore[no-any-return]
