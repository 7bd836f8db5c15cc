"""What a captured step promises beside its results: what may change, what is refused, and that nothing is lost."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds
from test_capture import Trainer, agree, batches, equal

import tinygrad_rnn as tg
from tinygrad_rnn import CaptureError, GraphError, bptt, nn, optim
from tinygrad_rnn.op import registry


def ready(step: Any, *args: Any) -> Any:
    """A captured step that has been recorded."""
    captured = tg.capture(step)
    for _ in range(3):
        captured(*args)
    return captured


def pair() -> tuple[nn.Linear, optim.SGD]:
    tg.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, optim.SGD(model.parameters(), lr=0.1)


def training(model: nn.Linear, optimizer: optim.SGD) -> Any:
    """A step that makes a model's outputs smaller."""

    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


# ---- what may change from call to call ----


def test_the_body_runs_twice_and_is_replayed_from_then_on(capsys: pytest.CaptureFixture[str]) -> None:
    def step(x: tg.Tensor) -> tg.Tensor:
        print("body")
        return (x * 2).sum()

    captured = tg.capture(step)
    assert [captured(tg.tensor([float(i)])).item() for i in range(5)] == [0, 2, 4, 6, 8]
    assert capsys.readouterr().out == "body\nbody\n"


def test_floats_among_the_arguments_may_change() -> None:
    captured = tg.capture(lambda x, scale: (x * scale + (1 - scale)).sum())
    for scale in (0.5, 0.25, 3.0, 7.5):
        assert captured(tg.tensor(X), scale).item() == pytest.approx((X * scale + (1 - scale)).sum(), rel=1e-5)
    assert len(captured._replays) == 1
    assert repr(captured).endswith("<lambda>, recordings: 1)")


def test_a_float_that_decides_something_has_a_recording_for_each_value() -> None:
    captured = tg.capture(lambda x, p: x * 2 if p > 1 else x)
    for p in (0.5, 2.0, 0.5, 2.0, 2.0):
        equal(captured(tg.tensor(X), p), X * 2 if p > 1 else X)


@pytest.mark.filterwarnings("ignore:capture.*recorded 16 times")
def test_other_shapes_dtypes_and_structures_are_recorded_anew_and_kept_in_bounds() -> None:
    captured = tg.capture(lambda tree: tg.tensor(0.0) + sum(x.sum() for x in tree.values()))
    for n in [1, 2, 3, 1, 2, 3, *range(1, 20), 1]:
        assert captured({"a": tg.ones(n), "b": tg.ones(2, n)}).item() == 3 * n
    assert captured({"a": tg.ones(2, dtype="float64")}).item() == 2.0
    assert len(captured._replays) <= 8


def test_a_python_value_that_the_step_uses_is_noticed_when_it_changes() -> None:
    settings = {"scale": 2.0}
    model = nn.Sequential(nn.Dropout(0.5))
    captured = tg.capture(lambda x: model(x) * settings["scale"])
    for _ in range(3):
        assert captured(tg.ones(1000)).numpy().max() == 4.0
    settings["scale"] = 3.0
    for _ in range(3):
        assert captured(tg.ones(1000)).numpy().max() == 6.0
    model.eval()
    for _ in range(3):
        equal(captured(tg.ones(1000)), np.full(1000, 3.0))
    model.train()
    assert captured(tg.ones(1000)).numpy().max() == 6.0


def test_what_changes_at_every_call_gives_a_warning() -> None:
    settings = {"count": 0}
    captured = tg.capture(lambda x: x * settings["count"])

    def call_often() -> None:
        for count in range(8):
            settings["count"] = count
            equal(captured(tg.tensor(X)), X * count)

    with pytest.warns(UserWarning, match=r"recorded 5 times.*settings\['count'\]"):
        call_often()


def test_parameters_that_are_replaced_outside_are_read_anew() -> None:
    model, optimizer = pair()
    evaluate = ready(lambda x: model(x), tg.tensor(X))
    for factor in (2.0, -1.0, 0.5):
        model.weight.data = model.weight.data * factor
        equal(evaluate(tg.tensor(X)), model(tg.tensor(X)))
    model.weight.data *= 2
    equal(evaluate(tg.tensor(X)), model(tg.tensor(X)))

    train = ready(training(model, optimizer), tg.tensor(X))
    saved = model.state_dict()
    first = [train(tg.tensor(X)).item() for _ in range(5)]
    model.load_state_dict(saved)
    assert [train(tg.tensor(X)).item() for _ in range(5)] == first


