"""What a captured step depends on is found wherever it is: a change counts, what cannot be replayed is refused."""

from __future__ import annotations

import copy
import sys
import weakref
from collections import ChainMap, UserDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial, partialmethod, singledispatch, singledispatchmethod, update_wrapper
from itertools import count, cycle
from queue import LifoQueue, PriorityQueue, Queue, SimpleQueue
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from test_capture import equal
from test_capture_state import Small, alike, batch

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

SCALE = 2.0
SHARED = nn.Linear(3, 3)
LAST: Any = None
module = ModuleType("a_module_of_the_user")
exec("def scaled(x):\n    return x * factor\n", vars(module))


class Settings:
    scale = 2.0


class Slots:
    __slots__ = ("scale",)


class Scaled(nn.Module):
    """What it uses is named in its methods only."""

    def __init__(self) -> None:
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.after(self.linear(SHARED(x)))

    def after(self, y: Any) -> Any:
        return y * SCALE


def _set_global(value: float) -> None:
    global SCALE
    SCALE = value


class WithProperty:
    def __init__(self) -> None:
        self.held = 2.0

    @property
    def scale(self) -> float:
        return self.held


class Derived(Settings):
    pass


def _double(x: Any) -> Any:
    return x * 2.0


def _triple(x: Any) -> Any:
    return x * 3.0


def _reloaded(x: Any) -> Any:
    return x


def _with_a_class(x: Any) -> Any:
    class Here:
        scale = SCALE

    return x * Here.scale


def _scaled_by(x: Any, holder: Any) -> Any:
    return x * holder.scale


def _times(x: Any, scale: float = 2.0) -> Any:
    return x * scale


class Scales:
    """Made in the step: its methods are named nowhere."""

    def __init__(self) -> None:
        self.scale = SCALE

    def __call__(self, x: Any) -> Any:
        return x * SCALE


class Pair(NamedTuple):
    first: Any

    def scaled(self) -> Any:
        return self.first * SCALE


class Named(dict[str, Any]):
    def scaled(self) -> Any:
        return self["x"] * SCALE


class Mode(str, Enum):
    ON = "on"

    def scale(self) -> float:
        return SCALE


class Wrapping:
    def __init__(self, function: Any) -> None:
        update_wrapper(self, function)
        self.function, self.scale = function, 2.0

    def __call__(self, x: Any) -> Any:
        return self.function(x) * self.scale


def _counted(x: Any) -> Any:
    return x * _counted.scale


def _importing(x: Any) -> Any:
    import a_module_of_the_user

    return x * a_module_of_the_user.factor


@singledispatch
def _scaled(scale: Any, x: Any) -> Any:
    return x


@_scaled.register
def _(scale: int, x: Any) -> Any:
    return x * SCALE


class Kind(type):
    @property
    def scale(cls) -> float:
        return SCALE


class OfKind(metaclass=Kind):
    pass


class Behind:
    """Python's own classes for methods."""

    def times(self, x: Any, factor: float) -> Any:
        return x * factor * SCALE

    doubled = partialmethod(times, factor=2.0)

    @singledispatchmethod
    def scaled(self, scale: Any, x: Any) -> Any:
        return x

    @scaled.register
    def _(self, scale: int, x: Any) -> Any:
        return x * SCALE

    @cached_property
    def scale(self) -> float:
        return SCALE

    def _put(self, found: list[float]) -> None:
        found.append(SCALE)

    put = property(None, _put)


def _by_setter(x: Any) -> Any:
    found: list[float] = []
    behind.put = found
    return x * found[0]


def _if_defined(x: Any) -> Any:
    try:
        return x * DEFINED  # type: ignore[name-defined]
    except NameError:
        return x


def _define(value: float) -> None:
    globals().pop("DEFINED", None)
    if value == 3.0:
        globals()["DEFINED"] = value


