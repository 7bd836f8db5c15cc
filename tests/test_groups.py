"""Groups of parameters: each with settings of its own, under one optimiser, one schedule, one captured step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim

# An optimiser's settings for all, and those of each of its three groups.
SETTINGS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "SGD": ({"lr": 0.05}, [{}, {"momentum": 0.9}, {"lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1}]),
    "Adagrad": ({"lr": 0.1}, [{"weight_decay": 0.1}, {"lr": 0.01}, {"eps": 1e-3}]),
    "RMSprop": ({"momentum": 0.5}, [{"centered": True, "eps": 1e-3}, {"lr": 0.1}, {"momentum": 0.0}]),
    "Adam": ({"lr": 0.02}, [{"betas": (0.5, 0.9)}, {"amsgrad": True}, {"lr": 0.1, "weight_decay": 0.1}]),
    "AdamW": ({"weight_decay": 0.1}, [{"weight_decay": 0.0}, {"lr": 0.01, "amsgrad": True}, {}]),
}


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in ((3, 2), (4,), (2,), (5, 1))]


def leaves() -> list[Tensor]:
    return [tg.tensor(x, requires_grad=True) for x in start()]


def grouped(name: str, parameters: list[Any], module: Any = optim) -> Any:
    shared, own = SETTINGS[name]
    parts = [parameters[:1], parameters[1:2], parameters[2:]]
    groups = [{"params": part, **settings} for part, settings in zip(parts, own, strict=True)]
    return getattr(module, name)(groups, **shared)


def descend(opt: Any, parameters: list[Any], steps: range, schedule: Any = None) -> None:
    for step in steps:
        opt.zero_grad()
        sum((p * p).sum() * 0.5 + (p + 0.1 * step).sin().sum() for p in parameters).backward()
        opt.step()
        if schedule is not None:
            schedule.step()


def values(parameters: list[Tensor]) -> list[np.ndarray]:
    return [p.numpy() for p in parameters]


@pytest.mark.parametrize("name", SETTINGS)
def test_groups_and_their_schedule_equal_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = leaves(), [torch.tensor(x, requires_grad=True) for x in start()]
    opt, their_opt = grouped(name, ours), grouped(name, theirs, torch.optim)
    schedule = optim.CosineAnnealingLR(opt, T_max=30, eta_min=0.01)
    their_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(their_opt, T_max=30, eta_min=0.01)
    descend(opt, ours, range(40), schedule)
    descend(their_opt, theirs, range(40), their_schedule)
    assert schedule.lrs == pytest.approx([group["lr"] for group in their_opt.param_groups], rel=1e-9)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-9, atol=1e-12)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "step": lambda opt: optim.StepLR(opt, 2, gamma=0.5),
    "linear": lambda opt: optim.LinearLR(opt, total_iters=4),
    "plateau": lambda opt: optim.ReduceLROnPlateau(opt, patience=1, factor=0.5, min_lr=0.02),
    "sequence": lambda opt: optim.SequentialLR(opt, [optim.LinearLR(opt), optim.ExponentialLR(opt, 0.9)], [3]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_does_to_each_group_what_it_does_to_it_alone(name: str) -> None:
    a, b = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    together = SCHEDULES[name](optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.4}], lr=0.1))
    apart = [SCHEDULES[name](optim.SGD([p], lr=lr)) for p, lr in ((a, 0.1), (b, 0.4))]
    for _ in range(8):
        assert together.lrs == [schedule.lrs[0] for schedule in apart]
        for schedule in (together, *apart):
            schedule.step(1.0)
    saved = copy.deepcopy(together.state_dict())
    resumed = SCHEDULES[name](optim.SGD([{"params": [a]}, {"params": [b], "lr": 7.0}], lr=3.0))
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == saved
    with pytest.raises(ValueError, match="2 groups, not of 1"):
        apart[0].load_state_dict(saved)


@pytest.mark.parametrize("name", SETTINGS)
def test_going_on_from_a_state_is_exact(name: str, tmp_path: Any) -> None:
    parameters = leaves()
    opt = grouped(name, parameters)
    descend(opt, parameters, range(5))
    opt.groups[1].lr = 0.07
    tg.save(tmp_path / "state.safetensors", opt.state_dict())
    copies = [tg.tensor(p, requires_grad=True) for p in parameters]
    descend(opt, parameters, range(5, 10))
    again = grouped(name, copies)
    again.load_state_dict(tg.load(tmp_path / "state.safetensors"))
    descend(again, copies, range(5, 10))
    np.testing.assert_equal(values(copies), values(parameters))


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    parameters = leaves()
    opt = grouped("Adam", parameters)
    descend(opt, parameters, range(2))
    before = opt.state_dict()
    wrong_shape, wrong_count = copy.deepcopy(before), copy.deepcopy(before)
    wrong_shape["groups"][2]["slots"][0]["mean"] = np.ones(7)
    del wrong_count["groups"][0]
    plain = optim.Adam(leaves()).state_dict()
    for wrong in (wrong_shape, wrong_count, plain):
        with pytest.raises(ValueError, match=r"Adam: |Groups: the state is of \d groups, not of 3"):
            opt.load_state_dict(wrong)
    np.testing.assert_equal(opt.state_dict(), before)


def test_optimisers_of_several_kinds_are_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first, last = model.layers
    still, moving = optim.SGD(first.parameters(), lr=0.0), optim.Adam(last.parameters(), lr=0.1)
    opt = optim.Groups(still, moving)
    assert opt.groups == [still, moving]
    assert opt.parameters == list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    model(np.ones((1, 2), np.float32)).sum().backward()
    opt.step()
    assert {name for name, a in model.state_dict().items() if (a != before[name]).any()} == {
        "layers.1.weight",
        "layers.1.bias",
    }
    opt.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_settings_for_all_may_be_given_by_place() -> None:
    a, b = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    opt = optim.SGD([{"params": iter([a]), "lr": 0.5}, {"params": [b]}], 0.1, 0.9)
    assert [(group.lr, group.momentum) for group in opt.groups] == [(0.5, 0.9), (0.1, 0.9)]
    graves = optim.GravesRMSprop([{"params": [a], "eps": 0.5}, {"params": [b]}])
    assert [(group.eps, group.centered) for group in graves.groups] == [(0.5, True), (1e-4, True)]


def test_what_cannot_be_a_group_is_refused() -> None:
    a, b = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match='SGD: each group must be a dictionary that holds "params"'):
        optim.SGD([{"params": [a]}, b], lr=0.1)
    with pytest.raises(ValueError, match='holds "params"'):
        optim.SGD([{"parameters": [a]}], lr=0.1)
    with pytest.raises(TypeError, match="momentun"):
        optim.SGD([{"params": [a], "momentun": 0.9}], lr=0.1)
    with pytest.raises(ValueError, match="SGD: there are no parameters"):
        optim.SGD([{"params": []}], lr=0.1)
    with pytest.raises(ValueError, match="SGD: lr must not be negative"):
        optim.SGD([{"params": [a], "lr": -1.0}], lr=0.1)
    with pytest.raises(ValueError, match="Groups: a parameter was given twice"):
        optim.SGD([{"params": [a, b]}, {"params": [a]}], lr=0.1)
    with pytest.raises(ValueError, match="at least one"):
        optim.Groups()


def test_a_setting_of_all_groups_at_once_is_refused_and_not_ignored() -> None:
    opt = grouped("Adam", leaves())
    with pytest.raises(AttributeError, match=r"each has its own, such as opt\.groups\[0\]\.lr"):
        opt.lr = 0.1
    with pytest.raises(AttributeError, match=r"opt\.groups\[0\]\.weight_decay"):
        _ = opt.weight_decay
    assert [group.lr for group in copy.deepcopy(opt).groups] == [0.02, 0.02, 0.1]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_captured_step_of_groups_equals_the_eager_one(name: str) -> None:
    def make() -> tuple[Callable[[Tensor], Tensor], list[Tensor], Any]:
        parameters = [tg.tensor(x, dtype="float32", requires_grad=True) for x in start()]
        opt = grouped(name, parameters)

        def step(shift: Tensor) -> Tensor:
            opt.zero_grad()
            loss = sum((p * p).sum() * 0.5 + (p + shift).sin().sum() for p in parameters)
            loss.backward()
            opt.step()
            return loss.detach()

        return step, parameters, optim.ExponentialLR(opt, 0.9)

    (eager, a, schedule), (step, b, other) = make(), make()
    replayed = tg.capture(step, exact=True)
    for k in range(12):
        shift = tg.tensor(0.1 * k)
        assert replayed(shift).item() == eager(shift).item()
        np.testing.assert_equal(values(b), values(a))
        schedule.step()
        other.step()
    assert replayed.replay.program
