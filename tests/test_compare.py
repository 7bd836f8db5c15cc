"""compare_backends: two backends that agree, and stand-ins with one kernel, one rule or one path that is wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import CheckError, backend, bptt, compare_backends, nn, optim
from tinygrad_rnn.compare import Comparison, Difference

T, B, H = 7, 3, 5


class Model(nn.Module):
    """A character model with dropout, in float32."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(11, H)
        self.cell = nn.LSTMCell(H, H)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(H, 11)
        self.calls = 0

    def forward(self, symbols: Any) -> Any:
        self.calls += 1
        return self.head(self.dropout(bptt.unroll(self.cell, self.embedding(symbols)).outputs))


class Trained:
    """A model that was trained for two steps, so that there are gradients and buffers."""

    def __init__(self) -> None:
        self.model = Model()
        self.optimizer = optim.Adam(self.model.parameters())
        text = np.random.default_rng(0).integers(0, 11, (T + 1, B))
        self.inputs, self.targets = text[:-1], tg.tensor(text[1:])
        for _ in range(2):
            self.step(self.inputs)

    def step(self, inputs: Any) -> Any:
        self.optimizer.zero_grad()
        loss = nn.cross_entropy(self.model(inputs), self.targets)
        loss.backward()
        tg.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        return loss, {"steps": self.model.calls}

    def state(self) -> list[Any]:
        """Everything that a step may change: objects themselves, and their numbers."""
        tensors = [*self.model.parameters(), self.targets]
        slots = [value for slot in self.optimizer.slots for value in slot.values()]
        arrays = [t.array for t in tensors] + [p.grad.array for p in self.model.parameters()]
        ids = [*map(id, (*tensors, *arrays, *(t.node for t in tensors), *self.optimizer.slots, *slots))]
        numbers = [np.array(x).tolist() for x in (*arrays, *slots)]
        return [ids, numbers, self.model.calls, list(vars(self.model)), tg.backend.host.random_state()]


def test_a_training_step_agrees_and_leaves_nothing_behind(strict_device: str) -> None:
    trained = Trained()
    before = trained.state()
    report = compare_backends(trained.step, trained.inputs, backends=("numpy", strict_device))
    assert trained.state() == before
    report.check()
    assert report.first is None
    assert {"linear", "sigmoid", "tanh", "cross_entropy", "embedding backward to weight"} <= report.largest.keys()
    assert {"returned.0", "returned.1.steps", "optimizer.parameters[2] afterwards"} <= report.largest.keys()
    assert "optimizer.parameters[2].grad afterwards" in report.largest
    assert "optimizer.slots[0]['mean'] afterwards" in report.largest
    assert sum(d.what == "tanh" for d in report) == 2 * T
    assert max(d.ulp for d in report) < 200
    assert repr(report).startswith(f"numpy and strict: {len(report)} results, none diverges\n")
    assert tg.zeros(1).backend == "numpy"
    assert "uniform" not in vars(backend.get(strict_device))


def test_slots_that_a_first_step_makes_are_dropped_again(strict_device: str) -> None:
    layer = nn.Linear(2, 2)
    optimizer = optim.RMSprop(layer.parameters())
    captured: list[Any] = []

    def step(x: Any) -> None:
        layer(x).sum().backward()
        optimizer.step()
        captured.append(x)

    compare_backends(step, tg.ones(3, 2), backends=("numpy", strict_device)).check()
    assert optimizer.slots == [{}, {}]
    assert captured == []
    assert layer.weight.grad is None


