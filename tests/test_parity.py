"""The same numbers as PyTorch, and as BPTT written by hand: layers, losses, optimisers, a whole character model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hand_written import loss_and_gradients

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim

torch = pytest.importorskip("torch")

V, H, T, B = 11, 6, 7, 3


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Equal to within a tolerance, relative to the largest element."""
    a = actual.numpy() if isinstance(actual, Tensor) else np.asarray(actual)
    e = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert a.shape == e.shape
    np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(1.0, abs(e).max(initial=0.0)))


def both(*shape: int, seed: int = 0, positive: bool = False) -> tuple[Tensor, Any]:
    """One random float64 leaf in each engine."""
    a = np.random.default_rng(seed).standard_normal(shape)
    a = abs(a) + 0.1 if positive else a
    return tg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)


def copy_to_torch(module: nn.Module, reference: Any, names: dict[str, str] | None = None) -> None:
    """Give PyTorch's module the parameters of ours, by name."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            dict(reference.named_parameters())[(names or {}).get(name, name)].copy_(torch.tensor(p.data))


def assert_same_gradients(module: nn.Module, reference: Any, names: dict[str, str] | None = None) -> None:
    theirs = dict(reference.named_parameters())
    for name, p in module.named_parameters():
        assert p.grad is not None
        assert_close(p.grad, theirs[(names or {}).get(name, name)].grad)


# ---- the character model ----


class CharLSTM(nn.Module):
    """Embedding, two LSTM cells, linear head."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(V, H)
        self.cells = [nn.LSTMCell(H, H), nn.LSTMCell(H, H)]
        self.head = nn.Linear(H, V)
        self.to(dtype="float64")

    def forward(self, tokens: np.ndarray, states: Any = (None, None)) -> tuple[Tensor, list[Any]]:
        xs, after = self.embedding(tokens), []
        for cell, state in zip(self.cells, states, strict=True):
            xs, state = bptt.unroll(cell, xs, state)
            after.append(state)
        return self.head(xs), after


@pytest.fixture
def tokens() -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.random.default_rng(1).integers(V, size=(2, T, B))
    return inputs, targets


@pytest.fixture
def start() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [(rng.standard_normal((B, H)), rng.standard_normal((B, H))) for _ in range(2)]


def test_a_character_model_equals_bptt_by_hand(tokens: Any, start: Any) -> None:
    model = CharLSTM()
    for state in (None, start):
        model.zero_grad()
        initial = [None, None] if state is None else [tuple(map(tg.tensor, s)) for s in state]
        logits, after = model(tokens[0], initial)
        loss = nn.cross_entropy(logits, tokens[1])
        loss.backward()
        expected, grads, final = loss_and_gradients(model.state_dict(), *tokens, state)
        assert_close(loss, expected)
        for name, p in model.named_parameters():
            assert_close(p.grad, grads[name])
        for ours, theirs in zip(after, final, strict=True):
            assert_close(ours.h, theirs[0])
            assert_close(ours.c, theirs[1])


