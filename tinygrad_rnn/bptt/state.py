"""The states that cells carry: nested tuples, lists and dictionaries of Tensors."""

from __future__ import annotations

from typing import Any

from ..tensor import Tensor
from ..tree import tree_map


def detach(state: Any) -> Any:
    """The same state without history: the cut at the end of a window of truncated BPTT.

    >>> from tinygrad_rnn import bptt, nn, ones
    >>> outputs, state = bptt.unroll(nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> state.c.requires_grad, detach(state).c.requires_grad
    (True, False)
    """
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)
