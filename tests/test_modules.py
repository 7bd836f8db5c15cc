"""Modules, optimisers and clipping: names, states, and what happens when something is wrong."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, bptt, nn, optim


class Model(nn.Module):
    """Modules and tensors in attributes, lists and dictionaries, one weight shared, one constant, one frozen."""

    def __init__(self) -> None:
        self.zeta = nn.Linear(2, 3)
        self.layers = [nn.Linear(3, 3), (nn.Linear(3, 3, bias=False), nn.Dropout(0.5))]
        self.heads = {"b": nn.Linear(3, 1), "a": tg.ones(3, requires_grad=True)}
        self.tied = self.zeta.weight
        self.constant = tg.ones(2)
        self.frozen = tg.ones(2, requires_grad=True)
        self.frozen.requires_grad = False
        self.name, self.sizes, self.table = "model", [1, 2], np.ones(3)

    def forward(self, x: Any) -> Tensor:
        return self.heads["b"](self.layers[0](self.zeta(x)))


NAMES = [
    "zeta.weight",
    "zeta.bias",
    "layers.0.weight",
    "layers.0.bias",
    "layers.1.0.weight",
    "heads.b.weight",
    "heads.b.bias",
    "heads.a",
]


# ---- parameters ----


def test_parameters_come_in_order_of_definition_and_once() -> None:
    model = Model()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert all(p is q for p, (_, q) in zip(model.parameters(), model.named_parameters(), strict=True))
    assert len(set(model.parameters())) == len(NAMES)
    assert all(isinstance(p, Tensor) and p.is_leaf for p in model.parameters())


def test_constants_and_frozen_parameters_are_saved_but_not_learned() -> None:
    assert list(Model().state_dict()) == [*NAMES, "constant", "frozen"]


def test_a_module_that_appears_twice_comes_once() -> None:
    cell = nn.LSTMCell(2, 3)
    stack = nn.Sequential(cell, nn.Dropout(), cell)
    assert [name for name, _ in stack.named_parameters()] == [
        "layers.0.weight_ih",
        "layers.0.weight_hh",
        "layers.0.bias",
    ]
    assert sum(module is cell for module in stack.modules()) == 1


def test_a_part_may_know_the_whole() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    model.layers[0].parent = model
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight", "layers.0.bias"]
    assert len(list(model.modules())) == 3
    assert not model.eval().layers[1].training


def test_a_result_kept_in_an_attribute_is_no_parameter() -> None:
    """A model may keep its last activation, to look at; it is neither learned nor saved, nor in the way."""

    class Watched(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Any) -> Tensor:
            self.last = self.linear(x)
            return self.last

    model = Watched()
    model(np.ones((1, 2), np.float32)).sum().backward()
    names = ["linear.weight", "linear.bias"]
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == names
    model.zero_grad()
    optim.SGD(model.parameters(), lr=0.1)
    model.to(dtype="float64")


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        nn.Module()(1)


def test_sequential_applies_functions_too() -> None:
    y = nn.Sequential(nn.Linear(2, 3), tg.tanh, nn.Linear(3, 1))(np.ones((5, 2), np.float32))
    assert y.shape == (5, 1)


def test_zero_grad_forgets() -> None:
    model = Model()
    model(np.ones((1, 2), np.float32)).sum().backward()
    assert model.zeta.weight.grad is not None
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_train_and_eval_reach_every_module() -> None:
    model = Model()
    dropout = model.layers[1][1]
    assert model.training
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert not dropout.training
    assert model.train() is model
    assert all(module.training for module in model.modules())
    dropout.eval()
    assert model.training
    x = np.ones((50, 3), np.float32)
    np.testing.assert_array_equal(dropout(x), x)


def test_reprs_read_like_the_call() -> None:
    assert repr(nn.LSTMCell(2, 3)) == "LSTMCell(2, 3)"
    assert repr(nn.Linear(2, 3)) == "Linear(2, 3)"
    assert "zeta: Linear(2, 3)" in repr(Model())


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    """Target networks and stacks of equal layers are made this way: neither weights nor gradients are shared."""
    layer = nn.Linear(2, 2)
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(layer.weight.data, other.weight.data)
    other(layer(np.ones((1, 2), np.float32))).sum().backward()
    assert layer.weight.grad is not None
    assert other.weight.grad is not None
    np.testing.assert_allclose(other.bias.grad.data, [1, 1])  # type: ignore[union-attr]
    np.testing.assert_allclose(layer.bias.grad.data, other.weight.data.sum(axis=0), rtol=1e-6)  # type: ignore[union-attr]
    layer.weight.data = layer.weight.data * 0
    assert other.weight.data.any()


# ---- moving and loading ----


def test_to_dtype_keeps_the_tensors_and_drops_gradients() -> None:
    for spelled in ({"dtype": "float64"}, {"dtype": np.float64}, {"where": "float64"}, {"where": np.float64}):
        model = Model()
        model.heads["count"] = tg.tensor([1, 2])
        before = list(model.parameters())
        model(np.ones((1, 2), np.float32)).sum().backward()
        assert model.to(**spelled) is model
        assert [p is q for p, q in zip(model.parameters(), before, strict=True)] == [True] * len(NAMES)
        assert {p.dtype for p in model.parameters()} == {np.dtype("float64")}
        assert all(p.grad is None for p in model.parameters())
        assert model.heads["count"].dtype == np.int64
        model(np.ones((1, 2))).sum().backward()
        assert model.zeta.weight.grad is not None
        assert model.zeta.weight.grad.dtype == np.float64


def test_to_nowhere_is_refused() -> None:
    with pytest.raises((tg.BackendError, TypeError)):
        Model().to("nowhere")


def test_a_state_dict_round_trip_is_exact() -> None:
    model, other = Model(), Model()
    state = model.state_dict()
    other.load_state_dict(state)
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, state[name], strict=True)
    state["zeta.weight"][...] = 7
    assert not (model.zeta.weight.data == 7).any()
    assert not (other.zeta.weight.data == 7).any()


def test_loading_keeps_the_tensors_that_an_optimiser_holds() -> None:
    model = Model()
    opt = optim.SGD(model.parameters(), lr=1.0)
    model.load_state_dict({name: array.astype(np.float64) for name, array in Model().state_dict().items()})
    start = model.state_dict()
    model(np.ones((1, 2))).sum().backward()
    opt.step()
    assert (model.zeta.weight.data != start["zeta.weight"]).any()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda s: s.pop("zeta.bias"), KeyError, r"missing \['zeta.bias'\]"),
        (lambda s: s.update(extra=np.ones(2)), KeyError, r"unknown \['extra'\]"),
        (lambda s: s.update({"frozen": np.ones((2, 1), np.float32)}), ShapeError, r"frozen is f32\[2,1\].*f32\[2\]"),
        (lambda s: s.update({"frozen": np.ones(2, int)}), ShapeError, r"frozen is i64\[2\]"),
        (lambda s: s.update({"frozen": "text"}), TypeError, None),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(change: Any, error: Any, match: str | None) -> None:
    model = Model()
    before = model.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    change(state)
    with pytest.raises(error, match=match):
        model.load_state_dict(state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], strict=True)


def test_loading_a_part_if_not_strict() -> None:
    model = Model()
    before = model.state_dict()
    model.load_state_dict({"zeta.bias": np.full(3, 5.0, np.float32), "extra": np.ones(1)}, strict=False)
    assert model.zeta.bias is not None
    assert model.zeta.bias.tolist() == [5, 5, 5]
    np.testing.assert_array_equal(model.zeta.weight.data, before["zeta.weight"])
    with pytest.raises(ShapeError):
        model.load_state_dict({"zeta.bias": np.ones(4, np.float32)}, strict=False)


def test_a_seed_makes_the_same_model_and_the_same_dropout() -> None:
    found = []
    for _ in range(2):
        tg.manual_seed(3)
        model = Model()
        found.append([*model.state_dict().values(), tg.randn(3).numpy(), nn.Dropout(0.5)(np.ones(20))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tg.randn(3).data != found[0][-2]).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Dropout(1.0),
        lambda: nn.Dropout(-0.1),
        lambda: nn.LSTMCell(3, 0),
        lambda: nn.LSTMCell(-1, 3),
        lambda: nn.RNNCell(3, 4, nonlinearity="cubic"),
        lambda: nn.cross_entropy(tg.ones(2, 3), np.array([0, 1]), reduction="median"),
    ],
)
def test_wrong_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"Dropout|Cell|cross_entropy"):
        make()


# ---- unrolling ----


def test_unroll_refuses_what_does_not_fit() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((5, 2, 3), np.float32)
    with pytest.raises(ValueError, match=r"no time steps.*\(0, 2, 3\)"):
        bptt.unroll(cell, xs[:0])
    for mask in (np.ones((5, 3), bool), np.ones((2, 5), bool), np.ones(5, bool)):
        with pytest.raises(ValueError, match=r"mask has shape .* \(5, 2\)"):
            bptt.unroll(cell, xs, mask=mask)


def test_a_state_may_be_a_plain_tuple_or_list() -> None:
    cell, xs, mask = nn.LSTMCell(3, 4), np.ones((5, 2, 3), np.float32), np.arange(5)[:, None] < [5, 3]
    h, c = tg.randn(2, 4), tg.randn(2, 4)
    for given in (None, mask):
        expected = bptt.unroll(cell, xs, nn.LSTMState(h, c), mask=given)
        for state in ((h, c), [h, c], (h.data, c.data)):
            found = bptt.unroll(cell, xs, state, mask=given)
            np.testing.assert_array_equal(found.outputs.data, expected.outputs.data)
            np.testing.assert_array_equal(found.state.c.data, expected.state.c.data)


def test_detach_keeps_the_structure() -> None:
    h, c = tg.ones(2, requires_grad=True) * 2, tg.ones(2, requires_grad=True) * 3
    state = bptt.detach({"layers": [nn.LSTMState(h, c), None], "step": 3})
    assert isinstance(state["layers"][0], nn.LSTMState)
    assert state["layers"][0].h.data is h.data
    assert not state["layers"][0].h.requires_grad
    assert state["layers"][1] is None
    assert state["step"] == 3


# ---- optimisers ----

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
            optim.SGD([p, wrong], lr=0.1)  # type: ignore[list-item]
    for settings in ({"lr": -0.1}, {"lr": math.nan}, {"lr": 0.1, "weight_decay": -1.0}, {"lr": 0.1, "nesterov": True}):
        with pytest.raises(ValueError, match="SGD"):
            optim.SGD([p], **settings)


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
    for rate in (np.float64(0.05), np.float32(0.05)):
        a, b = leaves(), leaves()
        ours, theirs = make(a), make(b)
        ours.lr, theirs.lr = rate, float(rate)
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


# ---- clipping ----


def with_gradients(*gradients: Any, dtype: str = "float32") -> list[Tensor]:
    """A leaf for each gradient."""
    found = []
    for gradient in gradients:
        g = tg.tensor(np.asarray(gradient, dtype))
        p = tg.zeros(g.shape, dtype=dtype, requires_grad=True)
        p.grad = g
        found.append(p)
    return found


def norm(parameters: list[Tensor]) -> float:
    return math.hypot(*(float(x) for p in parameters if p.grad is not None for x in p.grad.data.ravel()))


def test_clipping_scales_all_gradients_alike() -> None:
    ps = with_gradients([3.0, 0.0], [[4.0]], 12.0)
    report = tg.clip_grad_norm_(ps, 6.5)
    assert (report.norm, report.angle, report.nonfinite, report.clipped) == (13.0, 0.0, (), True)
    assert report.clipped_norm == pytest.approx(6.5)
    assert [p.grad.tolist() for p in ps if p.grad is not None] == [[1.5, 0.0], [[2.0]], 6.0]


def test_small_gradients_are_left_exactly_as_they_are() -> None:
    ps = with_gradients([3.0, 4.0])
    for bound in (5.0, 6.0, math.inf):
        report = tg.clip_grad_norm_(ps, bound)
        assert (report.norm, report.clipped_norm, report.clipped) == (5.0, 5.0, False)
    assert ps[0].grad is not None
    assert ps[0].grad.tolist() == [3, 4]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e19, 1e20, 3e38])
def test_gradients_whose_squares_overflow_are_clipped_and_not_zeroed(dtype: str, size: float) -> None:
    ps = with_gradients([size, -size], size, np.zeros(3), dtype=dtype)
    report = tg.clip_grad_norm_(ps, 1.0)
    assert report.norm == pytest.approx(size * 3**0.5, rel=1e-6)
    assert norm(ps) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e-38])
def test_tiny_gradients_are_measured(size: float) -> None:
    ps = with_gradients([size, size], [size, size])
    report = tg.clip_grad_norm_(ps, size)
    assert report.norm == pytest.approx(2 * size, rel=1e-5)
    assert norm(ps) == pytest.approx(size, rel=1e-5)


def test_norms_of_nothing() -> None:
    assert tg.clip_grad_norm_([], 1.0) == (0.0, 0.0, 0.0, ())
    assert tg.clip_grad_norm_([tg.ones(2, requires_grad=True)], 1.0).norm == 0.0
    assert tg.clip_grad_norm_(with_gradients([0.0, 0.0], np.zeros(0)), 1.0).norm == 0.0
    assert tg.clip_grad_value_(with_gradients([0.0, 0.0], np.zeros(0)), 1.0).norm == 0.0


def test_a_single_tensor_and_named_parameters_are_taken() -> None:
    (p,) = with_gradients([3.0, 4.0])
    assert tg.clip_grad_norm_(p, 1.0).norm == 5.0  # type: ignore[arg-type]
    model = nn.Linear(2, 1)
    model(np.ones((1, 2), np.float32)).sum().backward()
    assert tg.clip_grad_norm_(model.named_parameters(), 1.0).clipped_norm == pytest.approx(1.0)


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_nothing_changes(clip: Any, bad: float) -> None:
    ps = with_gradients([3.0, 4.0], [[1.0, bad]], [30.0])
    named = list(zip(["good", "cell.bias", "large"], ps, strict=True))
    before = [p.grad.numpy() for p in ps if p.grad is not None]
    with pytest.raises(FloatingPointError, match=r"the gradient of cell\.bias is not finite"):
        clip(named, 1.0)
    with pytest.raises(FloatingPointError, match=r"parameter 1 \[1, 2\]"):
        clip(ps, 1.0)
    for p, g in zip(ps, before, strict=True):
        assert p.grad is not None
        np.testing.assert_array_equal(p.grad.data, g)


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
def test_what_is_not_finite_may_be_skipped(clip: Any) -> None:
    ps = with_gradients([3.0, 4.0], [math.nan])
    report = clip(zip("ab", ps, strict=True), 1.0, on_nonfinite="skip")
    assert report.nonfinite == ("b",)
    assert not report.clipped
    assert all(p.grad is None for p in ps)
    optim.SGD(ps, lr=1.0).step()
    assert ps[0].tolist() == [0, 0]


def test_clipping_of_each_parameter_turns_the_gradient() -> None:
    ps = with_gradients([30.0, 40.0], [0.5])
    report = tg.clip_grad_norm_(ps, 1.0, per_parameter=True)
    found = [p.grad.data for p in ps if p.grad is not None]
    np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-6)
    assert found[1].tolist() == [0.5]
    before, after = np.array([30, 40, 0.5]), np.array([0.6, 0.8, 0.5])
    cosine = before @ after / np.sqrt((before @ before) * (after @ after))
    assert report.angle == pytest.approx(math.acos(cosine), rel=1e-6)
    assert report.norm == pytest.approx(np.sqrt(before @ before))
    assert report.clipped_norm == pytest.approx(np.sqrt(after @ after))


def test_clipping_of_each_element_turns_the_gradient() -> None:
    ps = with_gradients([3.0, -0.5], [[-4.0]], 2.0)
    report = tg.clip_grad_value_(ps, 1.0)
    assert [p.grad.tolist() for p in ps if p.grad is not None] == [[1.0, -0.5], [[-1.0]], 1.0]
    assert all(isinstance(p.grad.data, np.ndarray) for p in ps if p.grad is not None)
    before, after = np.array([3, -0.5, -4, 2]), np.array([1, -0.5, -1, 1])
    cosine = before @ after / np.sqrt((before @ before) * (after @ after))
    assert report.angle == pytest.approx(math.acos(cosine), rel=1e-6)
    assert report.norm == pytest.approx(np.sqrt(before @ before))
    assert report.clipped_norm == pytest.approx(np.sqrt(after @ after))
    assert tg.clip_grad_value_(ps, 1.0).angle == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("clip", [tg.clip_grad_norm_, tg.clip_grad_value_])
def test_wrong_bounds_are_refused(clip: Any) -> None:
    ps = with_gradients([3.0])
    for bound in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be above 0"):
            clip(ps, bound)
    with pytest.raises(ValueError, match="on_nonfinite"):
        clip(ps, 1.0, on_nonfinite="ignore")


def test_a_clipped_message_is_the_identity_forward() -> None:
    x = tg.tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
    y = tg.clip_message(x, 0.5)
    np.testing.assert_array_equal(y.data, x.data)
    (y * np.array([10.0, 0.25, -10.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.25, -0.5]


def test_a_clipped_message_bounds_each_step_of_a_recurrence() -> None:
    """Without it the gradient of h_0 would be 3**20."""
    h0 = tg.ones(1, dtype="float64", requires_grad=True)
    h = h0
    for _ in range(20):
        h = tg.clip_message(h, bound=1.0) * 3.0
    h.sum().backward()
    assert h0.grad is not None
    assert h0.grad.tolist() == [1.0]


def test_clipping_leaves_the_weights_of_a_graph_alone() -> None:
    w = tg.tensor(np.array([3.0, 4.0]), requires_grad=True)
    y = (w * w).sum()
    y.backward(retain_graph=True)
    tg.clip_grad_norm_([w], 1.0)
    w.grad = None
    y.backward()
    assert w.grad is not None
    assert w.grad.tolist() == [6, 8]
