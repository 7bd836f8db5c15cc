"""The engine on a device: on CuPy where there is a GPU, and everywhere on an array module as strict as CuPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict
from laws import OPERATIONS
from samples import COMPOSITES, FUNCTIONS, SAMPLES
from sampling import Sample
from waits import waiting

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, backend, bptt, nn, optim
from tinygrad_rnn.backend import Backend, BackendError
from tinygrad_rnn.tree import tree_leaves, tree_map

HOST = backend.get("numpy")
CALLS = [
    *(pytest.param(OPERATIONS[name], samples, id=name) for name, samples in SAMPLES.items()),
    *(pytest.param(FUNCTIONS.get(name) or getattr(tg, name), samples, id=name) for name, samples in COMPOSITES.items()),
]


@pytest.fixture
def device(device: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend for devices, with NumPy's random numbers."""
    monkeypatch.setattr(device, "uniform", lambda shape: device.from_host(HOST.uniform(shape)))
    return device


def put(home: Backend, x: np.ndarray) -> Any:
    """An array on a device; of an array that is not contiguous, a view with steps backwards."""
    if x.flags.c_contiguous:
        return home.from_host(x)
    view = home.xp.zeros([2 * n for n in x.shape], dtype=x.dtype)[(slice(None, None, -2),) * x.ndim]
    view[...] = home.from_host(np.ascontiguousarray(x))
    return view


def leaf(home: Backend, x: np.ndarray) -> Tensor:
    made = Tensor.wrap(put(home, x))
    made.requires_grad = True
    return made


def fetch(home: Backend, x: Any) -> np.ndarray:
    """The numbers of an array or a Tensor, which must be on this backend."""
    array = x.array if isinstance(x, Tensor) else x
    assert type(array) is home.array_type
    return home.to_host(array)


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, strict=True)


# ---- all operations ----


def evaluate(home: Backend, function: Callable[..., Any], sample: Sample, dtype: Any) -> list[np.ndarray]:
    """Results, and gradients for two uses of the inputs, on bare arrays and as a recorded walk."""

    def place(x: Any) -> Any:
        return put(home, x) if isinstance(x, np.ndarray) else x

    def place_input(x: Any) -> Any:
        floating = isinstance(x, np.ndarray) and x.dtype.kind == "f"
        return leaf(home, x.astype(dtype)) if floating else place(x)

    inputs = tree_map(place_input, sample.inputs)
    attributes = sample.attributes if function is tg.ops.index else tree_map(place, sample.attributes)
    xs = [x for x in tree_leaves(inputs) if isinstance(x, Tensor)]
    masks = [x for x in tree_leaves(attributes) if getattr(x, "dtype", None) == np.bool_]
    random = np.random.default_rng(3)
    waits = (
        masks or attributes.get("key") is True or function in (OPERATIONS["refuse_nonfinite"], OPERATIONS["at_most"])
    )
    with waiting(HOST if waits else home):  # a mask makes the host wait for the number of elements
        ys, zs = (tree_leaves(function(*inputs, **attributes)) for _ in range(2))
        tracked = [y for y in [*ys, *zs] if isinstance(y, Tensor) and y.requires_grad]
        pairs = [(y, put(home, np.asarray(random.standard_normal(y.shape), y.dtype))) for y in tracked]
        found = [np.asarray(y) if isinstance(y, np.generic) else y for y in ys]  # as NumPy's 0-d results are
        for record in (False, True) if pairs else ():
            outputs, cotangents = zip(*pairs, strict=True)
            gradients = tg.grad(outputs, xs, cotangents, create_graph=record, retain_graph=True, allow_unused=True)
            found += [g for g in gradients if g is not None]
    return [fetch(home, y) for y in found]


@pytest.mark.parametrize(("function", "samples"), CALLS)
def test_results_and_gradients(function: Callable[..., Any], samples: list[Sample], device: Backend) -> None:
    for sample in samples:
        for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-4)):
            found, expected = (evaluate(home, function, sample, dtype) for home in (device, HOST))
            assert_same(found, expected, tolerance)


