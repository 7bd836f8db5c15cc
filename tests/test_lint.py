"""The mistakes that lint finds, each with its near misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Findings, Tensor, bptt, nn, optim, record, tape


class Model(nn.Module):
    def __init__(self, layer: Any = None) -> None:
        self.layer = nn.Recurrent(nn.LSTMCell(3, 5)) if layer is None else layer
        self.head = nn.Linear(5, 4)

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> Any:
        outputs, state = self.layer(x, state, lengths)
        return self.head(outputs), state


TARGETS = tg.zeros(6, 2).astype(int)


def window(model: Model, state: Any = None) -> tuple[Tensor, Any]:
    logits, state = model(tg.randn(6, 2, 3), state)
    return nn.cross_entropy(logits, TARGETS), state


def whats(findings: Findings) -> list[str]:
    return [finding.what for finding in findings]


# ---- how it is told ----


def test_nothing_found_is_false_and_says_so() -> None:
    model = Model()
    found = tg.lint(window(model)[0], model)
    assert not found
    assert str(found) == repr(found) == "nothing found"


def test_a_finding_says_what_where_why_and_how_to_mend_it() -> None:
    model = Model()
    loss, state = window(model)
    loss.backward()
    with tape.watching(record.Lines()):
        found = tg.lint(window(model, state)[0])
    text = str(found)
    assert text.startswith("mistake: the loss leads into a graph that an earlier backward has freed\n  where: ")
    assert "time step 5" in text
    assert "  why: " in text
    assert "  cure: state = bptt.detach(state)" in text


def test_the_source_line_is_told_where_it_was_watched() -> None:
    logits = tg.ones(2, 3, requires_grad=True)
    targets = tg.zeros(2).astype(int)
    with tg.detect_anomaly():
        loss = tg.cross_entropy(tg.softmax(logits), targets).mean()
        (found,) = tg.lint(loss)
    assert found.where.count("test_lint.py:") == 2
    with tg.detect_anomaly(), tape.timeline() as mark:
        mark(7)
        (timed,) = tg.lint(tg.cross_entropy(tg.softmax(logits), targets).mean())
    assert timed.where.count("time step 7") == 2  # once for each of two operations
    (found,) = tg.lint(loss)
    assert "test_lint.py" not in found.where


def test_the_graph_and_the_gradients_are_left_alone() -> None:
    model = Model()
    logits, _ = model(tg.randn(6, 2, 3), lengths=[6, 4])
    loss = nn.cross_entropy(logits, TARGETS)
    assert tg.lint(loss, model, outputs=logits, lengths=[6, 4])
    assert all(p.grad is None for p in model.parameters())
    loss.backward()


CELLS = [
    c for c in vars(nn).values() if isinstance(c, type) and issubclass(c, nn.WeightedCell) and c is not nn.WeightedCell
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_sound_training_is_not_disturbed(cell: Any) -> None:
    """Each cell, carried from window to window, with sequences that end and begin anew."""
    model = Model(nn.Recurrent(cell(3, 5)))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    state, starts = None, [False, True]
    for _ in range(3):
        state = nn.reset(state, starts)
        logits, after = model(tg.randn(6, 2, 3), state, lengths=[6, 4])
        mask = nn.length_mask([6, 4], 6)
        loss = nn.cross_entropy(logits, TARGETS, mask=mask)
        assert not tg.lint(
            loss, model, outputs=logits, mask=mask, state=state, starts=None if state is None else starts
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state = bptt.detach(after)


# ---- (1) older windows ----


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Recurrent(nn.LSTMCell(3, 5)),
        lambda: nn.GRU(3, 5, num_layers=2),
        lambda: nn.Stacked([nn.RNNCell(3, 5), nn.LSTMCell(5, 5)]),
        lambda: nn.Recurrent(nn.GRUCell(3, 5), h0="learned"),
    ],
)
def test_a_state_that_holds_an_older_window(layer: Any) -> None:
    model = Model(layer())
    loss, state = window(model)
    assert not tg.lint(loss)
    assert not tg.lint(window(model, bptt.detach(state))[0])
    assert whats(tg.lint(window(model, state)[0])) == ["a state still holds an older window"]
    now = tape.mark()
    assert not tg.lint(window(model, state)[0], horizon=now)
    loss.backward()
    assert whats(tg.lint(window(model, state)[0])) == ["the loss leads into a graph that an earlier backward has freed"]
    assert not tg.lint(window(model, bptt.detach(state))[0])


def test_each_older_window_is_found() -> None:
    model = Model()
    state = None
    for _ in range(3):
        loss, state = window(model, state)
    assert whats(tg.lint(loss)) == ["a state still holds an older window"] * 2


def test_one_loss_over_two_windows_is_meant() -> None:
    model = Model()
    first, state = window(model)
    second, _ = window(model, state)
    assert not tg.lint(first + second)


def test_an_encoders_state_is_no_older_window() -> None:
    encoder, decoder, head = nn.LSTMCell(3, 5), nn.LSTMCell(3, 5), nn.Linear(5, 4)
    _, state = bptt.unroll(encoder, tg.randn(6, 2, 3))
    outputs, _ = bptt.unroll(decoder, tg.randn(6, 2, 3), state)
    assert not tg.lint(nn.cross_entropy(head(outputs), TARGETS))


@pytest.mark.parametrize("steps", [2, 6])
def test_one_cell_in_two_layers_is_no_older_window(steps: int) -> None:
    cell = nn.GRUCell(5, 5)
    deep = nn.Stacked([cell, cell])
    assert not tg.lint(deep(tg.randn(steps, 2, 5))[0].sum())


def test_two_directions_are_no_older_window() -> None:
    deep = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    assert not tg.lint(deep(tg.randn(6, 2, 3))[0].sum())


# ---- (2) states that should have been reset ----


def test_rows_that_begin_with_an_old_state() -> None:
    model = Model()
    _, state = window(model)
    state = bptt.detach(state)
    starts = [False, True]
    found = tg.lint(window(model, state)[0], state=state, starts=starts)
    assert whats(found) == ["rows [1] begin a new sequence with the state of an old one"] * 2
    assert [f.where for f in found] == ["the leaf 'h' of the state", "the leaf 'c' of the state"]
    again = nn.reset(state, starts)
    assert not tg.lint(window(model, again)[0], state=again, starts=starts)
    assert not tg.lint(window(model, state)[0], state=state, starts=[0, 0])
    assert not tg.lint(window(model)[0], state=None)


def test_rows_that_should_begin_with_a_learned_state() -> None:
    loss = tg.ones(2, requires_grad=True).sum()
    state, initial = tg.ones(2, 3), tg.tensor([1.0, 1.0, 1.0])
    assert not tg.lint(loss, state=state, starts=tg.ones(2), initial=initial)
    assert len(tg.lint(loss, state=state, starts=tg.ones(2))) == 1
    assert len(tg.lint(loss, state=tg.zeros(2, 2, 3), starts=np.array([True, False]), initial=initial)) == 1


# ---- (3) parameters ----


def test_a_parameter_without_a_gradient_is_named() -> None:
    model = Model()
    model.spare = nn.Linear(2, 2, bias=False)
    (found,) = tg.lint(window(model)[0], model)
    assert found.what == "the parameter spare.weight gets no gradient"
    assert not found.note


def test_a_parameter_that_is_cut_off() -> None:
    model = Model()
    weight = model.head.weight
    outputs, _ = model.layer(tg.randn(6, 2, 3))
    loss = nn.cross_entropy(tg.linear(outputs, weight.detach(), model.head.bias), TARGETS)
    (found,) = tg.lint(loss, model)
    assert found.what == "the parameter head.weight is used, but cut off"
    assert found.where.startswith("weight of linear#")


def test_a_detach_further_on_leaves_parameters_without_a_gradient() -> None:
    model = Model()
    outputs, _ = model.layer(tg.randn(6, 2, 3))
    (found,) = tg.lint(nn.cross_entropy(model.head(outputs.detach()), TARGETS), model)
    assert found.what == "3 parameters get no gradient"
    assert found.where == "layer.cell.weight_ih, layer.cell.weight_hh, layer.cell.bias"


def test_a_graph_that_backward_will_rebuild_is_not_freed() -> None:
    """Nor is a parameter without gradient that is used only in there, such as those of an encoder."""
    first, second = nn.GRUCell(3, 5), nn.GRUCell(3, 5)
    _, state = bptt.checkpointed(first, tg.randn(9, 2, 3))
    outputs, _ = bptt.checkpointed(second, tg.randn(9, 2, 3), state)
    loss, model = (outputs**2).mean(), nn.ModuleList([first, second])
    assert not tg.lint(loss, model)
    loss.backward()
    assert first.weight_hh.grad is not None
    model.zero_grad()
    (found,) = tg.lint(loss)
    assert found.what == "the loss leads into a graph that an earlier backward has freed"


def test_gradients_of_an_earlier_backward_are_noted() -> None:
    model = Model()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    window(model)[0].backward()
    found = tg.lint(window(model)[0], model)
    assert whats(found) == ["parameters still hold a gradient"]
    assert found[0].note
    assert found[0].where == ", ".join(name for name, _ in model.named_parameters())
    optimizer.zero_grad()
    assert not tg.lint(window(model)[0], model)


def test_mistakes_come_before_notes_and_many_names_are_shortened() -> None:
    model = Model(nn.GRU(3, 5, num_layers=2))
    window(model)[0].backward()
    outputs, _ = model.layer(tg.randn(6, 2, 3))
    x = tg.ones(3, requires_grad=True)
    found = tg.lint(model.head(outputs.detach()).sum() + (x * np.ones(3)).sum() + x.softmax().softmax().sum(), model)
    assert [f.note for f in found] == [False, False, True, True, True]
    names = [name for name, _ in model.named_parameters()]
    assert found[0].what == "8 parameters get no gradient"
    assert found[0].where == ", ".join(names[:4]) + " and 4 more"


def test_constants_of_a_model_are_noted_together() -> None:
    model = Model()
    model.scale, model.layer.cell.weight_ih.requires_grad = tg.ones(4), False
    (found,) = tg.lint(window(model)[0], model)
    assert found.note
    assert found.what == "some tensors of the model are not trained"
    assert found.where == "layer.cell.weight_ih, scale"


def test_a_parameter_that_is_not_finite() -> None:
    model = Model()
    bias = np.zeros(4, "float32")
    bias[2] = np.nan
    model.head.bias.data = bias
    assert whats(tg.lint(window(model)[0], model)) == [
        "the loss is not finite",
        "the parameter head.bias is not finite",
    ]
    model.layer.cell.weight_hh.data *= np.float32("inf")
    found = tg.lint(window(model)[0], model)[1]
    assert (found.what, found.where) == ("2 parameters are not finite", "layer.cell.weight_hh, head.bias")


def test_a_parameter_that_was_changed_in_place() -> None:
    model = Model()
    loss, _ = window(model)
    model.head.weight.data -= 0.1
    (found,) = tg.lint(loss)
    assert found.what == "an array was changed in place after it was used"
    with pytest.raises(tg.GraphError, match="changed in place"):
        loss.backward()
    loss, _ = window(model)
    model.head.weight.data = model.head.weight.data - 0.1
    assert not tg.lint(loss)


# ---- (4) padding ----


@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_that_is_learned(batch_first: bool) -> None:
    model = Model(nn.LSTM(3, 5, batch_first=batch_first))
    shape = (2, 6) if batch_first else (6, 2)
    logits, _ = model(tg.randn(*shape, 3), lengths=[6, 4])
    targets = tg.zeros(*shape).astype(int)
    mask = nn.length_mask([6, 4], 6)
    mask = mask.T if batch_first else mask
    options = {"outputs": logits, "lengths": [6, 4], "batch_first": batch_first}
    (found,) = tg.lint(nn.cross_entropy(logits, targets), **options)
    assert found.what == "padding reaches the loss at 2 of 2 places"
    assert found.where.startswith(f"outputs{[1, 4] if batch_first else [4, 1]} ")
    assert not tg.lint(nn.cross_entropy(logits, targets, mask=mask), **options)
    assert not tg.lint(nn.cross_entropy(logits, targets, mask=mask), outputs=logits, mask=mask, batch_first=batch_first)
    assert not tg.lint(nn.cross_entropy(logits, targets), **(options | {"lengths": [6, 6]}))


def test_a_mean_that_counts_padding() -> None:
    logits, _ = Model()(tg.randn(6, 2, 3), lengths=[6, 4])
    mask = nn.length_mask([6, 4], 6)
    losses = tg.cross_entropy(logits, TARGETS) * mask.astype("float32")
    options = {"outputs": logits, "mask": mask}
    counted = ["a mean counts padding: it divides by 12 steps, of which 10 are real"]
    assert whats(tg.lint(losses.mean(), **options)) == counted
    assert whats(tg.lint(losses.reshape(12).mean(), **options)) == counted
    assert whats(tg.lint(losses.sum() / 12, **options)) == counted
    assert not tg.lint(losses.sum() / 10, **options)
    assert not tg.lint(losses.sum(), **options)
    assert not tg.lint(losses.sum() / float(mask.sum()), **options)
    assert not tg.lint((losses / np.full((6, 1), 12.0, "float32")).sum() / 10, **options)  # an array is no count
    assert not tg.lint(losses.sum() / 10 + (losses[:2].mean() + tg.ones(3).mean()), **options)  # nor are these all
    penalty = (tg.ones(6, 2, requires_grad=True) ** 2).mean()  # of the same shape, but of other things
    assert not tg.lint(losses.sum() / 10 + penalty, **options)


def test_outputs_that_the_loss_does_not_depend_on() -> None:
    model = Model()
    loss, _ = window(model)
    other, _ = model(tg.randn(6, 2, 3))
    assert whats(tg.lint(loss, outputs=other, lengths=[6, 4])) == ["the loss does not depend on these outputs"]


# ---- (5) the rest ----


def test_softmax_before_cross_entropy() -> None:
    logits, targets = tg.randn(6, 2, 4), TARGETS
    logits.requires_grad = True
    twice = "softmax before cross_entropy, which takes logits"
    assert whats(tg.lint(nn.cross_entropy(logits.softmax(), targets))) == [twice]
    assert whats(tg.lint(nn.cross_entropy(logits.softmax().reshape(12, 4), targets.reshape(12)))) == [twice]
    assert whats(tg.lint(nn.cross_entropy(logits.softmax(), targets, mask=TARGETS == 0))) == [twice]
    (note,) = tg.lint(nn.cross_entropy(logits.log_softmax(), targets))
    assert note.note
    assert not tg.lint(nn.cross_entropy(logits, targets))
    assert not tg.lint(nn.nll_loss(logits.log_softmax(), targets))
    assert not tg.lint(nn.cross_entropy(tg.linear(logits.softmax(), tg.eye(4)), targets))  # attention, say


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("lengths", [None, [6, 4]])
def test_ctc_of_logits(dtype: str, lengths: Any) -> None:
    head, x, labels = nn.Linear(3, 5).to(dtype), tg.randn(6, 2, 3).astype(dtype), np.array([[1, 2], [4, 3]])
    (found,) = tg.lint(nn.ctc_loss(head(x), labels, lengths), head)
    assert found.what == "scores above 0 in ctc_loss, which takes log-probabilities"
    assert found.where.startswith("path_sums#")
    assert ", from linear#" in found.where
    (found,) = tg.lint(nn.ctc_loss(head(x).softmax(), labels, lengths), head)
    assert ", from softmax#" in found.where
    assert not tg.lint(nn.ctc_loss((1000 * head(x)).log_softmax(), labels, lengths), head)
    assert not tg.lint(nn.ctc_loss(head(x).softmax().log(), labels, lengths), head)
    logits = tg.ones(6, 2, 5, requires_grad=True)
    assert whats(tg.lint(nn.ctc_loss(logits, labels, lengths))) == [found.what]


def test_float64_among_float32() -> None:
    x = tg.ones(3, requires_grad=True)
    (found,) = tg.lint((x * np.ones(3)).tanh().sum())
    assert found.what == "float32 becomes float64"
    assert found.note
    assert found.where.startswith("multiply#")
    assert not tg.lint((x * 2.0).sum())
    assert not tg.lint((x * np.ones(3, "float32")).sum())
    assert not tg.lint(x.astype("float64").sum())
    double = tg.ones(3, dtype="float64", requires_grad=True)
    assert not tg.lint((double * np.ones(3)).sum())
    (found,) = tg.lint((double * x).sum())
    assert found.cure == "x.astype('float32') for the data, nn.parameter(data, 'float32')"


def test_float64_parameters_of_float32_data() -> None:
    class Own(nn.Cell):
        def __init__(self) -> None:
            self.input_size, self.output_size = 3, 4
            self.w = nn.parameter(np.random.default_rng(0).standard_normal((4, 4)))
            self.u = nn.parameter(np.random.default_rng(1).standard_normal((4, 3)))

        def input_projection(self, x: Any) -> Any:
            return tg.linear(x, self.u)

        def step(self, z: Any, h: Any) -> Any:
            h = tg.tanh(tg.linear(h, self.w, z))
            return h, h

    cell, x = Own(), tg.randn(5, 2, 3)
    (found,) = tg.lint(bptt.unroll(cell, x).outputs.sum(), cell)
    assert found.note
    assert found.what == "float32 becomes float64"
    assert found.where.startswith("linear#")
    assert found.where.endswith("[5, 2, 4]; of the model, w, u are float64")
    assert not tg.lint(bptt.unroll(cell, x.astype("float64")).outputs.sum(), cell)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_float64_on_purpose_is_not_noted(cell: Any) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)).to("float64")
    layer = nn.Recurrent(cell(3, 5)).to("float64")
    outputs, _ = layer(model(tg.randn(6, 2, 3).astype("float64")), lengths=[6, 4])
    loss = nn.cross_entropy(outputs, TARGETS, mask=nn.length_mask([6, 4], 6))
    assert not tg.lint(loss, nn.ModuleList([model, layer]))
    assert not tg.lint((outputs * tg.ones(6, 2, 1)).sum())  # a mask of 0 and 1


def test_losses_that_backward_cannot_start_from() -> None:
    x = tg.ones(3, requires_grad=True)
    assert whats(tg.lint(x * 2)) == ["the loss is not a scalar"]
    assert whats(tg.lint(x.detach().sum())) == ["the loss has no history"]
    assert whats(tg.lint((x * np.float32("inf")).sum())) == ["the loss is not finite"]


def test_arguments_that_do_not_fit_together() -> None:
    loss = tg.ones(6, 2, requires_grad=True).sum()
    with pytest.raises(ValueError, match="outputs go with a mask or with lengths"):
        tg.lint(loss, outputs=loss)
    with pytest.raises(ValueError, match="outputs go with a mask or with lengths"):
        tg.lint(loss, lengths=[1, 2])
    with pytest.raises(ValueError, match="give the state that was carried in"):
        tg.lint(loss, starts=[1, 0])
    with pytest.raises(ValueError, match=r"starts of shape \(3,\) do not fit a state of shape \(2, 4\)"):
        tg.lint(loss, state=tg.ones(2, 4), starts=[1, 0, 1])


def test_what_is_no_loss_and_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="lint: a Tensor with its history is needed, such as a loss, not a float"):
        tg.lint(3.0)
    with pytest.raises(TypeError, match=r"lint: model is a Module, not a list; .* nn\.ModuleList"):
        tg.lint(tg.ones(1, requires_grad=True).sum(), [nn.Linear(2, 2)])
    with pytest.raises(TypeError, match="draw: a Tensor with its history is needed, such as a loss, not a ndarray"):
        tg.draw(np.ones(3))


def test_weights_that_the_model_does_not_know_are_noted() -> None:
    class Bare:
        """A cell, but no module."""

        def __init__(self) -> None:
            self.w = tg.ones(3, 3, requires_grad=True)

        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, z: Any, state: Any) -> Any:
            h = tg.tanh(z + state @ self.w)
            return h, h

    model = nn.Sequential(nn.Linear(3, 3))
    outputs, _ = bptt.unroll(Bare(), model(tg.ones(2, 1, 3)), tg.zeros(1, 3))
    (found,) = tg.lint(outputs.sum(), model)
    assert found.note
    assert "[3, 3]" in found.where
    assert "let the object that holds it be a Module" in found.cure