def test_a_wrong_kernel_is_named_with_its_step(strict_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained()
    xp = backend.get(strict_device).xp
    tanh, calls = xp.tanh, []

    def wrong(x: Any, out: Any = None) -> Any:
        calls.append(x)
        return tanh(x * 1.01 if len(calls) == 3 * 2 + 1 else x, out=out)

    monkeypatch.setattr(xp, "tanh", wrong)  # two calls a step, and none for sigmoids
    report = compare_backends(trained.step, trained.inputs, backends=("numpy", strict_device))
    assert (report.first.what, report.first.step) == ("tanh", 3)
    assert 1e-3 < report.first.relative < 0.011
    with pytest.raises(CheckError, match=r"numpy and strict diverge, first at tanh, time step 3, cells.py:\d+"):
        report.check()
    report.check(tolerance=1e9)


def test_a_wrong_rule_is_named(strict_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_one_wins(target: Any, rows: Any, values: Any) -> None:
        target[rows] = values

    monkeypatch.setattr(backend.get(strict_device), "add_rows", last_one_wins)
    trained = Trained()
    report = compare_backends(trained.step, trained.inputs, backends=("numpy", strict_device))
    assert report.first.what == "embedding backward to weight"


def test_arrays_in_closures_and_generators_are_moved(strict_device: str) -> None:
    weight, generator, seen = np.ones(3), np.random.default_rng(0), []

    def f(x: Any, scale: float) -> Any:
        seen.append(backend.of(weight).name)
        return [x * weight, scale, generator.random()]

    report = compare_backends(f, np.arange(3.0), 2.0, backends=("numpy", strict_device))
    report.check()
    assert [d.what for d in report] == ["returned.0", "returned.1", "returned.2"]
    assert seen == []  # a list is put back too
    assert type(weight) is np.ndarray
    assert generator.random() == np.random.default_rng(0).random()


class Counts:
    """An object of the user's, with attributes that a step makes and changes."""

    def __init__(self) -> None:
        self.steps, self.weight = 0, np.ones(3)

    def step(self, x: Any) -> Any:
        self.steps += 1
        self.latest = x
        return x * self.weight


def test_objects_and_other_generators_are_put_back(strict_device: str) -> None:
    counts, weight = Counts(), np.ones(3)
    counts.weight = weight
    compare_backends(counts.step, np.arange(3.0), backends=("numpy", strict_device)).check()
    assert counts.weight is weight
    assert vars(counts) == {"steps": 0, "weight": weight}
    pythons, numpys = random.Random(0), np.random.RandomState(0)
    compare_backends(lambda: [pythons.random(), numpys.rand()], backends=("numpy", strict_device)).check()
    assert [pythons.random(), numpys.rand()] == [random.Random(0).random(), np.random.RandomState(0).rand()]


def test_all_is_put_back_after_an_error(strict_device: str) -> None:
    trained = Trained()
    before = trained.state()

    def fails(x: Any) -> None:
        trained.step(x)
        if x.__class__ is not np.ndarray:
            raise ZeroDivisionError("on the device")

    with pytest.raises(ZeroDivisionError):
        compare_backends(fails, trained.inputs, backends=("numpy", strict_device))
    assert trained.state() == before


def test_runs_that_do_different_things(strict_device: str) -> None:
    def f(x: Any) -> Any:
        return tg.exp(x) if x.backend == "numpy" else tg.log(x)

    with pytest.raises(CheckError, match=r"part at result 0 of 3 and 3: numpy does exp, f32\[2\], .*, strict does log"):
        compare_backends(f, tg.ones(2), backends=("numpy", strict_device))
    with pytest.raises(CheckError, match=r"part at result 0 of 1 and 3: numpy does args.*, strict does add"):
        compare_backends(lambda x: None if x.backend == "numpy" else x + 1, tg.ones(2), backends=("numpy", "strict"))
    w = tg.ones(2, requires_grad=True)

    def only_on_the_host() -> None:
        w.grad = tg.ones(2) if w.backend == "numpy" else None

    with pytest.raises(CheckError, match=r"part at result 1 of 2 and 1: numpy does w.grad afterwards.*strict nothing"):
        compare_backends(only_on_the_host, backends=("numpy", strict_device))
    with pytest.raises(CheckError, match=r"part at result 1 of 1 and 2: strict nothing, numpy does w.grad afterwards"):
        compare_backends(only_on_the_host, backends=(strict_device, "numpy"))


@dataclass(frozen=True, slots=True)
class Settings:
    """An object that refuses assignments."""

    factor: float = 2.0


def test_a_frozen_object_is_left_alone(strict_device: str) -> None:
    settings = Settings()
    compare_backends(lambda x: x * settings.factor, tg.ones(2), backends=("numpy", strict_device)).check()


def test_a_list_may_hold_itself(strict_device: str) -> None:
    ring: list[Any] = [1.0]
    ring.append(ring)
    compare_backends(lambda x: x * ring[0], tg.ones(2), backends=("numpy", strict_device)).check()
    assert ring[1] is ring


def test_a_gradient_from_before_is_moved_too(strict_device: str) -> None:
    w: Any = tg.ones(2, requires_grad=True)
    (w * 3).sum().backward()
    report = compare_backends(lambda: w.grad * 2, backends=("numpy", strict_device))
    report.check()
    assert report[0].what == "multiply"
    assert w.grad.backend == "numpy"


def test_what_it_refuses() -> None:
    x = tg.ones(2, requires_grad=True) * 2
    with pytest.raises(TypeError, match=r"compare_backends: x has a history; use its detach\(\)"):
        compare_backends(lambda: x + 1, backends=("numpy", "numpy"))
    with pytest.raises(tg.BackendError, match="there is no backend 'jax'"):
        compare_backends(lambda: 1, backends=("numpy", "jax"))


def measured(*pairs: Any, tolerance: float | None = None) -> Comparison:
    """What is said of results that two runs return in turn, in float32 if they are lists of floats."""
    runs = iter([[tg.tensor(x) for x in pairs[k::2]] for k in range(2)])
    return compare_backends(lambda: next(runs), backends=("numpy", "numpy"), tolerance=tolerance)


def outcome(a: Any, b: Any, tolerance: float | None = None) -> Difference:
    return measured(a, b, tolerance=tolerance)[0]


def test_differences_are_measured() -> None:
    eps = float(np.finfo(np.float32).eps)
    near = outcome([1.0, -4.0], [1.0 + 8 * eps, -4.0])
    assert (near.absolute, near.relative, near.ulp) == (8 * eps, 2 * eps, 2.0)
    assert not near.diverges
    assert outcome([1.0], [1.001]).diverges
    assert not outcome([1.0], [1.001], tolerance=0.01).diverges
    assert outcome(np.ones(1), np.ones(1) + 1e-7).diverges  # float64 has more digits
    assert not measured([1.0], [1.0], np.ones(1), np.ones(1) + 1e-7)[1].diverges  # unless it comes after float32
    assert outcome([1, 2], [1, 3]).diverges
    assert outcome([0.0], [1e-30]).relative == float("inf")
    assert outcome([np.nan, np.inf, 0.0], [np.nan, np.inf, 0.0]) == outcome([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert outcome([np.nan], [0.0]).diverges
    other = outcome([1.0], np.ones(1))
    assert other.diverges
    assert other.what == "returned.0 (f32[1], f64[1])"


def test_the_largest_difference_of_each_operation() -> None:
    rows = [Difference("tanh", t, f", time step {t}", d, d, d, 1.0) for t, d in enumerate((0.1, 0.5, 0.2, np.nan))]
    report = Comparison(("a", "b"), rows[:3])
    assert report.largest == {"tanh": rows[1]}
    assert repr(report).splitlines()[2].split() == ["tanh", "3", "0.5", "0.5", "0.5,", "time", "step", "1"]
    assert repr(report).splitlines()[3] == "0 kinds of results are equal to the last bit"


@pytest.mark.gpu
def test_a_training_step_agrees_on_a_gpu() -> None:
    trained = Trained()
    report = compare_backends(trained.step, trained.inputs)
    report.check()
    print(report)


def test_what_a_frozen_parameter_keeps_is_left_alone(strict_device: str) -> None:
    model = nn.Linear(3, 1)
    model(tg.ones(2, 3)).sum().backward()
    model.bias.requires_grad = False

    def step(x: Any) -> Any:
        model.zero_grad()
        return model(x)

    compare_backends(step, tg.ones(2, 3), backends=("numpy", strict_device)).check()
    model.bias.requires_grad = True
    assert model.bias.grad.tolist() == [2]
