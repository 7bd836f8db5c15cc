"""Optimisers with settings drawn at random, Graves' RMSprop against its equations, saving in the middle, and what is
refused and what is left alone. test_parity.py has a hundred steps of each against PyTorch.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, nn, optim

RATES = st.sampled_from([0.0, 1e-3, 0.05, 0.3])
SHARES = st.sampled_from([0.0, 0.3, 0.9])
EPS = st.sampled_from([1e-8, 1e-3, 0.5])
DECAYS = st.sampled_from([0.0, 0.01, 0.2])

SETTINGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "SGD": {"momentum": SHARES, "nesterov": st.booleans(), "dampening": SHARES},
    "Adagrad": {"eps": EPS},
    "RMSprop": {"alpha": st.sampled_from([0.5, 0.95]), "eps": EPS, "momentum": SHARES, "centered": st.booleans()},
    # Without a mean of squares (0 as the second) a step is nearly the sign of the gradient, and jumps where that is 0.
    "Adam": {"betas": st.tuples(SHARES, st.sampled_from([0.3, 0.9])), "eps": EPS, "amsgrad": st.booleans()},
    "AdamW": {"betas": st.tuples(SHARES, st.sampled_from([0.3, 0.9])), "eps": EPS},
}


def landscape(p: Any, step: int) -> Any:
    """A function to minimise, in either engine: convex, so that rounding does not grow, and another one each step."""
    return (p * p).sum() * 0.5 + (p + 0.1 * step).sin().sum() * 0.3


def run(optimizer: Any, p: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        landscape(p, step).backward()
        optimizer.step()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_hundred_steps_with_any_settings_equal_pytorch(name: str) -> None:
    """Both get the same gradients, so that a difference of rounding does not lead them to another place."""
    torch = pytest.importorskip("torch")

    @settings(deadline=None, max_examples=20)
    @given(lr=RATES, weight_decay=DECAYS, options=st.fixed_dictionaries(SETTINGS[name]), seed=st.integers(0, 99))
    def check(lr: float, weight_decay: float, options: dict[str, Any], seed: int) -> None:
        assume(not options.get("nesterov") or (options["momentum"] > 0 and not options["dampening"]))
        start, *gradients = np.random.default_rng(seed).standard_normal((101, 3, 2))
        p, q = tg.tensor(start, requires_grad=True), torch.tensor(start, requires_grad=True)
        ours = getattr(optim, name)([p], lr=lr, weight_decay=weight_decay, **options)
        theirs = getattr(torch.optim, name)([q], lr=lr, weight_decay=weight_decay, **options)
        for g in gradients:
            p.grad, q.grad = tg.tensor(g), torch.tensor(g)
            ours.step()
            theirs.step()
        expected = q.detach().numpy()
        np.testing.assert_allclose(p.data, expected, rtol=0, atol=1e-10 * max(1.0, abs(expected).max()))

    check()


def test_graves_rmsprop_follows_its_equations() -> None:
    """The equations of Graves 2013, with the names that they have there."""
    p = tg.tensor(np.array([0.5, -2.0, 3.0]), requires_grad=True)
    opt = optim.GravesRMSprop([p])
    w, n, g, delta = p.numpy(), np.zeros(3), np.zeros(3), np.zeros(3)
    aleph, beth, gimel, daleth = 0.95, 0.9, 0.0001, 0.0001
    for step in range(100):
        epsilon = w + 0.3 * np.cos(w + 0.1 * step)  # the derivative of the landscape
        n = aleph * n + (1 - aleph) * epsilon**2
        g = aleph * g + (1 - aleph) * epsilon
        delta = beth * delta - gimel * epsilon / np.sqrt(n - g**2 + daleth)
        w = w + delta
        run(opt, p, range(step, step + 1))
    np.testing.assert_allclose(p.data, w, rtol=1e-12)


def test_graves_rmsprop_divides_by_no_less_than_the_root_of_eps() -> None:
    """Constant gradients have no variance, and rounding may leave less than none."""
    p = tg.tensor(np.linspace(0.1, 3, 50), dtype="float32", requires_grad=True)
    opt = optim.GravesRMSprop([p], lr=1e-4, momentum=0.0)
    gradient = p.numpy()
    for _ in range(400):
        before = p.numpy()
        p.grad = tg.tensor(gradient)
        opt.step()
    taken = (before - p.data) / (1e-4 * gradient / 1e-2)
    assert (taken < 1.001).all()
    assert (taken > 0.8).all()


MAKERS: dict[str, Any] = {
    "SGD": lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9, dampening=0.5),
    "Adagrad": lambda ps: optim.Adagrad(ps, lr=0.1),
    "RMSprop": lambda ps: optim.RMSprop(ps, lr=0.1, centered=True, momentum=0.5),
    "GravesRMSprop": lambda ps: optim.GravesRMSprop(ps, lr=0.01),
    "Adam": lambda ps: optim.Adam(ps, lr=0.1),
    "AdamW": lambda ps: optim.AdamW(ps, lr=0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    """Optimiser, schedule and parameters, saved after 20 of 50 steps, bit for bit."""
    pytest.importorskip("safetensors")

    def start() -> tuple[Tensor, Any, Any]:
        p = tg.tensor(np.random.default_rng(0).standard_normal((3, 2)), dtype="float32", requires_grad=True)
        opt = MAKERS[name]([p])
        return p, opt, optim.SequentialLR(opt, [optim.LinearLR(opt), optim.CosineAnnealingLR(opt, T_max=30)], [5])

    def train(p: Tensor, opt: Any, schedule: Any, steps: range) -> None:
        for step in steps:
            run(opt, p, range(step, step + 1))
            schedule.step()

    p, opt, schedule = start()
    train(p, opt, schedule, range(20))
    saved = {"p": p, "optimizer": opt.state_dict(), "schedule": schedule.state_dict()}
    tg.save(tmp_path / "checkpoint.safetensors", saved)
    train(p, opt, schedule, range(20, 50))

    loaded = tg.load(tmp_path / "checkpoint.safetensors")
    q, again, resumed = start()
    q.data = loaded["p"]
    again.load_state_dict(loaded["optimizer"])
    resumed.load_state_dict(loaded["schedule"])
    train(q, again, resumed, range(20, 50))
    np.testing.assert_array_equal(q.data, p.data, strict=True)
    assert again.lr == opt.lr
    np.testing.assert_equal(again.state_dict(), opt.state_dict())
    np.testing.assert_equal(resumed.state_dict(), schedule.state_dict())


@pytest.mark.parametrize("name", MAKERS)
def test_settings_may_be_numpy_numbers(name: str) -> None:
    """As a search over settings gives them: float32 parameters stay float32, and get the same steps."""
    found = []
    for number in (float, np.float64):
        p = tg.tensor([1.0, -2.0], requires_grad=True)
        options: dict[str, Any] = {"lr": number(0.1), "weight_decay": number(0.01)}
        options |= {"SGD": {"momentum": number(0.9)}, "Adagrad": {"eps": number(1e-3)}}.get(name, {})
        if "RMSprop" in name:
            options |= {"alpha": number(0.9), "eps": number(1e-3), "momentum": number(0.5)}
        if "Adam" in name:
            options |= {"betas": (number(0.8), number(0.9)), "eps": number(1e-3)}
        optimizer = getattr(optim, name)([p], **options)
        run(optimizer, p, range(5))
        for setting in options.keys() - {"betas"}:
            setattr(optimizer, setting, number(0.1))
        run(optimizer, p, range(2))
        found.append(p.data)
    np.testing.assert_array_equal(*found, strict=True)


@pytest.mark.parametrize("name", MAKERS)
def test_float32_follows_float64(name: str) -> None:
    start, found = np.random.default_rng(0).standard_normal(20), []
    for dtype in ("float64", "float32"):
        p = tg.tensor(start, dtype=dtype, requires_grad=True)
        run(MAKERS[name]([p]), p, range(30))
        found.append(p.data)
    np.testing.assert_allclose(found[1], found[0], atol=2e-3)


def test_two_optimisers_are_two_groups_of_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    slow, fast = (optim.SGD(layer.parameters(), lr=lr) for layer, lr in zip(model.layers, (0.0, 0.1), strict=True))
    before = copy.deepcopy(model.state_dict())
    model(np.ones((1, 2), np.float32)).sum().backward()
    slow.step()
    fast.step()
    changed = {name for name, array in model.state_dict().items() if (array != before[name]).any()}
    assert changed == {"layers.1.weight", "layers.1.bias"}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (optim.SGD, {"lr": 0.1, "momentum": -0.5}),
        (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "nesterov": True}),
        (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": float("nan")}),
        (optim.Adagrad, {"eps": -1e-8}),
        (optim.RMSprop, {"alpha": -0.1}),
        (optim.RMSprop, {"momentum": float("nan")}),
        (optim.GravesRMSprop, {"eps": -1.0}),
        (optim.Adam, {"betas": (0.9, 1.0)}),
        (optim.Adam, {"betas": (-0.1, 0.9)}),
        (optim.AdamW, {"eps": float("nan")}),
        (optim.Adam, {"betas": (0.9, "a")}),
        (optim.Adam, {"betas": 0.9}),
        (optim.SGD, {"lr": "a"}),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{make.__name__}: "):
        make([tg.ones(2, requires_grad=True)], **options)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, (-1.0, math.nan, "a", None, [1.0])) for name in ("lr", "eps", "weight_decay")),
        ("betas", ((0.9, 1.0), [0.9, -0.1], np.array([math.nan, 0.9]), (0.9,), 0.9, "a", None, [1.0])),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_later_too(name: str, values: tuple[Any, ...]) -> None:
    opt = optim.Adam([tg.ones(2, requires_grad=True)])
    before = opt.state_dict()
    for wrong in values:
        with pytest.raises((ValueError, TypeError), match=f"Adam: {name} "):
            setattr(opt, name, wrong)
    for wrong in values:
        state = copy.deepcopy(before) | {"slots": [{"step": 7}]}
        state["settings"][name] = wrong
        if name == "lr":
            state["lr"] = wrong
        with pytest.raises((ValueError, TypeError), match=f"Adam: {name} "):
            opt.load_state_dict(state)
    assert opt.state_dict() == before


# ---- what is refused, and what is left alone ----

OPTIMIZERS = [
    lambda ps: optim.SGD(ps, lr=0.1),
    lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    lambda ps: optim.Adagrad(ps, lr=0.1),
    lambda ps: optim.RMSprop(ps, lr=0.1, momentum=0.9, centered=True, eps=1e-3),
    lambda ps: optim.Adam(ps, lr=0.1),
    lambda ps: optim.AdamW(ps, lr=0.1),
]
KINDS = ["SGD", "Nesterov", "Adagrad", "RMSprop", "Adam", "AdamW"]


def leaves() -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [tg.tensor(rng.standard_normal(shape), dtype="float32", requires_grad=True) for shape in ((3, 2), (4,), ())]


def descend(opt: Any, parameters: list[Tensor], steps: int) -> None:
    for _ in range(steps):
        opt.zero_grad()
        total = tg.tensor(0.0)
        for p in parameters:
            total = total + (p * p + p.sin()).sum()
        total.backward()
        opt.step()


def test_reprs_show_the_settings() -> None:
    p, q = tg.ones(2, requires_grad=True), tg.ones(3, requires_grad=True)
    opt = optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=0.1, momentum=0.9)
    opt.groups[0].lr = 0.01
    rest = "momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False"
    assert repr(opt) == f"Groups(SGD(lr=0.01, {rest}), SGD(lr=0.5, {rest}))"


def test_optimisers_refuse_what_they_cannot_hold() -> None:
    p = tg.ones(2, requires_grad=True)
    generator = (q for q in [p])
    list(generator)
    for parameters in ([], generator):
        with pytest.raises(ValueError, match="no parameters"):
            optim.SGD(parameters, lr=0.1)
    with pytest.raises(ValueError, match="given twice"):
        optim.Adam([p, p])
    for wrong in (tg.ones(2), p * 2, np.ones(2), "weight"):
        with pytest.raises(TypeError, match="leaf tensors that require a gradient"):
            optim.SGD([p, wrong], lr=0.1)
    with pytest.raises(TypeError, match=r"as model\.parameters\(\) gives them, not Linear\(2, 3\)"):
        optim.SGD(nn.Linear(2, 3), lr=0.1)
    for options in (
        {"lr": -0.1},
        {"lr": math.nan},
        {"lr": 0.1, "weight_decay": -1.0},
        {"lr": 0.1, "nesterov": True},
    ):
        with pytest.raises(ValueError, match="SGD"):
            optim.SGD([p], **options)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=KINDS)
def test_a_step_gives_new_arrays_of_the_same_dtype(make: Any) -> None:
    parameters = leaves()
    before = [p.data for p in parameters]
    values = [a.copy() for a in before]
    descend(make(parameters), parameters, 2)
    for p, array, value in zip(parameters, before, values, strict=True):
        assert p.data is not array
        assert isinstance(p.data, np.ndarray)
        assert p.dtype == np.float32
        assert (p.data != value).any()
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=KINDS)
def test_a_learning_rate_may_be_a_numpy_number(make: Any) -> None:
    """As ``np.cos`` in a schedule gives them: float32 parameters must stay float32."""
    for rate in (np.float64(0.05), np.float32(0.05), np.array(0.05)):
        a, b = leaves(), leaves()
        ours, theirs = make(a), make(b)
        ours.lr, theirs.lr = rate, float(rate)
        descend(ours, a, 3)
        descend(theirs, b, 3)
        for p, q in zip(a, b, strict=True):
            np.testing.assert_array_equal(p.data, q.data, strict=True)


def test_other_settings_may_be_arrays_of_one_number() -> None:
    adam, sgd = optim.Adam(leaves(), eps=np.array(1e-6)), optim.SGD(leaves(), 0.1)
    sgd.momentum = np.array(0.5)
    assert (type(adam.eps), adam.eps, type(sgd.momentum), sgd.momentum) == (float, 1e-6, float, 0.5)


def test_betas_may_be_numpy_numbers_also_when_they_are_assigned() -> None:
    for betas in ((np.float64(0.5), np.float64(0.75)), np.array([0.5, 0.75]), [0.5, np.float32(0.75)]):
        a, b = leaves(), leaves()
        ours, theirs = optim.Adam(a), optim.Adam(b, betas=(0.5, 0.75))
        ours.betas = betas
        assert repr(ours) == repr(theirs)
        descend(ours, a, 3)
        descend(theirs, b, 3)
        for p, q in zip(a, b, strict=True):
            np.testing.assert_array_equal(p.data, q.data, strict=True)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=KINDS)
def test_a_parameter_without_gradient_is_left_alone(make: Any) -> None:
    p, q = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    opt = make([p, q])
    for _ in range(3):
        opt.zero_grad()
        p.sum().backward()
        opt.step()
    assert q.tolist() == [1, 1]
    assert p.tolist() != [1, 1]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=KINDS)
def test_a_parameter_may_be_frozen_later(make: Any) -> None:
    p, q = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    opt = make([p, q])
    descend(opt, [p, q], 1)
    q.requires_grad = False
    frozen = q.numpy()
    descend(opt, [p, q], 2)
    np.testing.assert_array_equal(q.data, frozen)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=KINDS)
def test_continuing_from_a_state_dict_is_exact(make: Any) -> None:
    parameters = leaves()
    opt = make(parameters)
    descend(opt, parameters, 3)
    opt.lr = 0.07
    saved, copies = opt.state_dict(), [tg.tensor(p, requires_grad=True) for p in parameters]
    descend(opt, parameters, 3)

    other = make(copies)
    other.load_state_dict(copy.deepcopy(saved))
    descend(other, copies, 3)
    for p, q in zip(parameters, copies, strict=True):
        np.testing.assert_array_equal(p.data, q.data, strict=True)

    third = [tg.tensor(p, requires_grad=True) for p in leaves()]
    again = make(third)
    again.load_state_dict(saved)  # the same dictionary: the steps since must not have written into it
    for a, b in zip(again.state_dict()["slots"], saved["slots"], strict=True):
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_brings_its_settings(name: str) -> None:
    """As in PyTorch: an optimiser made with the usual settings goes on as the one that was saved."""
    p = tg.tensor(np.ones((3, 2)), requires_grad=True)
    opt = MAKERS[name]([p])
    run(opt, p, range(3))
    q = tg.tensor(p, requires_grad=True)
    other = type(opt)([q], lr=7.0)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert other.settings == opt.settings
    run(opt, p, range(3, 9))
    run(other, q, range(3, 9))
    np.testing.assert_array_equal(q.data, p.data, strict=True)


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    parameters = leaves()
    opt, sgd = optim.Adam(parameters), optim.SGD(parameters, lr=7.0, momentum=0.9)
    descend(opt, parameters, 2)
    descend(sgd, parameters, 2)
    before = opt.state_dict()
    decoupled = optim.AdamW(parameters)  # all of whose settings have the same names
    for wrong in (sgd.state_dict(), decoupled.state_dict(), {"state": {}, "param_groups": []}, {}):
        with pytest.raises(KeyError, match=r"Adam: the state holds .* another kind"):
            opt.load_state_dict(wrong)
    np.testing.assert_equal(opt.state_dict(), before)


def test_a_state_of_other_parameters_is_refused_and_changes_nothing() -> None:
    parameters = leaves()
    opt = optim.Adam(parameters)
    descend(opt, parameters, 2)
    before = opt.state_dict()
    wrong_count, wrong_shape = copy.deepcopy(before), copy.deepcopy(before)
    del wrong_count["slots"][0]
    wrong_shape["slots"][1]["mean"] = np.ones(5)
    wrong_shape["lr"] = 7.0
    for wrong, error in ((wrong_count, ValueError), (wrong_shape, ShapeError)):
        with pytest.raises(error, match="Adam"):
            opt.load_state_dict(wrong)
    np.testing.assert_equal(opt.state_dict(), before)


def test_centered_rmsprop_survives_constant_gradients() -> None:
    """Then the mean square and the squared mean are equal up to rounding, and their difference may fall below 0."""
    p = tg.tensor(np.linspace(0.1, 3, 50), dtype="float32", requires_grad=True)
    opt = optim.RMSprop([p], lr=1e-3, alpha=0.9, centered=True)
    gradient = p.numpy()
    for _ in range(300):
        p.grad = tg.tensor(gradient)
        opt.step()
    assert np.isfinite(p.data).all()


def test_averages_take_the_dtype_of_a_model_that_was_moved() -> None:
    layer = nn.Linear(2, 2)
    for kind in (optim.Adam, optim.RMSprop, optim.Adagrad):
        opt = kind(layer.parameters())
        for dtype in ("float32", "float64"):
            layer.to(dtype)
            layer(tg.ones(1, 2, dtype=dtype)).sum().backward()
            opt.step()
        arrays = [x for slots in opt.slots for x in slots.values() if isinstance(x, np.ndarray) and x.ndim]
        assert {x.dtype for x in arrays} == {np.dtype("float64")}


def test_an_update_that_returns_nothing_is_named() -> None:
    class Forgetful(optim.Optimizer):
        def update(self, p: Any, g: Any, slots: Any) -> Any:
            p -= g

    w = tg.ones(2, requires_grad=True)
    w.sum().backward()
    with pytest.raises(TypeError, match=r"Forgetful.update must return the parameter's new array, not None"):
        Forgetful([w], lr=0.1).step()


def test_names_of_pytorch_say_what_is_here() -> None:
    opt = optim.SGD([tg.ones(1, requires_grad=True)], lr=0.1)
    for holder in (opt, optim.Groups(opt)):
        with pytest.raises(AttributeError, match=r"instead: groups, .* opt.groups\[0\].lr"):
            _ = holder.param_groups
        with pytest.raises(AttributeError, match="has no attribute 'learning_rate'; instead: lr"):
            holder.learning_rate = 0.5
        with pytest.raises(AttributeError, match="has no attribute 'state'; instead: slots"):
            _ = holder.state
    with pytest.raises(AttributeError, match="a schedule has no attribute 'get_last_lr'; instead: lrs"):
        _ = optim.StepLR(opt, 1).get_last_lr
    with pytest.raises(AttributeError, match=r"instead: .*optim.StepLR"):
        _ = optim.lr_scheduler
    with pytest.raises(AttributeError, match="'NAdam'; instead: Adam"):
        _ = optim.NAdam