def test_training_and_evaluation_share_parameters() -> None:
    trainer = Trainer(nn.GRUCell(5, 5))
    train = tg.capture(trainer.step)
    evaluate = tg.capture(lambda x: trainer.head(nn.unroll(trainer.recurrent, x).outputs))
    for x, target in batches(8):
        train(x, target)
        with tg.no_grad():
            equal(evaluate(x), trainer.head(nn.unroll(trainer.recurrent, x).outputs), exact=False)


def test_gradients_can_be_accumulated() -> None:
    results = []
    for wrap in (lambda f: f, tg.capture):
        model, optimizer = pair()

        def gather(x: Any, model: Any = model) -> Any:
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss.detach()

        gather = wrap(gather)
        for k in range(12):
            gather(tg.tensor(X * (k + 1)))
            if k % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        results.append([p.numpy() for p in model.parameters()])
    equal(*results)


def test_a_report_on_clipping_is_that_of_each_call() -> None:
    for clip in (tg.clip_grad_norm_, tg.clip_grad_value_):
        reports: list[Any] = []
        for wrap in (lambda step: step, lambda step: tg.capture(step, exact=True)):
            model, optimizer = pair()

            def step(x: Any, model: Any = model, optimizer: Any = optimizer, clip: Any = clip) -> Any:
                optimizer.zero_grad()
                (model(x) ** 2).sum().backward()
                report = clip(model.parameters(), 0.5)
                optimizer.step()
                return {"clipping": report}

            run = wrap(step)
            reports.append([run(tg.tensor(X * k))["clipping"] for k in range(1, 6)])  # looked at when all is done
        assert list(map(tuple, reports[0])) == list(map(tuple, reports[1]))
        assert len({report.norm for report in reports[1]}) == 5


def test_a_gradient_that_a_step_returns_is_that_of_its_call() -> None:
    model, optimizer = pair()

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        (model(x) ** 2).sum().backward()
        return model.weight.grad

    captured = tg.capture(step)
    found = [captured(tg.tensor(X * k)) for k in range(1, 6)]
    for k, gradient in enumerate(found[1:], 2):  # the first call is not a capture's: there it is .grad itself
        np.testing.assert_allclose(gradient.numpy(), step(tg.tensor(X * k)).numpy(), rtol=1e-5)


def test_masks_are_those_of_the_step_also_where_a_number_had_to_be_recorded_by_itself() -> None:
    """The first attempt to record draws masks too."""
    results = []
    for wrap in (lambda step: step, lambda step: tg.capture(step, exact=True)):
        run = wrap(lambda x, scale: (tg.dropout(x, 0.5) * (1.0 if scale > 1 else 2.0)).sum())
        tg.manual_seed(3)
        results.append([run(tg.ones(40), scale).item() for scale in (0.5, 0.5, 1.5, 1.5, 0.5)])
    assert results[0] == results[1]


def test_masks_and_lengths() -> None:
    layer, cell = nn.LSTM(3, 4), nn.LSTMCell(3, 4)
    x = tg.randn(6, 2, 3)
    masked = ready(lambda x, mask: bptt.unroll(cell, x, mask=mask), x, tg.tensor(np.ones((6, 2), bool)))
    mask = tg.tensor(np.arange(6)[:, None] < np.array([2, 5]))
    equal(masked(x, mask), bptt.unroll(cell, x, mask=mask), exact=False)
    fixed = ready(lambda x: layer(x, lengths=[4, 6]), x)
    equal(fixed(x * 2), layer(x * 2, lengths=[4, 6]), exact=False)


def test_truncated_windows_inside_a_step() -> None:
    results = []
    for wrap in (lambda step: step, lambda step: tg.capture(step, exact=True)):
        tg.manual_seed(0)
        cell, head = nn.LSTMCell(3, 4), nn.Linear(4, 1)
        optimizer = optim.SGD([*cell.parameters(), *head.parameters()], lr=0.1)

        def one(x: Any, state: Any, cell: Any = cell, head: Any = head) -> Any:
            y, state = cell(x, state)
            return (head(y) ** 2).mean(), state

        def step(xs: Any, state: Any, optimizer: Any = optimizer, one: Any = one) -> Any:
            optimizer.zero_grad()
            losses = []
            for window in bptt.truncated(one, xs, state, k1=3, k2=5):
                window.backward()
                losses.append(window.loss)
                state = window.state
            optimizer.step()
            return losses, state

        run, state = wrap(step), nn.LSTMState(tg.zeros(2, 4), tg.zeros(2, 4))
        for k in range(5):
            losses, state = run(tg.tensor(np.random.default_rng(k).standard_normal((9, 2, 3)).astype("f4")), state)
        results.append((losses, state, list(cell.parameters())))
    equal(*results)


