"""The base of all optimisers: parameters, the state kept for each, and groups with settings of their own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..hints import OPTIMISERS, hinted, missing
from ..tensor import Tensor
from ..whereabouts import ShapeError

Slots = dict[str, Any]  # the optimiser's state for one parameter: arrays, and the step count
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class Optimizer:
    """The base class: holds parameters, and the state kept for each. Subclasses define ``update``.

    parameters: leaf tensors that require a gradient; or dictionaries, which make a ``Groups`` with an optimiser for
        each dictionary: for the tensors under "params", with settings that override the shared ones.

    Raises ValueError if there are no parameters, if one is given twice, or if a setting is negative or NaN, also when
    it is assigned later; TypeError for a parameter that is not a leaf that requires a gradient.
    """

    ports = ("lr", "slots")  # what changes between steps, and so is not fixed in a captured step
    unsigned: tuple[str, ...] = ()  # the settings that must not be negative: those given to this constructor

    def __new__(cls, parameters: Any = (), *args: Any, **settings: Any) -> Any:
        if not isinstance(parameters, (list, tuple)) or not any(isinstance(p, dict) for p in parameters):
            return super().__new__(cls)
        if not all(isinstance(p, dict) and "params" in p for p in parameters):
            raise ValueError(f'{cls.__name__}: each group must be a dictionary that holds "params"')
        shared = dict(zip(_settings(cls), args, strict=False)) | settings
        own = [{name: value for name, value in p.items() if name != "params"} for p in parameters]
        return Groups(*(cls(p["params"], **(shared | more)) for p, more in zip(parameters, own, strict=True)))

    def __init__(self, parameters: Parameters, lr: float, weight_decay: float = 0.0, **settings: Any):
        self.parameters: list[Any] = list(parameters) if isinstance(parameters, Iterable) else [parameters]
        name = type(self).__name__
        if not self.parameters:
            raise ValueError(f"{name}: there are no parameters (a generator can be read only once)")
        for p in self.parameters:
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                raise TypeError(
                    f"{name}: parameters are leaf tensors that require a gradient, as model.parameters() gives them, "
                    f"not {p!r}"
                )
        _check_distinct(name, self.parameters)
        self.unsigned = ("lr", "weight_decay", *settings)
        for setting, value in {"lr": lr, "weight_decay": weight_decay, **settings}.items():
            self._check(setting, value)
        self.lr, self.weight_decay = lr, float(weight_decay)
        self.slots: list[Slots] = [{} for _ in self.parameters]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("learning_rate", "param_groups"):  # which would change nothing
            raise missing(name, type(self).__name__, OPTIMISERS[name])
        if isinstance(value, np.generic) or (
            isinstance(value, np.ndarray) and value.size == 1 and name in self.unsigned
        ):
            value = value.item()  # an np.float64, as from np.cos, would turn float32 parameters into float64
        if name in self.unsigned:
            if hasattr(value, "checked"):  # a number that may change, in a recorded step
                value = value.checked(partial(self._check, name))
            else:
                self._check(name, value)
        super().__setattr__(name, value)

    def _check(self, setting: str, value: Any) -> None:
        """Raise TypeError unless a setting is a number, and ValueError if it is NaN, or negative and must not be."""
        if not isinstance(value, (int, float, np.number, np.bool_, np.ndarray)):
            raise TypeError(f"{type(self).__name__}: {setting} must be a number, not {value!r}")
        if not value >= (0 if setting in self.unsigned else -np.inf):
            raise ValueError(f"{type(self).__name__}: {setting} must not be negative, but it is {value}")

    @property
    def groups(self) -> list[Optimizer]:
        """The optimisers that this one consists of: only itself, unless it is ``Groups``."""
        return [self]

    def update(self, p: Array, g: Array, slots: Slots) -> Array:
        """A parameter's new array, from the old one, its gradient, and its slots, which are updated in place."""
        raise NotImplementedError

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for p, slots in zip(self.parameters, self.slots, strict=True):
            if p.grad is not None:
                g = p.grad.array
                if self.weight_decay:
                    g = self.decay(p, g)
                slots["step"] = slots.get("step", 0) + 1
                new = self.update(p.array, g, slots)
                if new is None:
                    raise TypeError(f"{type(self).__name__}.update must return the parameter's new array, not None")
                p.data = new

    def decay(self, p: Tensor, g: Array) -> Array:
        """L2 regularisation: weight_decay * p is added to the gradient."""
        return g + self.weight_decay * p.array

    def zero_grad(self) -> None:
        """Set all gradients to None, so that the next backward starts afresh."""
        for p in self.parameters:
            p.grad = None

    @property
    def settings(self) -> dict[str, Any]:
        """The current values of the constructor's settings, including the learning rate."""
        return {name: getattr(self, name) for name in _settings(type(self)) if hasattr(self, name)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def state_dict(self) -> dict[str, Any]:
        """The learning rate, all settings and all slots, as NumPy arrays and numbers."""

        def host(value: Any) -> Any:
            return backend.of(value).to_host(value).copy() if backend.is_array(value) else value

        slots = [{name: host(value) for name, value in slots.items()} for slots in self.slots]
        return {"kind": type(self).__name__, "lr": self.lr, "settings": self.settings, "slots": slots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``, taking over its settings, as in PyTorch.

        Raises before anything changes: ValueError for a state with other numbers of groups or parameters, or for
        settings that the constructor refuses, ShapeError for arrays that do not fit, KeyError for the state of another
        kind of optimiser.
        """
        states = state.get("groups", [state])
        if len(states) != len(self.groups):
            raise ValueError(f"{type(self).__name__}: the state is of {len(states)} groups, not of {len(self.groups)}")
        loaded = [group._fitted(state) for group, state in zip(self.groups, states, strict=True)]
        for group, state, slots in zip(self.groups, states, loaded, strict=True):
            vars(group).update(state["settings"])
            group.lr, group.slots = state["lr"], slots

    def _fitted(self, state: Mapping[str, Any]) -> list[Slots]:
        """The slots of a state, checked for its kind and shapes, with arrays on the backends of the parameters."""
        name = type(self).__name__
        same = state.get("kind") == name and state.get("settings", {}).keys() == self.settings.keys()
        if not same or not {"lr", "slots"} <= state.keys():
            raise KeyError(
                f"{name}: the state holds {list(state)} and the settings {list(state.get('settings', ()))}, but "
                f"{list(self.settings)} are needed; it belongs to an optimiser of another kind, "
                f"{state.get('kind', 'which it does not tell')}"
            )
        for setting, value in {**state["settings"], "lr": state["lr"]}.items():
            if setting in self.unsigned or (value is not None and isinstance(getattr(self, setting), (int, float))):
                self._check(setting, value)
        slots = state["slots"]
        if len(slots) != len(self.slots):
            raise ValueError(f"{name}: the state is of {len(slots)} parameters, not of {len(self.slots)}")

        def fitted(p: Tensor, slot: str, value: Any) -> Any:
            if not hasattr(value, "shape"):
                return value
            if value.shape != p.shape:
                raise ShapeError(f"{name}: the state's {slot} has shape {value.shape}, its parameter {p.shape}")
            return backend.as_array(value, backend=p.backend)

        own = zip(self.parameters, slots, strict=True)
        return [{slot: fitted(p, slot, value) for slot, value in given.items()} for p, given in own]


class Groups(Optimizer):
    """Optimisers that step together, one for each group of parameters with settings of its own.

    Settings are changed per group: ``opt.groups[1].lr = 0.01``. A schedule acts on the rate of each group.

    >>> from tinygrad_rnn import ones, optim
    >>> weight, bias = ones(2, 3, requires_grad=True), ones(2, requires_grad=True)
    >>> opt = optim.Groups(optim.AdamW([weight], weight_decay=0.1), optim.SGD([bias], lr=0.5))
    >>> opt = optim.AdamW([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "lr": 0.5}], weight_decay=0.0)
    >>> [(group.lr, group.weight_decay) for group in opt.groups]
    [(0.001, 0.1), (0.5, 0.0)]
    """

    def __init__(self, *optimizers: Optimizer):
        self.__dict__["optimizers"] = list(optimizers)
        if not optimizers:
            raise ValueError("Groups: at least one optimiser is needed")
        _check_distinct("Groups", self.parameters)

    @property
    def groups(self) -> list[Optimizer]:
        """All optimisers, with nested groups flattened."""
        return [group for optimizer in self.optimizers for group in optimizer.groups]

    @property
    def parameters(self) -> list[Any]:  # type: ignore[override]
        """The parameters of all groups, one after another."""
        return [p for group in self.groups for p in group.parameters]

    def step(self) -> None:
        """Update every parameter that has a gradient, one group after another."""
        for group in self.groups:
            group.step()

    def __repr__(self) -> str:
        return f"Groups({', '.join(map(repr, self.optimizers))})"

    def state_dict(self) -> dict[str, Any]:
        """The states of all groups."""
        return {"groups": [group.state_dict() for group in self.groups]}

    def __getattr__(self, name: str) -> Any:
        if name in OPTIMISERS:
            raise missing(name, "Groups", OPTIMISERS[name])
        raise AttributeError(f"Groups: {name} is not the same for all; each has its own, such as opt.groups[0].{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.__getattr__(name)


def _settings(kind: type[Optimizer]) -> list[str]:
    """The names of the constructor's arguments after ``parameters``."""
    return list(inspect.signature(kind.__init__).parameters)[2:]


def _check_distinct(name: str, parameters: list[Any]) -> None:
    if len(set(parameters)) < len(parameters):
        raise ValueError(f"{name}: a parameter was given twice")


hinted(Optimizer, OPTIMISERS, "an optimiser")