def test_a_character_model_equals_torch(tokens: Any, start: Any) -> None:
    model = CharLSTM()
    embedding = torch.nn.Embedding(V, H, dtype=torch.float64)
    lstm = torch.nn.LSTM(H, H, 2, dtype=torch.float64)
    head = torch.nn.Linear(H, V, dtype=torch.float64)
    copy_to_torch(model.embedding, embedding)
    copy_to_torch(model.head, head)
    with torch.no_grad():
        for k, cell in enumerate(model.cells):
            copy_to_torch(cell, lstm, {n: f"{n}_l{k}" for n in ("weight_ih", "weight_hh")} | {"bias": f"bias_ih_l{k}"})
            getattr(lstm, f"bias_hh_l{k}").zero_()
    logits, after = model(tokens[0], [nn.LSTMState(*map(tg.tensor, s)) for s in start])
    loss = nn.cross_entropy(logits, tokens[1])
    loss.backward()

    state = tuple(torch.tensor(np.stack(s)) for s in zip(*start, strict=True))
    outputs, (h, c) = lstm(embedding(torch.tensor(tokens[0])), state)
    expected = torch.nn.functional.cross_entropy(head(outputs).flatten(0, 1), torch.tensor(tokens[1]).flatten())
    expected.backward()
    assert_close(loss, expected)
    assert_same_gradients(model.embedding, embedding)
    assert_same_gradients(model.head, head)
    for k, cell in enumerate(model.cells):
        assert_close(after[k].h, h[k])
        assert_close(after[k].c, c[k])
        assert_same_gradients(
            cell, lstm, {n: f"{n}_l{k}" for n in ("weight_ih", "weight_hh")} | {"bias": f"bias_ih_l{k}"}
        )


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_rnn_cell(nonlinearity: Any, bias: bool) -> None:
    cell = nn.RNNCell(4, H, bias=bias, nonlinearity=nonlinearity, dtype="float64")
    reference = torch.nn.RNN(4, H, nonlinearity=nonlinearity, bias=bias, dtype=torch.float64)
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "bias": "bias_ih_l0"}
    copy_to_torch(cell, reference, names)
    if bias:
        with torch.no_grad():
            reference.bias_hh_l0.zero_()
    (x, x_torch), (h, h_torch) = both(T, B, 4), both(B, H, seed=1)
    outputs, state = bptt.unroll(cell, x, h)
    outputs_torch, state_torch = reference(x_torch, h_torch[None])
    assert_close(outputs, outputs_torch)
    assert_close(state, state_torch[0])
    (outputs.sin().sum() + state.sum()).backward()
    (outputs_torch.sin().sum() + state_torch.sum()).backward()
    assert_same_gradients(cell, reference, names)
    assert_close(x.grad, x_torch.grad)
    assert_close(h.grad, h_torch.grad)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("tensor_mask", [False, True])
def test_a_mask_equals_torch_run_on_each_sequence_alone(with_state: bool, tensor_mask: bool) -> None:
    """Sequences of lengths 7, 2 and 4: outputs are 0 after the end, and the state is that of the last real step."""
    lengths = [7, 2, 4]
    mask = np.arange(T)[:, None] < np.array(lengths)
    cell = nn.LSTMCell(4, H, dtype="float64")
    reference = torch.nn.LSTM(4, H, dtype=torch.float64)
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "bias": "bias_ih_l0"}
    copy_to_torch(cell, reference, names)
    with torch.no_grad():
        reference.bias_hh_l0.zero_()
    (x, x_torch), (h, h_torch), (c, c_torch) = both(T, B, 4), both(B, H, seed=1), both(B, H, seed=2)
    given = (h, c) if with_state else None
    outputs, state = bptt.unroll(cell, x, given, mask=tg.tensor(mask) if tensor_mask else mask)
    (outputs.sin().sum() + state.h.sum() + (state.c * state.c).sum()).backward()

    total = 0.0
    for b, length in enumerate(lengths):
        begin = (h_torch[None, b], c_torch[None, b]) if with_state else None
        expected, (h_last, c_last) = reference(x_torch[:length, b], begin)
        assert_close(outputs[:length, b], expected)
        assert not outputs.data[length:, b].any()
        assert_close(state.h[b], h_last[0])
        assert_close(state.c[b], c_last[0])
        total = total + expected.sin().sum() + h_last.sum() + (c_last * c_last).sum()
    total.backward()
    assert_same_gradients(cell, reference, names)
    assert_close(x.grad, x_torch.grad)
    if with_state:
        assert_close(h.grad, h_torch.grad)
        assert_close(c.grad, c_torch.grad)