# ---- what is refused, with everything as it was ----


def refused(step: Any, match: str) -> None:
    model, optimizer = pair()
    before = [p.numpy() for p in model.parameters()]

    def whole(x: tg.Tensor) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        if step.__code__.co_argcount == 1:
            step(loss)
        optimizer.step()
        return loss

    captured = tg.capture(whole)
    captured._called = True
    with pytest.raises(CaptureError, match=match):
        captured(tg.tensor(X))
    equal([p.numpy() for p in model.parameters()], before)
    assert all(isinstance(p.data, np.ndarray) for p in model.parameters())
    optimizer.step()  # and the model can be used as ever
    assert np.isfinite(model(tg.tensor(X)).numpy()).all()


KEPT: list[Any] = []
COUNT = {"calls": 0}
OWN, LEGACY, MODERN = random.Random(0), np.random.RandomState(0), np.random.default_rng(0)


def _append(loss: Any) -> None:
    KEPT.append(loss)


def _count(loss: Any) -> None:
    COUNT["calls"] += 1


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda loss: loss.item(), r"reads an array's numbers.*test_capture_face\.py:\d+"),
        (lambda loss: loss.numpy(), "copies an array to the host"),
        (lambda loss: print("big") if loss > 1 else None, "reads an array's numbers"),
        (lambda loss: float(loss), "reads an array's numbers"),
        (lambda loss: np.sort(loss.data), r"array.*test_capture_face\.py:\d+"),
        (lambda loss: tg.backend.host.generator.random(), "drew random numbers"),
        (lambda loss: random.random(), "drew random numbers"),
        (lambda loss: np.random.rand(), "drew random numbers"),
        (lambda loss: OWN.random(), "drew random numbers"),
        (lambda loss: LEGACY.rand(), "drew random numbers"),
        (lambda loss: MODERN.random(), "drew random numbers"),
        (_append, "KEPT|length of a list"),
        (_count, r"COUNT\['calls'\]"),
    ],
)
def test_what_a_replay_could_not_do_is_refused(step: Any, match: str) -> None:
    refused(step, match)


def test_states_with_a_history_are_refused_with_the_cure() -> None:
    cell = nn.LSTMCell(3, 4)
    captured = tg.capture(lambda x, state: bptt.unroll(cell, x, state))
    x = tg.randn(2, 2, 3)
    _, state = captured(x, None)
    assert not state.h.requires_grad  # from the first call on
    captured(x, state)
    with pytest.raises(CaptureError, match="detach"):
        captured(x, bptt.unroll(cell, x).state)


