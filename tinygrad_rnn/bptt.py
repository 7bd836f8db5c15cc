"""Back-propagation through time: unrolling, and cutting the way back."""

from __future__ import annotations

from typing import Any

from .nn.recurrent import Unrolled, unroll
from .tensor import Tensor
from .tree import tree_map

__all__ = ["Unrolled", "detach", "unroll"]


def detach(state: Any) -> Any:
    """The same state without history: the cut at the end of a window of truncated BPTT.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, state = unroll(nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> state.c.requires_grad, detach(state).c.requires_grad
    (True, False)
    """
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)