def _put_or_delete(holder: Any, name: str, value: Any, there: bool) -> None:
    if there:
        setattr(holder, name, value)
    elif name in vars(holder):
        delattr(holder, name)


class Doubling(nn.Linear):
    """Gets a ``forward`` of its own later."""


pair, wrapping = Pair(2.0), Wrapping(lambda x: x + 1.0)
settings, instance, slots, with_property = Settings(), Settings(), Slots(), WithProperty()
derived, namespace, mode = Derived(), SimpleNamespace(scale=2.0), {2.0}
inner = {"scale": 2.0}
proxy, user_dict, chain = MappingProxyType(inner), UserDict(inner), ChainMap(inner)
behind, doubling, bare_object = Behind(), Doubling(3, 3), SimpleNamespace()
values, items, counted = inner.values(), inner.items(), [0]
length = counted.__len__
module.__getattr__ = lambda name: SCALE  # type: ignore[method-assign]


def _set_mode(value: float) -> None:
    mode.clear()
    mode.add(value)


model = Scaled()
CHANGES: dict[str, tuple[Any, Any]] = {
    "a global in a method": (lambda x: model(x), _set_global),
    "a global in a class in a function": (_with_a_class, _set_global),
    "an attribute of a class": (lambda x: x * Settings.scale, lambda v: setattr(Settings, "scale", v)),
    "an attribute that an instance gets": (lambda x: x * instance.scale, lambda v: setattr(instance, "scale", v)),
    "a slot": (lambda x: x * slots.scale, lambda v: setattr(slots, "scale", v)),
    "behind a property": (lambda x: x * with_property.scale, lambda v: setattr(with_property, "held", v)),
    "in a module": (lambda x: module.scaled(x), lambda v: setattr(module, "factor", v)),
    "an attribute that a derived class gets": (
        lambda x: x * derived.scale,
        lambda v: (
            setattr(Derived, "scale", v) if v == 3.0 else vars(Derived).get("scale") and delattr(Derived, "scale")
        ),
    ),
    "in a namespace": (lambda x: x * namespace.scale, lambda v: setattr(namespace, "scale", v)),
    "in a set": (lambda x: x * (2.0 if 2.0 in mode else 3.0), _set_mode),
    "behind a proxy": (lambda x: x * proxy["scale"], lambda v: inner.__setitem__("scale", v)),
    "in a chain of dictionaries": (lambda x: x * chain["scale"], lambda v: inner.__setitem__("scale", v)),
    "in a user's dictionary": (lambda x: x * user_dict["scale"], lambda v: user_dict.__setitem__("scale", v)),
    "a default": (lambda x: _times(x), lambda v: setattr(_times, "__defaults__", (v,))),
    "code": (
        lambda x: _reloaded(x),
        lambda v: setattr(_reloaded, "__code__", (_double if v == 2.0 else _triple).__code__),
    ),
    "in an instance that the step makes": (lambda x: x * Scales().scale, _set_global),
    "in a call of an instance that the step makes": (lambda x: Scales()(x), _set_global),
    "in a method of a named tuple": (lambda x: x * pair.scaled(), _set_global),
    "in a method of a named tuple that the step makes": (lambda x: Pair(x).scaled(), _set_global),
    "in a method of a string": (lambda x: x * Mode.ON.scale(), _set_global),
    "in an object that wraps a function": (lambda x: wrapping(x), lambda v: setattr(wrapping, "scale", v)),
    "an attribute of a function": (lambda x: _counted(x), lambda v: setattr(_counted, "scale", v)),
    "in a module that the step imports": (lambda x: _importing(x), lambda v: setattr(module, "factor", v)),
    "a function for a type": (lambda x: _scaled(1, x), _set_global),
    "a method for a type": (lambda x: behind.scaled(1, x), _set_global),
    "a method with arguments given": (lambda x: behind.doubled(x), _set_global),
    "a property that is cached": (lambda x: x * Behind().scale, _set_global),
    "in a setter": (_by_setter, _set_global),
    "a property of a class": (lambda x: x * OfKind.scale, _set_global),
    "what a module has by __getattr__": (lambda x: x * module.anything, _set_global),
    "the values of a dictionary": (lambda x: x * sum(values), lambda v: inner.__setitem__("scale", v)),
    "the items of a dictionary": (lambda x: x * next(iter(items))[1], lambda v: inner.__setitem__("scale", v)),
    "a method of a list": (lambda x: x * length(), lambda v: counted.__setitem__(slice(None), [0] * int(v))),
    "a global that is defined later": (_if_defined, _define),
    "an attribute that is there later": (
        lambda x: x * 2.0 if hasattr(bare_object, "scale") else x,
        lambda v: _put_or_delete(bare_object, "scale", v, v == 3.0),
    ),
    "a method that a class gets later": (
        lambda x: doubling(x),
        lambda v: _put_or_delete(Doubling, "forward", lambda self, x: x * 2.0, v == 3.0),
    ),
    "by name": (lambda x: x * getattr(settings, "sca" + "le"), lambda v: setattr(Settings, "scale", v)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a_module_of_the_user", module)
    step, change = CHANGES[name]
    captured = tg.capture(step)
    for value in (2.0, 3.0, 2.0):
        change(value)
        for k in range(3):
            equal(captured(batch(k)), step(batch(k)), exact=False)


@pytest.mark.parametrize(
    "line", ["from .near import scale", "from . import near as m", "from ..far import scale", "from .. import far as m"]
)
def test_what_a_step_imports_from_its_own_package_is_seen(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = ModuleType("whole.part.near"), ModuleType("whole.far")
    part, whole = ModuleType("whole.part"), ModuleType("whole")
    part.near, whole.far, part.__path__, whole.__path__ = near, far, [], []
    for package in (near, far, part, whole):
        monkeypatch.setitem(sys.modules, package.__name__, package)
    space: dict[str, Any] = {"__name__": "whole.part.steps", "__package__": "whole.part"}
    exec(f"def step(x):\n    {line}\n    return x * {'m.scale' if line.endswith('m') else 'scale'}", space)
    captured = tg.capture(space["step"])
    for value in (2.0, 2.0, 2.0, 3.0, 4.0):
        near.scale = far.scale = value
        assert captured(tg.ones(1)).item() == value


@pytest.mark.parametrize("make", [Pair, lambda x: Named(x=x)])
def test_methods_of_arguments_are_seen(make: Any) -> None:
    captured = tg.capture(lambda pair: pair.scaled())
    for value in (2.0, 3.0, 2.0):
        _set_global(value)
        for k in range(3):
            equal(captured(make(batch(k))), batch(k * value))


def test_dictionaries_of_two_kinds_are_two_arguments() -> None:
    class Doubled(Named):
        def scaled(self) -> Any:
            return self["x"] * 2.0 * SCALE

    captured = tg.capture(lambda d: d.scaled())
    for kind, factor in ((Named, 1), (Named, 1), (Named, 1), (Doubled, 2), (Doubled, 2)):
        equal(captured(kind(x=batch())), batch(factor * SCALE))


def test_parameters_that_only_a_method_names_are_trained() -> None:
    def run(wrap: Any) -> Any:
        tg.manual_seed(0)
        net = Scaled()
        SHARED.load_state_dict({"weight": np.eye(3, dtype="f4"), "bias": np.zeros(3, "f4")})
        optimizer = optim.SGD([*net.parameters(), *SHARED.parameters()], lr=0.01)

        @wrap
        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        return [(step(batch(k + 1)).detach(), [p.numpy() for p in optimizer.parameters]) for k in range(6)]

    eager = run(lambda step: step)
    equal(run(tg.capture), eager, exact=False)  # one after the other, as they share a model


@alike
def test_models_may_be_arguments(wrap: Any) -> Iterator[Any]:
    s, step = Small(), wrap(lambda small, x, scale=1.0: small.step(x * scale))
    for k in range(8):
        yield step(s, batch(k + 1), scale=0.5), s.parameters


@alike
def test_models_may_live_in_another_module(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "a_module_of_the_user", module)
    s, step = Small(), wrap(lambda x: module.trainer.step(x))
    for k in range(8):
        vars(module)["trainer"] = s
        yield step(batch(k + 1)), s.parameters


def test_what_the_step_does_not_mention_may_change_at_every_call() -> None:
    class Trainer(Small):
        def __init__(self) -> None:
            super().__init__()
            self.losses: list[float] = []
            self.calls = 0
            self.phase = ""

        def step(self, x: tg.Tensor) -> tg.Tensor:
            return super().step(x)  # which makes it see the class, and its constructor

    trainer = Trainer()
    captured = tg.capture(lambda x: trainer.step(x) if trainer.phase == "warm-up" else None)
    for k in range(8):
        trainer.phase = "-".join(["warm", "up"])  # equal to the last one
        trainer.losses.append(captured(batch(k)).item())
        trainer.calls += 1
    assert sum(captured._recorded.values()) == 1


class Learner(nn.Module):
    @tg.capture
    def learn(self, x: Any) -> Any:
        return x * 2.0

    @tg.capture
    def evaluate(self, x: Any) -> Any:
        return x * SCALE


class Looking:
    @tg.capture
    def learn(self, x: Any) -> Any:
        return getattr(self, "scale", 2.0) * x

    @tg.capture
    def evaluate(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("kind", [Learner, Looking])
def test_a_captured_method_does_not_take_another_one_for_an_attribute(kind: Any) -> None:
    one = kind()
    for learner in (one, copy.copy(one)):
        for value in (2.0, 2.0, 3.0):
            _set_global(value)
            learner.learn(batch())
        learner.evaluate(batch())
        learner.learn(batch())
        assert learner.learn._recorded.total() == 1


def test_the_search_does_not_enter_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hold so much that it would take minutes, and caches, which would count as changes by the step."""
    library = ModuleType("torch")
    library.is_tensor, library.cache = lambda x: library.cache.append(x), []
    monkeypatch.setitem(globals(), "library", library)
    step = tg.capture(lambda x: (library.is_tensor(1), x * len(library.cache[:0]), x * 2)[2])
    library.is_tensor.__module__ = "torch.overrides"
    for _ in range(3):
        equal(step(tg.ones(3)).numpy(), np.full(3, 2, np.float32))
    assert len(library.cache) == 2


def test_an_iterator_that_the_step_draws_from_is_refused() -> None:
    batches = (batch(k) for k in range(10))
    held = {"batches": iter([batch(1), batch(2), batch(3)])}

    def endless() -> Iterator[Any]:
        while True:
            yield batch()

    class Source:
        drawn = endless()

    trainer = Source()
    trainer.drawn = endless()
    batches_drawn = cycle([batch(1), batch(2)]).__next__
    several_batches, slots.scale = (endless(), endless()), endless()
    next_of_batches, partial_drawn = partial(next, endless()), partial(endless().__next__)
    sent_batches, pair_drawn = endless().send, Pair(endless())

    def by_default(drawn: Any = endless()) -> Any:  # noqa: B008
        return next(drawn).sum()

    for step in (
        lambda: next(several_batches[1]).sum(),
        lambda: next_of_batches().sum(),
        lambda: partial_drawn().sum(),
        lambda: sent_batches(None).sum(),
        lambda: next(pair_drawn.first).sum(),
        by_default,
        lambda: batches.send(None).sum(),
        lambda: batches_drawn().sum(),
        lambda: next(batches).sum(),
        lambda: next(held["batches"]).sum(),
        lambda: [x.sum() for x in held["batches"]],
        lambda: next(trainer.drawn).sum(),
    ):
        captured = tg.capture(step)
        captured()
        held["batches"] = iter([batch(1), batch(2), batch(3)])
        with pytest.raises(
            tg.CaptureError, match=r"draws from .*(batches|drawn|default).*test_capture_reach\.py.*argument"
        ):
            captured()
        step()
    for step, drawn in (
        (next, endless()),
        (lambda pair: next(pair[0]), (endless(), 1)),
        (lambda s: next(s.scale), slots),
    ):
        captured = tg.capture(step)
        captured(drawn)
        with pytest.raises(
            tg.CaptureError, match=r"draws from (an argument|argument 0\.scale),.* test_capture_reach\.py"
        ):
            captured(drawn)


def test_what_a_weak_proxy_stands_for_is_no_iterator() -> None:
    proxy = weakref.proxy(settings)
    captured = tg.capture(lambda x: x * proxy.scale)
    for _ in range(3):
        equal(captured(tg.ones(3)), tg.ones(3) * settings.scale)


class Loader:
    """An iterator of the user's own, which a step may use for something else."""

    def __init__(self) -> None:
        self.drawn, self.scale = 0, 2.0

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        self.drawn += 1
        return float(self.drawn)


class Holding(Loader):
    def __init__(self) -> None:
        self.source, self.scale = count(1.0), 2.0

    def __next__(self) -> float:
        return next(self.source)


class Mapped(map):  # type: ignore[type-arg]
    """Its draws change no attribute."""


@pytest.mark.parametrize("make", [Loader, Holding])
def test_an_iterator_of_a_class_of_the_users_is_of_use_but_not_drawn_from(make: Any) -> None:
    loader = make()
    for captured, arguments in ((tg.capture(lambda x: x * loader.scale), ()), (tg.capture(_scaled_by), (loader,))):
        for _ in range(3):
            equal(captured(tg.ones(3), *arguments), tg.ones(3) * 2.0)


@pytest.mark.parametrize("make", [Loader, Holding, lambda: Mapped(float, count(1))])
def test_a_draw_from_an_iterator_of_a_class_of_the_users_is_refused(make: Any) -> None:
    loader, held = make(), make()
    draw = held.__next__
    for step, arguments in ((next, (loader,)), (lambda: next(loader), ()), (lambda: draw(), ())):
        captured = tg.capture(lambda *arguments, step=step: tg.ones(1) * step(*arguments))
        captured(*arguments)
        with pytest.raises(tg.CaptureError, match=r"the step (draws from|changes) "):
            captured(*arguments)


@dataclass(frozen=True, slots=True)
class Frozen:
    drawn: Any
    scale: float


def test_an_iterator_in_a_frozen_object_is_of_use_but_not_drawn_from() -> None:
    held = iter([1.0, 2.0, 3.0])
    frozen = Frozen(held, 2.0)
    captured = tg.capture(lambda x: x * (frozen.scale if frozen.drawn else 0.0))
    for _ in range(3):
        equal(captured(tg.ones(3)), tg.ones(3) * 2.0)
    captured = tg.capture(lambda x: x * next(frozen.drawn))
    captured(tg.ones(3))
    with pytest.raises(tg.CaptureError, match=r"the step draws from frozen\.drawn"):
        captured(tg.ones(3))
    assert frozen.drawn is held


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_a_queue_that_the_step_draws_from_is_refused(kind: Any) -> None:
    batches = kind()
    for k in range(3):
        batches.put(float(k))
    captured = tg.capture(lambda: tg.ones(1) * batches.get())
    captured()
    with pytest.raises(tg.CaptureError, match=r"the step changes .*batches\.queue"):
        captured()


RECENT: deque[Any] = deque(maxlen=3)


class Log:
    """Its attributes are out of reach: no code that is reached names them."""

    def __init__(self) -> None:
        self.kept: Any = None

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _keep_globally(loss: Any) -> None:
    global LAST
    LAST = loss


LOG = Log()
KEEPING: list[Any] = [RECENT.append, _keep_globally, lambda loss: LOG.__setitem__("kept", loss)]


@pytest.mark.parametrize("keep", KEEPING)
def test_results_that_are_kept_anywhere_are_refused_and_stay_sound(keep: Any) -> None:
    s = Small()

    def step(x: Any) -> Any:
        loss = s.step(x)
        keep(loss)
        return loss

    captured = tg.capture(step)
    captured(batch())
    before = [p.numpy() for p in s.parameters]
    with pytest.raises(tg.CaptureError, match=r"keeps a result|changes"):
        captured(batch())
    equal(s.parameters, before)
    for kept in (*RECENT, LAST, LOG.kept):
        assert kept is None or np.isfinite(kept.item())


def test_a_bare_result_that_is_kept_out_of_reach_is_refused() -> None:
    kept: SimpleQueue[Any] = SimpleQueue()

    @tg.capture
    def step(x: Any) -> Any:
        kept.put((x + 1).data)
        return x * 2

    step(batch())
    with pytest.raises(tg.CaptureError, match=r"keeps a result, Symbol\(f32\[4,3\]\), in an object"):
        step(batch())


class Statistics:
    """What a user's own code may keep in arrays that no tensor holds."""

    def __init__(self) -> None:
        self.total = np.zeros(3, "f4")
        self.order = np.arange(3)

    def add(self, x: Any) -> None:
        self.total += 1

    def turn(self, x: Any) -> None:
        self.order[:] = np.roll(self.order, 1)  # the same numbers in another order


@pytest.mark.parametrize(("write", "path"), [(Statistics.add, "total"), (Statistics.turn, "order")])
def test_a_bare_array_that_the_step_writes_into_is_refused(write: Any, path: str) -> None:
    kept = Statistics()

    @tg.capture
    def step(x: Any) -> Any:
        write(kept, x)
        return x * 2

    step(tg.ones(3))
    with pytest.raises(tg.CaptureError, match=rf"the step changes kept\.{path}, which a replay would not do"):
        step(tg.ones(3))


def adder() -> Any:
    """A function that counts in an array."""
    kept = np.zeros(1)

    def add(x: Any, by: int) -> Any:
        kept[0] += by
        return x * 2

    return add


def test_arrays_are_told_apart_by_themselves_and_found_wherever_they_are() -> None:
    """Two closures may give two arrays one name, and a default argument or a tuple may hold one."""
    one, other = adder(), adder()
    held = (np.zeros(1),)

    def by_the_first(x: Any) -> Any:
        return other(one(x, 1), 0)

    def by_the_second(x: Any) -> Any:
        return other(one(x, 0), 1)

    def by_default(x: Any, kept: Any = np.zeros(1)) -> Any:  # noqa: B008
        kept += 1
        return x * 2

    def in_a_tuple(x: Any) -> Any:
        held[0][...] += 1
        return x * 2

    for function in (by_the_first, by_the_second, by_default, in_a_tuple):
        captured = tg.capture(function)
        captured(tg.ones(3))
        with pytest.raises(tg.CaptureError, match="which a replay would not do"):
            captured(tg.ones(3))


def test_a_list_of_modules_with_attributes_of_its_own_is_seen_as_a_whole() -> None:
    class Scaled(nn.ModuleList):
        def __init__(self, *layers: Any) -> None:
            super().__init__(layers)
            self.gain, self.scale = 2.0, nn.parameter(1.0)

    layers = Scaled(nn.Linear(2, 2))
    assert [name for name, _ in layers.named_parameters()] == ["0.weight", "0.bias", "scale"]
    captured = tg.capture(lambda x: x * layers.gain)
    for layers.gain in (2.0, 2.0, 2.0, 4.0, 8.0):
        assert captured(tg.ones(1)).item() == layers.gain