def test_errors_inside_a_replay_come_before_anything_changes() -> None:
    embedding = nn.Embedding(5, 3)
    optimizer = optim.SGD(embedding.parameters(), lr=0.1)

    def step(indices: tg.Tensor) -> Any:
        optimizer.zero_grad()
        loss = embedding(indices).sum()
        loss.backward()
        tg.clip_grad_norm_(embedding.named_parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    captured = ready(step, tg.tensor([1, 2]))
    before = embedding.weight.numpy()
    with pytest.raises(IndexError, match="7 is out of range"):
        captured(tg.tensor([1, 7]))
    equal(embedding.weight, before)
    captured(tg.tensor([0, 4]))
    assert (embedding.weight.numpy() != before).any()


@pytest.mark.parametrize(("target", "told"), [(9, "the target 9 is out of range"), (-100, "given ignore_index=-100")])
def test_a_target_that_is_no_class_is_told_when_a_step_is_recorded_too(target: int, told: str) -> None:
    captured = tg.capture(lambda targets: nn.cross_entropy(tg.zeros(2, 5), targets))
    for _ in range(2):
        with pytest.raises(IndexError, match=told):
            captured(tg.tensor([0, target]))


def test_an_error_inside_a_replay_names_the_operation_and_the_line() -> None:
    model, weight = nn.Recurrent(nn.GRUCell(3, 4)), tg.ones(6, 3)

    @tg.capture
    def step(indices: Any) -> Any:
        state = None
        for t in range(3):
            _, state = model.cell(tg.embedding(indices[t], weight), state)
        return state

    for _ in range(3):
        step(np.zeros((3, 2), int))
    with pytest.raises(IndexError, match=r"embedding: the index 6 .*, test_capture_face\.py:\d+, in a replay"):
        step(np.full((3, 2), 6))


def test_lengths_and_labels_out_of_range_are_refused_in_replays_too() -> None:
    model = nn.GRU(3, 4)
    scores = tg.log_softmax(tg.zeros(5, 2, 3))
    outputs = tg.capture(lambda lengths: model(tg.ones(5, 2, 3), lengths=lengths).outputs)
    loss = tg.capture(lambda labels, lengths: nn.ctc_loss(scores, labels, lengths, lengths))
    labels, lengths = np.array([[1, 2], [1, 1]]), np.array([2, 1])
    for _ in range(3):
        outputs(lengths)
        loss(labels, lengths)
    with pytest.raises(ValueError, match="row 1 has length 6, but lengths run from 0 to 5"):
        outputs(np.array([2, 6]))
    with pytest.raises(ValueError, match="label 3 is not among 3 classes"):
        loss(labels + 1, lengths)
    with pytest.raises(ValueError, match="row 0 has length 3, but target_lengths run from 0 to 2"):
        loss(labels, lengths + 1)
    assert sum(outputs._recorded.values()) == sum(loss._recorded.values()) == 1


def test_older_graphs_notice_that_a_replay_wrote_to_their_parameters() -> None:
    model, optimizer = pair()

    captured = ready(training(model, optimizer), tg.tensor(X))
    x = tg.tensor(X, requires_grad=True)
    older = model(x).sum()
    captured(tg.tensor(X))
    with pytest.raises(GraphError, match="changed in place"):
        older.backward()


def test_wrong_options_and_calls_out_of_turn() -> None:
    with pytest.raises(ValueError, match=r"no pass 'melt'.*widen"):
        tg.capture(lambda x: x, without=["melt"])
    assert tg.capture(lambda x: x, without="batch").without == {"batch"}
    with pytest.raises(TypeError, match="a function is needed"):
        tg.capture(3)
    with pytest.raises(RuntimeError, match="nothing is recorded yet"):
        tg.capture(lambda x: x).source()


def test_a_captured_step_within_another_becomes_a_part_of_it() -> None:
    inner = tg.capture(lambda x: x * 2)
    outer = tg.capture(lambda x: inner(x) + 1)
    for k in range(5):
        equal(inner(tg.tensor(X * k)), X * k * 2)
        equal(outer(tg.tensor(X * k)), X * k * 2 + 1)


def test_gradients_go_through_a_captured_step_within_another() -> None:
    model, _ = pair()
    inner = ready(lambda x: model(x), tg.tensor(X))

    def step(x: Any) -> Any:
        loss = (inner(x) ** 2).sum()
        return tg.grad(loss, list(model.parameters()))

    outer = tg.capture(step)
    expected = tg.grad((model(tg.tensor(X)) ** 2).sum(), list(model.parameters()))
    for _ in range(4):
        equal(outer(tg.tensor(X)), expected, exact=False)


# ---- what can be looked at ----


def trained(cell: Any = nn.LSTMCell) -> Any:
    trainer = Trainer(cell(5, 5))
    captured = tg.capture(trainer.step)
    for x, target in batches(3):
        captured(x, target)
    return trainer, captured


def test_source_before_and_after_each_pass() -> None:
    _, captured = trained()
    recorded, last = captured.source(""), captured.source()
    assert "sigmoid" in recorded
    assert "sigmoid" not in captured.source("lower")
    assert "# backward, time step 5" in recorded
    assert last.count("\n") < captured.source("lower").count("\n")
    with pytest.raises(ValueError, match="no pass 'melt'"):
        captured.source("melt")


def test_shapes_read_as_they_do_everywhere() -> None:
    captured = tg.capture(lambda x: tg.where(x > 0, x, 0.0))
    for _ in range(3):
        captured(tg.ones(3))
    assert "bool[3]" in captured.source()
    assert "bool[3]" in str(captured.memory)


def test_source_runs_as_python() -> None:
    """The lines that were recorded, executed with the operations by name, give the step's loss and gradients."""
    cell = nn.LSTMCell(3, 4)
    parameters = list(cell.parameters())

    def step(x: tg.Tensor) -> Any:
        outputs, _ = bptt.unroll(cell, x)
        loss = (outputs * outputs).sum()
        return loss, tg.grad(loss, parameters)

    x = tg.randn(5, 2, 3)
    captured = ready(step, x)
    program = captured.replay.program_after("")
    names: dict[str, Any] = {op.name: op.function for op in registry.values()} | {"np": np, "argument_0": x.data}
    for line in program.lines:
        names |= {value.name: value.constant for value in line.reads if value.constant is not None}
    names |= {"parameters": [p.data for p in parameters]}
    exec(str(program), names)
    results = [names[value.name] for value in program.results]
    equal(results, step(x))


def test_profile_is_a_real_step_and_counts_products() -> None:
    trainer, captured = trained()
    x, target = next(batches(1))
    before = trainer.parameters[0].numpy()
    profile = captured.profile(x, target)
    assert (trainer.parameters[0].numpy() != before).any()
    assert profile.kinds["forward dot"].flops >= 2 * 6 * 2 * 20 * 5
    assert "GFLOP/s" in str(profile)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.LayerNormLSTMCell, nn.RNNCell])