@pytest.mark.parametrize(("function", "samples"), CALLS[: len(SAMPLES)])
def test_out_is_written(function: Callable[..., Any], samples: list[Sample], device: Backend) -> None:
    for sample in samples:
        given = tree_map(
            lambda x: put(device, x) if isinstance(x, np.ndarray) else x, (*sample.inputs, sample.attributes)
        )
        expected = function(*given[:-1], **given[-1])
        out = device.xp.empty(expected.shape, dtype=expected.dtype)
        function(*given[:-1], **given[-1], out=out)
        assert_same([fetch(device, out)], [fetch(device, expected)], 1e-12)


# ---- training ----


class Model(nn.Module):
    """Two layers of LSTM that predict the next symbol."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(7, 5)
        self.cells = [nn.LSTMCell(5, 6), nn.LSTMCell(6, 6)]
        self.norm, self.dropout, self.head = nn.LayerNorm(6), nn.Dropout(0.25), nn.Linear(6, 7)

    def forward(self, symbols: Any) -> Tensor:
        x = self.embedding(symbols)
        for cell in self.cells:
            x = self.dropout(bptt.unroll(cell, x).outputs)
        return self.head(self.norm(x))


OPTIMISERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda parameters: optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adagrad": optim.Adagrad,
    "RMSprop": lambda parameters: optim.RMSprop(parameters, momentum=0.9, centered=True),
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
}


def train(home: Backend, optimiser: str) -> list[np.ndarray]:
    """Losses of three steps, and the parameters after them."""
    tg.manual_seed(0)
    model = Model().to(home.name, dtype="float64")
    parameters = list(model.parameters())
    optimizer = OPTIMISERS[optimiser](parameters)
    symbols = np.random.default_rng(0).integers(0, 7, (9, 4))
    inputs, targets = tg.tensor(symbols[:-1], backend=home.name), tg.tensor(symbols[1:], backend=home.name)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        with waiting(home):
            loss = nn.cross_entropy(model(inputs), targets)
            loss.backward()
        with waiting(home, 1):  # to raise if some gradient is not finite, the host must know
            report = tg.clip_grad_norm_(parameters, 0.1)
        assert report.clipped
        with waiting(home):
            optimizer.step()
        losses.append(fetch(home, loss))
    return [*losses, *(fetch(home, p) for p in parameters)]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_training_equals_that_on_the_host(optimiser: str, device: Backend) -> None:
    assert_same(train(device, optimiser), train(HOST, optimiser), 1e-9)


def test_optimisers_keep_their_state_on_the_device(device: Backend) -> None:
    p = tg.ones(3, backend=device.name, requires_grad=True)
    adam = optim.Adam([p])
    p.sum().backward()
    adam.step()
    state = adam.state_dict()
    assert isinstance(state["slots"][0]["mean"], np.ndarray)
    adam.load_state_dict(state)
    assert type(adam.slots[0]["mean"]) is device.array_type


def test_losses_equal_those_on_the_host(device: Backend) -> None:
    random = np.random.default_rng(0)
    logits, targets = random.standard_normal((3, 4)), np.array([0, -100, 2])
    weight, mask = random.random(4), np.array([True, True, False])
    found: dict[Backend, list[np.ndarray]] = {}
    for home in (HOST, device):
        x, t, w, m = (tg.tensor(data, backend=home.name) for data in (logits, targets, weight, mask))
        x.requires_grad = True
        with waiting(home):
            losses = [
                nn.cross_entropy(x, t, ignore_index=-100, mask=m, weight=w),
                nn.nll_loss(tg.log_softmax(x), t * (t >= 0), mask=m),
                nn.mse_loss(x, x.detach() * 2, mask=x.detach() > 0, reduction="sum"),
                nn.binary_cross_entropy_with_logits(x, tg.zeros_like(x), reduction="none").max(),
            ]
            sum(losses, tg.zeros_like(losses[0])).backward()
        found[home] = [fetch(home, loss) for loss in [*losses, x.grad]]
    assert_same(found[device], found[HOST], 1e-9)


CLIPS: list[Callable[[list[Tensor]], tg.ClipReport]] = [
    lambda parameters: tg.clip_grad_norm_(parameters, 0.5, per_parameter=True),
    lambda parameters: tg.clip_grad_value_(parameters, 0.5),
]


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_equals_that_on_the_host(clip: Callable[[list[Tensor]], tg.ClipReport], device: Backend) -> None:
    reports, gradients = [], []
    for home in (HOST, device):
        parameters = []
        for data in (np.array([3e25, -4e25], np.float32), np.ones((2, 0)), np.float64(-2.0)):  # one with a huge norm
            parameters.append(tg.tensor(data, backend=home.name, requires_grad=True))
            parameters[-1].grad = tg.tensor(data, backend=home.name)
        reports.append(clip(parameters)[:3])
        gradients.append([fetch(home, p.grad) for p in parameters])
    assert reports[1] == pytest.approx(reports[0])
    assert_same(gradients[1], gradients[0], 1e-6)


def test_derivatives_of_functions(device: Backend) -> None:
    x = tg.tensor([1.0, 2.0], backend=device.name)
    assert fetch(device, tg.hvp(lambda x: (x**3).sum(), x, x)).tolist() == [6, 24]
    assert fetch(device, tg.jvp(lambda x: x * x, x, x)[1]).tolist() == [2, 8]
    assert fetch(device, tg.jacobian(lambda x: x * x, x)).tolist() == [[2, 0], [0, 4]]
    tg.check(tg.softmax, x)
    with pytest.raises(FloatingPointError, match="log made"), tg.detect_anomaly():
        tg.log(-x)


def test_drawing_and_linting(device: Backend) -> None:
    model = nn.Recurrent(nn.GRUCell(2, 3))
    model.to(device.name)
    with tg.use_backend(device.name):
        outputs, state = model(tg.randn(4, 2, 2), lengths=device.from_host(np.array([4, 2])))
        loss = (outputs * outputs).sum()
        assert tg.draw(loss, "svg", gradients=True, backward=True, names=model).count("<title>") > 100
        starts = device.from_host(np.array([True, False]))
        told = [f.what for f in tg.lint(loss, model, outputs=outputs + 0, lengths=[4, 2], state=state, starts=starts)]
        assert told == [
            "rows [0] begin a new sequence with the state of an old one",
            "the loss does not depend on these outputs",
        ]
        assert not tg.lint(loss, model, outputs=outputs, lengths=[4, 2])
        assert tg.lint(outputs.sum(), model, outputs=outputs, lengths=[4, 2])


# ---- indices that are out of range ----


def nan_rows(home: Backend, x: Any) -> list[bool]:
    return [bool(np.isnan(row).all()) for row in fetch(home, x)]


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8"])
def test_embedding_marks_rows_that_do_not_exist(dtype: str, device: Backend) -> None:
    weight = tg.ones(200, 2, backend=device.name, requires_grad=True)
    for wrong in [200, 255] if dtype == "uint8" else [-1, -128] if dtype == "int8" else [-1, 200]:
        indices = device.from_host(np.array([3, wrong, 0], dtype))
        with waiting(device):
            y = tg.embedding(indices, weight)
            y.sum().backward()
        assert nan_rows(device, y) == [False, True, False]
        assert y.dtype == np.float32
        with pytest.raises(IndexError, match=rf"index {wrong} is out of range: they run from 0 to 199"):
            tg.embedding(HOST.from_host(np.array([3, wrong, 0], dtype)), weight.to("numpy"))


@pytest.mark.parametrize("wrong", [-1, 4])
def test_cross_entropy_marks_targets_that_do_not_exist(wrong: int, device: Backend) -> None:
    logits = tg.ones(3, 4, backend=device.name, requires_grad=True)
    targets = device.from_host(np.array([0, wrong, 3]))
    with waiting(device):
        losses = nn.cross_entropy(logits, targets, reduction="none")
        losses.sum().backward()
    assert nan_rows(device, losses) == [False, True, False]
    assert nan_rows(device, logits.grad) == [False, True, False]
    with pytest.raises(IndexError, match=f"target {wrong} is out of range"):
        nn.cross_entropy(logits.to("numpy"), np.array([0, wrong, 3]))


def test_lookups_mark_what_does_not_exist(device: Backend) -> None:
    x = tg.ones(4, 3, backend=device.name)
    for good, bad in ((-4, -5), (3, 4)):
        along = device.from_host(np.array([[good, bad, 0]]))
        with waiting(device):
            y, rows = tg.take_along_axis(x, along, axis=0), x[device.from_host(np.array([good, bad, 0]))]
            pairs = x[:, None][[1, 2], ..., np.array([0, bad])]
            right = x[[good, good], ..., -3]
        assert nan_rows(device, y.T) == nan_rows(device, rows) == [False, True, False]
        assert nan_rows(device, pairs) == [True, True]  # of several arrays, nobody looks which was wrong
        assert not np.isnan(fetch(device, right)).any()
        with pytest.raises(IndexError):
            x.to("numpy")[[good, bad]]


# ---- places ----


MIXED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda x, y: x + y,
    "matmul": lambda x, y: x @ y,
    "linear": lambda x, y: tg.linear(x, y),
    "concatenate": lambda x, y: tg.concatenate([x, y]),
    "stack": lambda x, y: tg.stack([x, y]),
    "where": lambda x, y: tg.where(x > 0, x, y),
    "einsum": lambda x, y: tg.einsum("ij,jk->ik", x, y),
    "embedding": lambda x, y: tg.embedding(x.astype("int64"), y),
    "cross_entropy": lambda x, y: nn.cross_entropy(x, y[0].astype("int64")),
    "take_along_axis": lambda x, y: tg.take_along_axis(x, y.astype("int64"), axis=0),
}


@pytest.mark.parametrize("name", MIXED)
def test_arrays_of_two_backends_do_not_mix(name: str, device: Backend) -> None:
    here, there = tg.ones(2, 2, requires_grad=True), tg.ones(2, 2, backend=device.name, requires_grad=True)
    for x, y in ((here, there), (there, here)):
        with pytest.raises(BackendError) as caught:
            MIXED[name](x, y)
        message = str(caught.value)
        assert message.startswith(f"{name}: arrays of two backends, ")
        assert f" on {device.name}" in message
        assert " on numpy" in message
        assert "; bring them together with x.to('" in message
        assert "test_backends.py:" in message


def test_bare_numpy_arrays_do_not_mix_either(device: Backend) -> None:
    x = tg.ones(2, backend=device.name)
    for mix in (lambda: x * np.ones(2), lambda: np.ones(2) * x, lambda: x + np.array(1.0)):
        with pytest.raises(BackendError, match="arrays of two backends"):
            mix()
    assert (np.float32(2) * x * 3).backend == (2 - x).backend == device.name  # scalars are fine


def test_tensors_move(device: Backend) -> None:
    turned = np.arange(6, dtype=np.int8).reshape(2, 3).T
    for data in (turned, np.array([True, False]), np.float64(2.5), np.zeros((0, 3))):
        x = tg.tensor(data)
        y = x.to(device.name)
        assert (y.backend, y.dtype, y.shape) == (device.name, x.dtype, x.shape)
        np.testing.assert_array_equal(fetch(HOST, y.to("numpy")), data, strict=np.ndim(data) > 0)
        assert y.to(device.name) is y
    parameter = tg.ones(2, requires_grad=True).to(device.name)
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert repr(parameter).startswith(f"Tensor(f32[2] {device.name}")
    assert parameter.sum().item() == float(parameter.sum()) == parameter.tolist()[0] + 1 == 2.0
    (parameter * parameter).sum().backward()
    assert fetch(device, parameter.grad).tolist() == [2, 2]


def test_tensors_are_made_where_the_default_says(device: Backend) -> None:
    with tg.use_backend(device.name):
        made = [tg.tensor([1.0]), tg.zeros(2), tg.randn(2), tg.arange(3), tg.eye(2), nn.Linear(2, 3).weight]
        assert {x.backend for x in made} == {device.name}
        assert tg.tensor(np.ones(2)).backend == "numpy"  # an array stays where it is
    assert tg.zeros(2).backend == "numpy"


def test_parameters_begin_equal_everywhere(device: Backend) -> None:
    made = []
    for name in ("numpy", device.name):
        tg.manual_seed(3)
        with tg.use_backend(name):
            made.append([*Model().parameters(), tg.randn(3), tg.rand(3)])
    assert_same([fetch(device, p) for p in made[1]], [fetch(HOST, p) for p in made[0]], 0)


def test_a_module_moves_in_whole_and_its_state_is_numpys(device: Backend) -> None:
    model = Model()
    before = model.state_dict()
    model.to(device.name)
    assert {p.backend for p in model.parameters()} == {device.name}
    assert all(isinstance(value, np.ndarray) for value in model.state_dict().values())
    model.load_state_dict({name: value + 1 for name, value in before.items()})
    assert {p.backend for p in model.parameters()} == {device.name}
    np.testing.assert_array_equal(model.to("numpy").state_dict()["norm.weight"], before["norm.weight"] + 1)


def test_random_numbers_follow_the_seed(device: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the backend's own numbers
    x = tg.ones(100, backend=device.name)
    masks = []
    for seed in (0, 0, 1):
        tg.manual_seed(seed)
        masks.append(fetch(device, tg.dropout(x, 0.5)))
    assert set(masks[0]) == {0, 2}
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()


def test_writing_into_a_saved_array_is_noticed(device: Backend) -> None:
    x, w = (tg.ones(2, 3, backend=device.name, requires_grad=True) for _ in range(2))
    for y in (x * w, x * w[1:], x * w.T.T):
        w.data -= 1.0
        with pytest.raises(tg.GraphError, match="changed in place since"):
            y.sum().backward()
    y = x * w
    w.T[::-1].data[0] = x.data[:, 0]
    with pytest.raises(tg.GraphError, match="changed in place since"):
        y.sum().backward()


def test_the_rest_of_a_backend(device: Backend) -> None:
    device.synchronize()
    assert device.memory_in_use() is not None
    assert HOST.memory_in_use() is None
    target = device.xp.zeros((3, 2), dtype=np.float32)
    ones = device.xp.ones((4, 2), dtype=np.float32)
    device.add_rows(target, device.from_host(np.array([0, 2, 0, 0])), ones)
    device.add_at(target, (device.from_host(np.array([1, 1])), 0), 5)
    device.add_at(target, device.from_host(np.array([-1], np.int8)), 2)
    assert fetch(device, target).tolist() == [[3, 3], [10, 0], [3, 3]]


def test_numbers_are_set_by_few_launches(device: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """As learning rates and counters of a captured step are: 50 of two dtypes by three launches, none copied."""
    arrays = [device.xp.zeros((), np.float64 if k % 3 else np.float32) for k in range(50)]
    texts: list[str] = []
    make = device.pointwise
    monkeypatch.setattr(device, "pointwise", lambda kernel: texts.append(kernel.body) or make(kernel))
    put = device.setter(arrays)
    before = strict.tally.uploads
    for scale in (0.1, -3):
        put(*[scale * k for k in range(50)])
        for k, array in enumerate(arrays):
            assert device.to_host(array) == array.dtype.type(scale * k)
    assert strict.tally.uploads == before
    assert len(texts) == 3
    device.setter([])()