def test_what_is_masked_has_no_influence() -> None:
    cell, mask = nn.LSTMCell(4, H, dtype="float64"), np.ones((T, B), bool)
    mask[4:, 1] = mask[0, 2] = False
    found = []
    for padding in (0.0, 1e3):
        xs = np.random.default_rng(0).standard_normal((T, B, 4))
        xs[~mask] = padding
        cell.zero_grad()
        outputs, state = bptt.unroll(cell, xs, mask=mask)
        (outputs.sin().sum() + state.c.sum()).backward()
        found.append([p.grad.numpy() for p in cell.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, 1e-14)


# ---- layers ----


def assert_layer(module: nn.Module, reference: Any, *inputs: tuple[Any, Any]) -> None:
    """Same output, same gradients for parameters and inputs."""
    copy_to_torch(module, reference)
    y, y_torch = module(*(x for x, _ in inputs)), reference(*(x for _, x in inputs))
    assert_close(y, y_torch)
    weights = np.random.default_rng(9).standard_normal(y.shape)
    (y * weights).sum().backward()
    (y_torch * torch.tensor(weights)).sum().backward()
    assert_same_gradients(module, reference)
    for x, x_torch in inputs:
        if isinstance(x, Tensor) and x.requires_grad:
            assert_close(x.grad, x_torch.grad)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (5, 2, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    reference = torch.nn.Linear(4, 3, bias=bias, dtype=torch.float64)
    assert_layer(nn.Linear(4, 3, bias=bias, dtype="float64"), reference, both(*shape))


@pytest.mark.parametrize(
    "indices", [np.array([1, 1, 2, 0, 1]), np.array([[1, 4], [4, 4]]), np.array(3), np.zeros(0, int)]
)
def test_embedding(indices: np.ndarray) -> None:
    reference = torch.nn.Embedding(5, 3, dtype=torch.float64)
    assert_layer(nn.Embedding(5, 3, dtype="float64"), reference, (tg.tensor(indices), torch.tensor(indices)))


@pytest.mark.parametrize("shape", [(4,), (5, 4), (5, 2, 4)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    assert_layer(nn.LayerNorm(4, dtype="float64"), torch.nn.LayerNorm(4, dtype=torch.float64), both(*shape))
    x, x_torch = both(*shape)
    assert_close(tg.layer_norm(x), torch.nn.functional.layer_norm(x_torch, (4,)))


@pytest.mark.parametrize("kernel", [3, (2, 3), 1])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, (0, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_conv2d(kernel: Any, stride: Any, padding: Any, bias: bool) -> None:
    ours = nn.Conv2d(2, 4, kernel, stride, padding, bias=bias, dtype="float64")
    theirs = torch.nn.Conv2d(2, 4, kernel, stride, padding, bias=bias, dtype=torch.float64)
    assert_layer(ours, theirs, both(3, 2, 6, 7))


@pytest.mark.parametrize(("kernel", "stride"), [(2, None), (3, 1), ((2, 3), (1, 2)), (2, 3)])
def test_max_pool2d(kernel: Any, stride: Any) -> None:
    assert_layer(nn.MaxPool2d(kernel, stride), torch.nn.MaxPool2d(kernel, stride), both(3, 2, 6, 7))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7])
def test_dropout_keeps_the_mean_and_drops_a_share(p: float) -> None:
    layer, x = nn.Dropout(p), tg.ones(300, 300, requires_grad=True)
    y = layer(x)
    n = x.size
    kept = (y.data != 0).mean()
    assert abs(kept - (1 - p)) <= 5 * (p * (1 - p) / n) ** 0.5
    np.testing.assert_allclose(y.data[y.data != 0], 1 / (1 - p), rtol=1e-6)
    assert y.dtype == np.float32
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)  # the same elements
    if p:
        assert (layer(x).data != y.data).any()
    assert layer.eval()(x) is x


# ---- losses ----


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore", [None, 0, -100])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(reduction: str, ignore: int | None, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    x, x_torch = both(20, V)
    targets, weight = rng.integers(V, size=20), rng.random(V)
    if ignore is not None:
        targets[::3] = ignore
    loss = nn.cross_entropy(x, targets, ignore_index=ignore, weight=weight if weighted else None, reduction=reduction)
    expected = torch.nn.functional.cross_entropy(
        x_torch,
        torch.tensor(targets),
        ignore_index=-100 if ignore is None else ignore,
        weight=torch.tensor(weight) if weighted else None,
        reduction=reduction,
    )
    assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    assert_close(x.grad, x_torch.grad)


def test_cross_entropy_of_sequences_with_a_mask() -> None:
    """A mask (T, B) counts the elements that it keeps, as if the others were not there."""
    rng = np.random.default_rng(4)
    x, x_torch = both(T, B, V)
    targets, mask = rng.integers(V, size=(T, B)), rng.random((T, B)) < 0.6
    weight = rng.random(V)
    for kwargs in ({}, {"weight": weight}):
        x.grad = x_torch.grad = None
        loss = nn.cross_entropy(x, tg.tensor(targets), mask=tg.tensor(mask), **kwargs)
        expected = torch.nn.functional.cross_entropy(
            x_torch[torch.tensor(mask)], torch.tensor(targets[mask]), **{k: torch.tensor(v) for k, v in kwargs.items()}
        )
        loss.backward()
        expected.backward()
        assert_close(loss, expected)
        assert_close(x.grad, x_torch.grad)


def test_cross_entropy_of_extreme_logits() -> None:
    x = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    for target in range(3):
        ours, theirs = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        loss = nn.cross_entropy(ours, np.full(2, target))
        expected = torch.nn.functional.cross_entropy(theirs, torch.full((2,), target))
        loss.backward()
        expected.backward()
        assert_close(loss, expected)
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits", "nll_loss"])
def test_other_losses(name: str, reduction: str, masked: bool) -> None:
    rng = np.random.default_rng(5)
    mask = rng.random(20) < 0.6 if masked else np.ones(20, bool)
    if name == "nll_loss":
        (x, x_torch), target = both(20, V), rng.integers(V, size=20)
        prediction, prediction_torch = tg.log_softmax(x, axis=-1), torch.log_softmax(x_torch, -1)
    else:
        (x, x_torch), target = both(20), rng.random(20)
        prediction, prediction_torch = x, x_torch
    loss = getattr(nn, name)(prediction, target, mask=mask if masked else None, reduction=reduction)
    keep = torch.tensor(mask)
    expected = getattr(torch.nn.functional, name)(
        prediction_torch[keep], torch.tensor(target)[keep], reduction=reduction
    )
    assert_close(loss.data[mask] if reduction == "none" else loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    assert_close(x.grad, x_torch.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss_with_weights_and_an_ignored_class(reduction: str) -> None:
    rng = np.random.default_rng(5)
    (x, x_torch), target, weight = both(20, V), rng.integers(V, size=20), rng.random(V)
    loss = nn.nll_loss(x, target, ignore_index=2, weight=weight, reduction=reduction)
    expected = torch.nn.functional.nll_loss(
        x_torch, torch.tensor(target), ignore_index=2, weight=torch.tensor(weight), reduction=reduction
    )
    assert_close(loss, expected)


def test_binary_cross_entropy_of_extreme_logits() -> None:
    x, target = np.array([1e4, -1e4, 800.0, -800.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0, 0.5])
    ours, theirs = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    loss = nn.binary_cross_entropy_with_logits(ours, target)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(theirs, torch.tensor(target))
    loss.backward()
    expected.backward()
    assert_close(loss, expected)
    assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits"])
def test_losses_do_not_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: prediction \(3, 1\) and target \(3,\) differ"):
        getattr(nn, name)(tg.ones(3, 1), tg.ones(3))


# ---- optimisers and clipping ----

OPTIMIZERS: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "SGD": (optim.SGD, "SGD", {"lr": 0.05}),
    "SGD, weight decay": (optim.SGD, "SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "momentum": (optim.SGD, "SGD", {"lr": 0.05, "momentum": 0.9}),
    "momentum, weight decay": (optim.SGD, "SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    "Nesterov": (optim.SGD, "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Nesterov, weight decay": (
        optim.SGD,
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "Adagrad": (optim.Adagrad, "Adagrad", {"lr": 0.1}),
    "Adagrad, weight decay": (optim.Adagrad, "Adagrad", {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    "RMSprop": (optim.RMSprop, "RMSprop", {"lr": 0.01}),
    "RMSprop, momentum": (optim.RMSprop, "RMSprop", {"lr": 0.01, "alpha": 0.95, "momentum": 0.5}),
    "RMSprop, centered": (optim.RMSprop, "RMSprop", {"lr": 0.01, "centered": True, "eps": 1e-4}),
    "RMSprop, all": (
        optim.RMSprop,
        "RMSprop",
        {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1, "eps": 1e-4},
    ),
    "Adam": (optim.Adam, "Adam", {"lr": 0.02}),
    "Adam, betas": (optim.Adam, "Adam", {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3}),
    "Adam, weight decay": (optim.Adam, "Adam", {"lr": 0.02, "weight_decay": 0.1}),
    "AdamW": (optim.AdamW, "AdamW", {"lr": 0.02}),
    "AdamW, weight decay": (optim.AdamW, "AdamW", {"lr": 0.02, "weight_decay": 0.3}),
}
SHAPES = [(3, 4), (5,), (2, 1, 3)]


def landscape(parameters: list[Any], step: int) -> Any:
    """A function to minimise that is neither convex nor the same at every step, in either engine."""
    total = 0.0
    for k, p in enumerate(parameters):
        total = total + (p * p).sum() * (0.3 + 0.1 * k) + (p * (3 + k) + step * 0.1).sin().sum()
    return total


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hundred_steps_of_each_optimiser(name: str) -> None:
    ours_class, theirs_name, options = OPTIMIZERS[name]
    pairs = [both(*shape, seed=k) for k, shape in enumerate(SHAPES)]
    ours = ours_class([p for p, _ in pairs], **options)
    theirs = getattr(torch.optim, theirs_name)([p for _, p in pairs], **options)
    for step in range(100):
        used = pairs if step % 10 else pairs[1:]  # now and then a parameter gets no gradient, and stays as it is
        for optimizer, parameters in ((ours, [p for p, _ in used]), (theirs, [p for _, p in used])):
            optimizer.zero_grad()
            landscape(parameters, step).backward()
            optimizer.step()
    for p, p_torch in pairs:
        assert_close(p, p_torch)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_axes(name: str) -> None:
    """A learned temperature, say: arrays of shape () must not turn into NumPy's scalars on the way."""
    ours_class, theirs_name, options = OPTIMIZERS[name]
    p, p_torch = both()
    ours, theirs = ours_class([p], **options), getattr(torch.optim, theirs_name)([p_torch], **options)
    for step in range(20):
        for optimizer, x in ((ours, p), (theirs, p_torch)):
            optimizer.zero_grad()
            landscape([x], step).backward()
            optimizer.step()
    assert isinstance(p.data, np.ndarray)
    assert_close(p, p_torch)


@pytest.mark.parametrize("lr", [0.3, 0.0])
def test_a_change_of_the_learning_rate_on_the_way(lr: float) -> None:
    p, p_torch = both(4)
    ours, theirs = optim.SGD([p], lr=0.05, momentum=0.9), torch.optim.SGD([p_torch], lr=0.05, momentum=0.9)
    for step in range(10):
        if step == 5:
            ours.lr = theirs.param_groups[0]["lr"] = lr
        for optimizer, x in ((ours, p), (theirs, p_torch)):
            optimizer.zero_grad()
            landscape([x], step).backward()
            optimizer.step()
    assert_close(p, p_torch)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clip_grad_norm(scale: float) -> None:
    """PyTorch adds 1e-6 to the norm, so the two agree that far only."""
    pairs = [both(*shape, seed=k) for k, shape in enumerate(SHAPES)]
    for ps in zip(*pairs, strict=True):
        (landscape(list(ps), 0) * scale).backward()
    report = tg.clip_grad_norm_([p for p, _ in pairs], 2.0)
    norm = torch.nn.utils.clip_grad_norm_([p for _, p in pairs], 2.0)
    assert report.norm == pytest.approx(norm.item(), rel=1e-12)
    assert report.clipped is (norm.item() > 2.0)
    for p, p_torch in pairs:
        assert_close(p.grad, p_torch.grad, 1e-6)
    if report.clipped:
        total = np.sqrt(sum((p.grad.data**2).sum() for p, _ in pairs if p.grad is not None))
        assert total == pytest.approx(2.0, rel=1e-12)


def test_clip_grad_value() -> None:
    pairs = [both(*shape, seed=k) for k, shape in enumerate(SHAPES)]
    for ps in zip(*pairs, strict=True):
        landscape(list(ps), 0).backward()
    tg.clip_grad_value_([p for p, _ in pairs], 0.5)
    torch.nn.utils.clip_grad_value_([p for _, p in pairs], 0.5)
    for p, p_torch in pairs:
        assert_close(p.grad, p_torch.grad)