def test_memory_is_shared_and_every_array_lies_within_its_own(cell: Any) -> None:
    _, captured = trained(cell)
    memory = captured.memory
    assert 0 < memory.planned < memory.naive / 2
    for _, call in captured.replay.player.calls:
        for array in [*call.args, *call.keywords.values()]:
            if isinstance(array, np.ndarray) and array.size:
                root: Any = array
                while getattr(root, "base", None) is not None:
                    root = root.base
                (low, high), (start, stop) = byte_bounds(root), byte_bounds(array)
                assert low <= start <= stop <= high


def test_threads_take_turns() -> None:
    model, _ = pair()
    captured = ready(lambda x: model(x).sum(axis=1), tg.tensor(X))
    wrong = []

    def work(k: int) -> None:
        for i in range(50):
            x = tg.tensor(X * (k + i))
            if not np.allclose(captured(x).numpy(), model(x).sum(axis=1).numpy(), rtol=1e-4, atol=1e-4):
                wrong.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_cell_of_five_lines_is_recorded_like_any_other() -> None:
    """Products that its author did not split off are done for all steps at once, and so are sums, there and back."""

    class Own(nn.Module):
        def __init__(self) -> None:
            self.w, self.u = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.b = nn.parameter(np.zeros(5, np.float32))

        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, z: Any, state: Any) -> Any:
            h = tg.tanh(self.w(z) + self.u(state) + self.b)
            return h, h

        def initial_state(self, z: Any) -> Any:
            return tg.zeros(z.shape[0], 5)

    lines = agree(lambda: Trainer(Own()), exact=False).replay.program.lines
    forward = [(line.name, line.result.shape) for line in lines if line.phase == "forward"]
    assert forward.count(("dot", (12, 5))) == 1  # W x_t for all six steps
    assert forward.count(("add", (4, 2, 5))) == 1  # + b, but for the first two: a state of zeros makes another program
    assert [line.result.shape for line in lines if line.name == "sum" and line.inputs[0].shape == (6, 2, 5)] == [(5,)]


def test_kernels_that_write_in_place_what_they_made_are_taken_apart() -> None:
    """As ``linear`` does with its bias, on a view of its product."""
    weight, bias = tg.randn(4, 3), tg.randn(4)
    captured = ready(lambda x: tg.linear(x, weight, bias), tg.randn(5, 2, 3))
    assert [line.name for line in captured.replay.program.lines] == ["transpose", "reshape", "dot", "reshape", "add"]


def test_operations_of_ones_own_are_replayed_as_they_are() -> None:
    """Their kernels may look at values, or write into arrays of their own."""

    @tg.op
    def leaky(xp: Any, x: Any) -> Any:
        return x * 2.0 if x > 0 else x * 3.0

    @tg.op
    def twice_and_one(xp: Any, x: Any) -> Any:
        y = x * 2.0
        z = y.T
        y += 1.0
        return y + xp.add(z, 1.0, out=z).T

    leaky.vjp(x=lambda g, x: g * tg.where(x > 0, 2.0, 3.0))
    twice_and_one.vjp(x=lambda g: 4.0 * g)
    w = tg.ones(4, 3, requires_grad=True)

    def step(x: tg.Tensor) -> Any:
        loss = leaky(twice_and_one(x * w).sum())
        return loss.detach(), *tg.grad(loss, [w])

    captured = tg.capture(step)
    for k in (1, 2, 3, -1, -2):
        equal(captured(tg.tensor(X * k)), step(tg.tensor(X * k)), exact=False)


