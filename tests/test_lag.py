"""The gradient by lag: it adds up, and each entry is the use that it names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from recurrences import CELLS, model, moving_rnn

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.tape import GraphError


@pytest.mark.parametrize("name", CELLS)
def test_the_entries_add_up_to_the_gradient(name: str) -> None:
    module, step = model(CELLS[name]())
    xs = drawn(8, 2)
    lags = flow.gradient_by_lag(step, xs, None, module, keep=True)
    state, total = None, tg.zeros((), dtype="float64")
    for x in xs:
        loss, state = step(x, state)
        total = total + loss
    assert all(p.grad is None for p in module.parameters())
    total.backward()
    assert lags.contributions is not None
    for key, p in module.named_parameters():
        close(lags.gradients[key], p.grad, 1e-12)
        close(lags.contributions[key].sum(axis=(0, 1)), p.grad, 1e-12)
        close(lags.masked(np.ones((8, 8)))[key], p.grad, 1e-12)
        assert not np.triu(lags.norms[key], 1).any()
        close(lags.norms[key], np.sqrt((lags.contributions[key].reshape(8, 8, -1) ** 2).sum(axis=2)), 1e-12)
        summed = sum(lags.contributions[key][t, t - 3] for t in range(3, 8))
        close(lags.by_lag[key][3], np.linalg.norm(summed), 1e-12)


def test_each_entry_is_what_bptt_by_hand_gives() -> None:
    """dl_t / dW_s for h_t = tanh(W h_{t-1} + x_t), l_t = |h_t|^2."""
    w, step, xs = moving_rnn()
    found = flow.gradient_by_lag(step, xs, tg.zeros(3, dtype="float64"), {"w": w}, keep=True).contributions
    assert found is not None
    hs = [np.zeros(3)]
    for x in xs:
        hs.append(np.tanh(w.data @ hs[-1] + x))
    for t in range(len(xs)):
        dh = 2 * hs[t + 1]
        for s in range(t, -1, -1):
            da = dh * (1 - hs[s + 1] ** 2)
            close(found["w"][t, s], np.outer(da, hs[s]), 1e-12)
            dh = w.data.T @ da


def test_a_head_is_used_at_lag_0_only_and_a_loss_at_the_end_fills_the_last_row() -> None:
    cell, head = nn.GRUCell(2, 3, dtype="float64"), nn.parameter(drawn(3))

    def step(x: Any, pair: Any) -> tuple[Tensor, Any]:
        t, h = pair
        y, h = cell(x[None], h)
        return (((y @ head).sum()) if t == 5 else tg.zeros(())), (t + 1, h)

    start = 0, tg.zeros(1, 3, dtype="float64")
    lags = flow.gradient_by_lag(step, drawn(6, 2), start, {"W": cell.weight_ih, "head": head})
    assert list(lags.norms) == ["W", "head"]
    assert lags.norms["head"].nonzero() == (np.array([5]), np.array([5]))
    assert lags.norms["W"][5].all()
    assert not lags.norms["W"][:5].any()
    title, *rows = repr(lags).splitlines()
    assert title == "LagMap, lags 0 to 5, a shade for each power of ten"
    assert [row[:6] for row in rows] == ["W    |", "head |"]
    assert rows[1].startswith("head |@     | ")


def test_nothing_is_left_behind() -> None:
    """Leaves and gradients are the parameters' own again, after an error too."""
    module, step = model(CELLS["lstm"]())
    nodes = [p.node for p in module.parameters()]
    flow.gradient_by_lag(step, drawn(4, 2), None, module)
    with pytest.raises(ValueError, match="input_size 2"):
        flow.gradient_by_lag(step, drawn(4, 5), None, module)
    assert [p.node for p in module.parameters()] == nodes
    assert all(p.grad is None for p in module.parameters())


def test_parameters_in_every_form() -> None:
    w, step, xs = moving_rnn()
    start = tg.zeros(3, dtype="float64")
    for form, name in ((w, "0"), ([w], "0"), (iter([w]), "0"), ({"w": w}, "w")):
        assert flow.gradient_by_lag(step, iter(xs), start, form).norms[name].shape == (9, 9)


def test_what_it_refuses() -> None:
    w, step, xs = moving_rnn()
    start = tg.zeros(3, dtype="float64")
    with pytest.raises(ValueError, match="there are no steps"):
        flow.gradient_by_lag(step, [], start, w)
    with pytest.raises(ValueError, match="there are no parameters"):
        flow.gradient_by_lag(step, xs, start, [])
    with pytest.raises(ValueError, match="a parameter was given twice"):
        flow.gradient_by_lag(step, xs, start, [w, w])
    with pytest.raises(TypeError, match="'0' must be a leaf that requires a gradient"):
        flow.gradient_by_lag(step, xs, start, w * 2)
    with pytest.raises(ValueError, match=r"loss of step 0 has shape \(3,\)"):
        flow.gradient_by_lag(lambda x, h: (w @ h + x, h), xs, start, w)
    with pytest.raises(GraphError, match="no loss has a history"), tg.no_grad():
        flow.gradient_by_lag(step, xs, start, w)
    doubled = w * 2
    with pytest.raises(GraphError, match="'0' was used before the first step"):
        flow.gradient_by_lag(lambda x, h: ((doubled @ h).sum(), w @ h + x), xs, start, w)
    others = {name: tg.ones(3, requires_grad=True) for name in ("scale", "shift")}
    with pytest.raises(GraphError, match=r"no loss depends on scale, shift; are these what step uses\?"):
        flow.gradient_by_lag(step, xs, start, others)
    lags = flow.gradient_by_lag(step, xs, start, w)
    with pytest.raises(ValueError, match="keep=True"):
        lags.masked(np.ones((9, 9)))
    with pytest.raises(ValueError, match=r"need an array of \(9, 9\), not \(3, 3\)"):
        flow.gradient_by_lag(step, xs, start, w, keep=True).masked(np.ones((3, 3)))


def test_the_plot_has_a_map_and_curves() -> None:
    pytest.importorskip("matplotlib")
    module, step = model(CELLS["lstm"]())
    figure = flow.gradient_by_lag(step, drawn(8, 2), None, module).plot()
    left, right, *_ = figure.axes
    assert left.images[0].get_array().shape == (8, 8)
    assert len(right.lines) == len(list(module.parameters()))
    assert (left.get_xlabel(), right.get_yscale()) == ("use in step s", "log")
    figure.canvas.draw()


def test_it_does_not_depend_on_the_device(device: Backend) -> None:
    """On a stand-in for a GPU, which refuses to mix its arrays with NumPy's."""
    found = []
    for where in ("numpy", device.name):
        w = tg.tensor(drawn(3, 3) / 2, backend=where, requires_grad=True)
        xs = [tg.tensor(x, backend=where) for x in drawn(7, 3)]

        def step(x: Any, h: Any, w: Tensor = w) -> tuple[Tensor, Any]:
            h = tg.tanh(tg.linear(h, w) + x)
            return (h * h).sum(), h

        start = tg.zeros(3, dtype="float64", backend=where)
        found.append(flow.gradient_by_lag(step, xs, start, w).norms["0"])
        for window in bptt.truncated(step, xs, start, 2, 4):
            window.backward(window.steps / 2)
        found.append(w.grad.numpy())
        w.grad = None
        found.append(window.losses.numpy())
    for a, b in zip(found[:3], found[3:], strict=True):
        close(a, b, 1e-12)
