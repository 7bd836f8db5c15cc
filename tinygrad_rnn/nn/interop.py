"""Conversion of state dicts to and from PyTorch: a saved ``torch.nn.LSTM`` gives the same outputs here.

Weights have PyTorch's layout; only names and biases differ. PyTorch gives a recurrent layer two biases, b_ih and b_hh.
As they are only ever added, one is kept here. The exception is the gate n of a GRU,
n = tanh(W x + b_in + r * (W h + b_hn)), where b_hn stays separate, as the parameter ``bias_hn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..backend import signature
from ..tape import host_array
from ..tensor import Tensor
from ..whereabouts import ShapeError
from .cells import LSTMCell, RNNCell, WeightedCell
from .gated import GRUCell
from .layers import Sequential
from .module import Module, named_parts
from .rnn import DeepLayer

Arrays = tuple[np.ndarray, ...]


class Slot(NamedTuple):
    """One or more Tensors, and the PyTorch entries that hold the same numbers."""

    theirs: tuple[str, ...]  # PyTorch's names
    ours: tuple[Tensor, ...]
    take: Callable[..., Arrays]  # from their arrays to ours
    give: Callable[..., Arrays]  # from our arrays to theirs


def torch_state_dict(module: Module) -> dict[str, np.ndarray]:
    """The state of a module under PyTorch's names, as ``state_dict()`` of the same PyTorch model returns it.

    ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, their cells and ``nn.Sequential`` get PyTorch's names wherever they are in the
    module; everything else keeps its own. Each bias becomes b_ih, next to a b_hh of zeros.

    Raises ValueError for a GRU with reset="before", which PyTorch does not have.

    >>> from tinygrad_rnn import nn
    >>> list(torch_state_dict(nn.Sequential(nn.Embedding(5, 3), nn.RNN(3, 4))))
    ['0.weight', '1.weight_ih_l0', '1.weight_hh_l0', '1.bias_ih_l0', '1.bias_hh_l0']
    """
    state: dict[str, np.ndarray] = {}
    for slot in _slots(module, "", ()):
        state.update(zip(slot.theirs, slot.give(*[t.numpy() for t in slot.ours]), strict=True))
    return state


def load_torch_state_dict(module: Module, mapping: Mapping[str, Any], strict: bool = True) -> str:
    """Load a state with PyTorch's names, exactly; returns a message: which biases were summed, and which left out.

    mapping: from names, as in ``torch_state_dict``, to arrays, for example from ``safetensors.numpy.load_file(path)``.
    A tensor with several names, such as a tied weight, needs only one of them.

    Raises before anything changes: KeyError, if strict, for missing or unknown names; ShapeError for wrong shapes;
    ValueError if two names of one tensor hold different numbers.

    >>> from tinygrad_rnn import nn
    >>> print(load_torch_state_dict(nn.RNN(3, 4), torch_state_dict(nn.RNN(3, 4))))
    4 arrays taken over; bias_hh_l0 was added to bias_ih_l0, as one bias does the work of both
    """
    slots = list(_slots(module, "", ()))
    expected = torch_state_dict(module)
    given = [slot for slot in slots if all(name in mapping for name in slot.theirs)]
    filled = {t for slot in given for t in slot.ours}
    missing = [n for slot in slots if not filled.issuperset(slot.ours) for n in slot.theirs if n not in mapping]
    unknown = [name for name in mapping if name not in expected]
    if strict and (missing or unknown):
        raise KeyError(f"load_torch_state_dict: missing {missing}, unknown {unknown}; needed are {list(expected)}")
    arrays = {name: host_array(mapping[name]) for slot in given for name in slot.theirs}
    wrong = [
        f"{name} is {signature(array)}, but shape {expected[name].shape} is needed"
        for name, array in arrays.items()
        if array.shape != expected[name].shape
    ]
    if wrong:
        raise ShapeError("load_torch_state_dict: " + "; ".join(wrong))
    own_names = {t: name for name, t in module.named_tensors()}
    own: dict[str, np.ndarray] = {}
    for slot in given:
        for t, array in zip(slot.ours, slot.take(*[arrays[name] for name in slot.theirs]), strict=True):
            if not np.array_equal(own.setdefault(own_names[t], array), array, equal_nan=array.dtype.kind == "f"):
                raise ValueError(f"load_torch_state_dict: {slot.theirs[0]} is tied to another name, but holds others")
    module.load_state_dict(own, strict=False)
    halves = [name for slot in slots if slot not in given for name in slot.theirs if name in mapping]
    return _report(given, len(arrays)) + "".join(
        f"; {name} was left out, for its other half is missing" for name in halves
    )


def _report(slots: list[Slot], count: int) -> str:
    pairs = [slot for slot in slots if len(slot.theirs) == 2]
    told = f"{count} arrays taken over"
    if pairs:
        summed = ", ".join(f"{hidden} was added to {given}" for given, hidden in (slot.theirs for slot in pairs))
        told += f"; {summed}, as one bias does the work of both"
    if any(len(slot.ours) == 2 for slot in pairs):
        told += "; of a GRU's gate n the hidden bias stays apart, as bias_hn"
    return told


def _slots(module: Module, prefix: str, above: tuple[Module, ...]) -> Iterator[Slot]:
    """All Tensors of a module. above: the enclosing modules, which a part may refer to but does not own."""
    if isinstance(module, DeepLayer):
        for suffix, cell in module.cells():
            yield from _cell_slots(cell, prefix, suffix)
        in_cells = {t for _, cell in module.cells() for _, t in cell.named_tensors()}
        for name, t in module.named_tensors():  # a learned initial state, which PyTorch lacks
            if t not in in_cells:
                yield _same(f"{prefix}{name}", t)
    elif isinstance(module, WeightedCell) and type(module) in (RNNCell, LSTMCell, GRUCell):
        yield from _cell_slots(module, prefix, "")
    else:
        for path, part in named_parts(module):
            name = path.removeprefix("layers.") if isinstance(module, Sequential) else path
            if isinstance(part, Tensor) and part.is_leaf:
                yield _same(f"{prefix}{name}", part)
            elif isinstance(part, Module) and part is not module and part not in above:
                yield from _slots(part, f"{prefix}{name}.", (*above, module))


def _cell_slots(cell: WeightedCell, prefix: str, suffix: str) -> Iterator[Slot]:
    """A cell's Tensors, with PyTorch's names: prefix + name + suffix."""
    if isinstance(cell, GRUCell) and cell.reset != "after":
        raise ValueError(f"{prefix or 'GRU'}: PyTorch's GRU resets after the product, and this one before it")
    for name in ("weight_ih", "weight_hh", "weight_hr"):
        if getattr(cell, name, None) is not None:
            yield _same(f"{prefix}{name}{suffix}", getattr(cell, name))
    if cell.bias is not None:
        names = (f"{prefix}bias_ih{suffix}", f"{prefix}bias_hh{suffix}")
        if isinstance(cell, GRUCell) and cell.bias_hn is not None:
            yield Slot(names, (cell.bias, cell.bias_hn), _take_gru, _give_gru)
        else:
            yield Slot(names, (cell.bias,), lambda b_ih, b_hh: (b_ih + b_hh,), lambda b: (b, np.zeros_like(b)))


def _same(name: str, t: Tensor) -> Slot:
    return Slot((name,), (t,), lambda array: (array,), lambda array: (array,))


def _take_gru(b_ih: np.ndarray, b_hh: np.ndarray) -> Arrays:
    """From PyTorch's two biases: b for the gates r, z and n, and b_hn."""
    gates, n = np.split(b_hh, [len(b_hh) // 3 * 2])
    return b_ih + np.concatenate([gates, np.zeros_like(n)]), n


def _give_gru(b: np.ndarray, n: np.ndarray) -> Arrays:
    return b, np.concatenate([np.zeros(2 * len(n), n.dtype), n])