def test_an_operation_of_ones_own_may_have_the_name_of_another() -> None:
    engines = registry["square"]

    @tg.op
    def square(xp: Any, x: Any) -> Any:
        return x * x + 1

    square.vjp(x=lambda g, x: g * x * 2)
    assert registry["square"] is engines

    def step(x: tg.Tensor) -> tg.Tensor:
        return square(x) - tg.square(x)

    captured = tg.capture(step)
    for k in (1, 2, 3):
        equal(captured(tg.tensor(X * k)), step(tg.tensor(X * k)))


# ---- how it is called ----


class Own(Trainer):
    replayed = tg.capture(Trainer.step)


def test_methods_arguments_of_all_kinds_and_copies() -> None:
    tg.manual_seed(0)
    one, other = Own(nn.GRUCell(5, 5)), Own(nn.GRUCell(5, 5))
    for x, target in batches(4):
        for trainer in (one, other):
            trainer.replayed(x, target)
    assert len(one.replayed._replays) == len(other.replayed._replays) == 1
    twin = copy.deepcopy(one)
    result = one.replayed(x, target)
    equal(twin.replayed(x, target), result, exact=False)
    assert pickle.loads(pickle.dumps(one)).replayed.without == one.replayed.without

    captured = tg.capture(lambda x, *rest: x + len(rest))
    for rest in [({1, 2},), (slice(1), random.Random(0)), ({1, 2},)] * 3:
        equal(captured(tg.tensor(X), *rest), X + len(rest))


def test_numbers_that_need_a_recording_each_give_a_warning() -> None:
    captured = tg.capture(lambda x, k: x * k)

    def call_often() -> None:
        for k in range(18):
            equal(captured(tg.tensor(X), k), X * k)

    with pytest.warns(UserWarning, match=r"recorded 16 times, for arguments of 16 kinds.*as Python floats"):
        call_often()


def test_shapes_that_come_again_when_their_recording_is_gone() -> None:
    captured = tg.capture(lambda x: x * 2)

    def call_often() -> None:
        for _ in range(6):
            for n in range(10):
                equal(captured(tg.ones(n)), np.full(n, 2.0))

    with pytest.warns(UserWarning, match="arguments of 10 kinds, and 8 recordings are kept"):
        call_often()


def test_watchers_see_every_operation() -> None:
    captured = ready(lambda x: tg.log(x).sum(), tg.ones(3))
    with tg.detect_anomaly(), pytest.raises(FloatingPointError, match="log made"), np.errstate(all="ignore"):
        captured(-tg.ones(3))


def test_a_profile_is_of_the_arguments_that_it_is_given() -> None:
    captured = ready(lambda x: x * 2, tg.ones(4, 3))
    assert captured.profile(tg.ones(4, 3)).lines
    with pytest.raises(RuntimeError, match="no recording for these arguments"):
        captured.profile(tg.ones(3))


@pytest.mark.parametrize("number", [float, np.float32])
def test_zeros_of_both_signs_stay_apart(number: Any) -> None:
    captured = tg.capture(lambda x: (1 / (x * number(0.0)), 1 / (x * number(-0.0))), exact=True)
    for _ in range(4):
        with np.errstate(divide="ignore"):
            equal(captured(tg.ones(2)), [np.full(2, np.inf), np.full(2, -np.inf)])


def test_arguments_that_are_zeros_of_both_signs_are_two_recordings() -> None:
    def step(x: Any, a: Any) -> Any:
        return 1 / (x * float(a))  # which makes a constant of it

    captured = tg.capture(step)
    with np.errstate(divide="ignore"):
        for a in (0.0, 0.0, -0.0, np.float32(0.0), np.float32(-0.0)):
            equal(captured(tg.ones(2), a), step(tg.ones(2), a))


def test_a_process_that_has_drawn_nothing_yet() -> None:
    """NumPy loads its generators when they are asked for first, which no step has done then."""
    program = (
        "import numpy as np, tinygrad_rnn as tg\n"
        "double = tg.capture(lambda x: x * 2)\n"
        "print([double(tg.tensor(np.ones(1))).item() for _ in range(3)])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[2.0, 2.0, 2.0]\n", run.stderr
