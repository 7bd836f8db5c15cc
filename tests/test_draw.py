"""Drawings: all of the graph, once, in its place; and the same in words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import GraphError, Tensor, bptt, flow, nn, tape
from tinygrad_rnn.draw.layout import BOX_HEIGHT, DETAIL_WIDTH, Box, Layout, left_edge
from tinygrad_rnn.draw.sketch import Item, Sketch, sketch
from tinygrad_rnn.draw.svg import COLOURS, DASHES, MEANINGS
from tinygrad_rnn.graph import edges_of, reachable

SVG = "{http://www.w3.org/2000/svg}"


class Model(nn.Module):
    def __init__(self, cell: nn.Cell) -> None:
        self.cell, self.head = cell, nn.Linear(cell.output_size, 4)

    def loss(self, steps: int, state: Any = None) -> Tensor:
        outputs, _ = bptt.unroll(self.cell, tg.randn(steps, 2, 3), state)
        return nn.cross_entropy(self.head(outputs), tg.zeros(steps, 2).astype(int))


def lstm_loss(steps: int = 4) -> tuple[Model, Tensor]:
    model = Model(nn.LSTMCell(3, 5))
    return model, model.loss(steps)


def plain(output: Tensor) -> Sketch:
    return sketch(output, None, None, 0, False)


def edges_in(picture: str, kind: str) -> Counter[tuple[int, int]]:
    found = [p for p in ET.fromstring(picture).iter(f"{SVG}path") if p.get("class") == kind]
    return Counter((int(p.get("data-from", "")), int(p.get("data-to", ""))) for p in found)


def boxes_in(picture: str) -> Counter[int]:
    groups = ET.fromstring(picture).iter(f"{SVG}g")
    return Counter(int(g.get("data-id", "")) for g in groups if g.get("data-id"))


def graphs() -> dict[str, Any]:
    """Outputs with graphs of many kinds."""
    w = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    deep = nn.GRU(3, 4, num_layers=2, bidirectional=True)
    model, decoder = Model(nn.RNNCell(3, 5)), nn.LSTMCell(3, 5)
    _, carried = bptt.unroll(model.cell, tg.randn(3, 2, 3))
    _, encoded = bptt.unroll(nn.LSTMCell(3, 5), tg.randn(5, 2, 3))
    return {
        "two windows": model.loss(4, carried),
        "decoder": bptt.unroll(decoder, tg.randn(2, 2, 3), encoded)[0].sum(),
        "skips": bptt.unroll(nn.SkipThroughTime(nn.RNNCell(3, 5), (-1, -3)), tg.randn(7, 2, 3))[0].sum(),
        "lstm": lstm_loss()[1],
        "one step": lstm_loss(1)[1],
        "deep": deep(tg.randn(5, 2, 3), lengths=[5, 3])[0].sum(),
        "squares": (w * w + w).sum(),
        "leaf alone": w,
        "no leaf in time": bptt.unroll(nn.RNNCell(3, 2), tg.randn(3, 1, 3)).state,
        "variadic": tg.concatenate([w, tg.ones(2, 2), w], axis=0).sum(),
    }


@pytest.fixture(params=list(graphs()))
def output(request: pytest.FixtureRequest) -> Any:
    return graphs()[request.param]


# ---- all of it, once ----


def test_every_node_and_every_edge_is_there_once(output: Tensor) -> None:
    nodes = reachable([output.node])
    edges = Counter((edge.parent.id, node.id) for node in nodes for edge in edges_of(node))
    picture = tg.draw(output, "svg", fold=None, backward=True)
    assert boxes_in(picture) == Counter(node.id for node in nodes)
    assert edges_in(picture, "forward") + edges_in(picture, "state") == edges
    assert edges_in(picture, "backward") == Counter((b, a) for a, b in edges.elements())
    in_dot = re.findall(r"n(\d+) -> n(\d+)", tg.draw(output, "dot", fold=None))
    assert Counter((int(a), int(b)) for a, b in in_dot) == edges
    words = tg.draw(output, fold=None)
    for node in nodes:
        assert len(re.findall(rf"^ *{re.escape(repr(node))} ", words, re.MULTILINE)) == 1
    assert sum(line.partition(" <- ")[2].count("#") for line in words.splitlines()) == sum(edges.values())


def test_one_column_for_each_time_step() -> None:
    _, loss = lstm_loss(5)
    layout = Layout(plain(loss), 8)
    assert [stripe.step for stripe in layout.stripes] == [0, 1, 2, 3, 4]
    ends = [(stripe.x, stripe.x + stripe.width) for stripe in layout.stripes]
    assert all(a[1] < b[0] for a, b in pairwise(ends))
    for box in layout.boxes.values():
        if box.column is not None:
            stripe = layout.stripes[box.column]
            assert box.item.step == stripe.step
            assert stripe.x <= box.x
            assert box.x + box.width <= stripe.x + stripe.width
            assert stripe.y < box.y
            assert box.y + BOX_HEIGHT < stripe.y + stripe.height
    counts = Counter(box.column for box in layout.boxes.values() if box.column is not None)
    assert set(counts.values()) == {15}  # of the LSTM's equations, and the slice of its input


def test_layers_and_directions_share_the_columns() -> None:
    deep = nn.RNN(3, 4, num_layers=2, bidirectional=True)
    layout = Layout(plain(deep(tg.randn(3, 2, 3))[0].sum()), 8)
    assert len(layout.stripes) == 4 * 3
    assert len({stripe.x for stripe in layout.stripes}) == 3
    assert len({stripe.y for stripe in layout.stripes}) == 4


# ---- where it is ----


def overlap(a: Box, b: Box) -> bool:
    return abs(a.middle - b.middle) < (a.width + b.width) / 2 and abs(a.y - b.y) < BOX_HEIGHT


def crosses(box: Box, start: tuple[float, float], end: tuple[float, float]) -> bool:
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    inside = left < box.x + box.width - 1 and right > box.x + 1
    return inside and top < box.y + BOX_HEIGHT - 1 and bottom > box.y + 1


def test_boxes_do_not_overlap_and_lines_do_not_cross_them(output: Tensor) -> None:
    layout = Layout(plain(output), 8)
    boxes = list(layout.boxes.values())
    assert not any(overlap(a, b) for k, a in enumerate(boxes) for b in boxes[:k])
    for wire in layout.wires:
        for start, end in pairwise(wire.points):
            assert start[0] == end[0] or start[1] == end[1]
            assert not any(crosses(box, start, end) for box in boxes)
        assert wire.points[0][1] == wire.parent.y + BOX_HEIGHT
        assert wire.points[-1][1] == wire.child.y
        for box, (x, _) in ((wire.parent, wire.points[0]), (wire.child, wire.points[-1])):
            assert box.x <= x <= box.x + box.width


def test_all_is_on_the_page_and_letters_are_in_their_boxes(output: Tensor) -> None:
    layout = Layout(plain(output), 8)
    for box in layout.boxes.values():
        assert 0 < box.x < box.x + box.width < layout.width
        assert 0 < box.y < box.y + BOX_HEIGHT < layout.height
        letter = 6.62 if box.item.kind == "leaf" else 7.83  # DejaVu Sans Mono: 0.602 em, at 11 and at 13 px
        assert letter * len(box.item.title) < box.width
        assert DETAIL_WIDTH * len(box.item.detail) < box.width
    for wire in layout.wires:
        assert all(0 < x < layout.width and 0 < y < layout.height for x, y in wire.points)


def test_lines_of_different_boxes_share_no_stretch_sideways(output: Tensor) -> None:
    layout = Layout(plain(output), 8)
    sideways = [
        (a[1], *sorted((a[0], b[0])), wire.parent)
        for wire in layout.wires
        for a, b in pairwise(wire.points)
        if a[0] != b[0]
    ]
    for k, (y, left, right, parent) in enumerate(sideways):
        for other_y, other_left, other_right, other in sideways[:k]:
            assert parent is other or y != other_y or right <= other_left or other_right <= left


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12))
def test_tracks_are_as_few_as_can_be(spans: list[tuple[int, int]]) -> None:
    items = [Item(k, "", "", "", "") for k in range(len(spans))]
    tracks = left_edge({item: [float(x) for x in span] for item, span in zip(items, spans, strict=True)})
    through = [sum(min(span) <= x <= max(span) for span in spans) for x in range(21)]
    assert len(set(tracks.values())) == max(through)
    for a, b in combinations(range(len(spans)), 2):
        if tracks[items[a]] == tracks[items[b]]:
            assert max(spans[a]) < min(spans[b]) or max(spans[b]) < min(spans[a])


# ---- names, constants, folding ----


def test_names_come_from_a_module_a_mapping_or_pairs() -> None:
    model, loss = lstm_loss()
    for names in (model, dict(model.named_parameters()), model.named_parameters()):
        assert ">cell.weight_hh<" in tg.draw(loss, "svg", names=names)
    w = tg.ones(2, requires_grad=True)
    h = w.tanh()
    assert re.search(r"tanh#\d+ h f32\[2\] <- .*\nsum#\d+ f32\[\] <- tanh#\d+ h$", tg.draw(h.sum(), names={"h": h}))
    assert {">tanh h<", ">f32[2]<"} <= set(re.findall(">[^<]*<", tg.draw(h.sum(), "svg", names={"h": h})))
    for wrong in ({"cell": model}, list(model.parameters()), 3):
        with pytest.raises(TypeError, match="draw: names are a module, or names and tensors"):
            tg.draw(h.sum(), names=wrong)


def test_a_part_is_titled_by_its_index() -> None:
    """So the gates of an LSTM can be told apart."""
    picture = tg.draw(bptt.unroll(nn.LSTMCell(3, 5), tg.randn(2, 4, 3)).outputs[-1].sum(), "svg")
    titles = Counter(t.text for t in ET.fromstring(picture).iter(f"{SVG}text"))
    gates = dict.fromkeys(["[:, 0:5]", "[:, 5:10]", "[:, 10:15]", "[:, 15:20]"], 2)
    assert titles.items() >= {"[0]": 1, "[1]": 1, "[-1]": 1, **gates}.items()
    assert "getitem" not in titles


def test_what_checkpointing_has_not_kept_is_marked() -> None:
    outputs = bptt.checkpointed(nn.RNNCell(3, 5), tg.randn(9, 2, 3), segments=3).outputs
    words = tg.draw(outputs.sum()).splitlines()
    assert sum("f32[3,2,5], run again" in line.partition(" <- ")[0] for line in words) == 2  # of three segments


def test_names_are_escaped() -> None:
    w = tg.ones(2, requires_grad=True)
    name = 'a<b & "c"\n\\'
    picture = tg.draw((w * 2).sum(), "svg", names={name: w})
    titles = [text.text for text in ET.fromstring(picture).iter(f"{SVG}text")]
    assert name in titles
    assert r'label="a<b & \"c\"\n\\\nf32[2]"' in tg.draw((w * 2).sum(), "dot", names={name: w})


def test_a_ring_where_a_constant_enters() -> None:
    """The state of the first step has no history, those of the others have; an absent bias is no constant."""
    model = Model(nn.LSTMCell(3, 5, bias=False))
    words = tg.draw(model.loss(3))
    before, first, second, *_ = re.split(r"time step \d\n", words)
    assert "constant x" in before
    assert first.count("constant") == 2
    assert second.count("constant") == 0
    assert "bias" not in words
    rings = [g for g in ET.fromstring(tg.draw(model.loss(3), "svg")).iter(f"{SVG}g") if g.get("class") == "constant"]
    assert len(rings) == 4  # and the targets


def key_of(output: Tensor, **options: Any) -> list[str]:
    picture = ET.fromstring(tg.draw(output, "svg", **options))
    lines = [g.findtext(f"{SVG}text") for g in picture.iter(f"{SVG}g") if g.get("class") == "key"]
    assert all(34 + 10 + 6.62 * len(line or "") < float(picture.get("width", 0)) for line in lines)
    return [line or "" for line in lines]


def test_a_key_says_what_is_in_the_picture_and_nothing_else() -> None:
    used, steps, back, cut = (MEANINGS[kind] for kind in ("forward", "state", "backward", "cut"))
    constant = "a constant: the gradient ends here"
    w = tg.ones(2, requires_grad=True)
    assert key_of((w * w).sum()) == [used]
    assert key_of((w * w).sum(), backward=True) == [used, back]
    assert key_of((w * w).sum(), backward=True, gradients=True) == [used, back, "a gradient of norm 1.4, the largest"]
    h, _ = bptt.unroll(nn.RNNCell(2, 3), tg.ones(3, 1, 2))
    assert key_of(h.sum()) == [used, steps, constant]
    cell = nn.RNNCell(2, 3)
    state = bptt.unroll(cell, tg.ones(2, 1, 2)).state
    horizon = tg.tape.mark()
    outputs, _ = bptt.unroll(cell, tg.ones(2, 1, 2), state)
    assert key_of(outputs.sum(), backward=True, horizon=horizon) == [used, steps, back, cut, constant]


def widths(picture: str) -> list[tuple[float, str, str]]:
    """Of the links back, newest first: width, colour, and what is told of them."""
    found = [p for p in ET.fromstring(picture).iter(f"{SVG}path") if p.get("class") == "backward"]
    found.sort(key=lambda p: int(p.get("style", "").removeprefix("--turn:")))
    return [(float(p.get("stroke-width", 0)), p.get("stroke", ""), p.findtext(f"{SVG}title") or "") for p in found]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e28])
def test_widths_go_by_the_logarithm_of_norms_however_small_or_large(scale: float) -> None:
    x = tg.ones(4, requires_grad=True)
    y = x * np.float32(scale)
    for _ in range(5):
        y = y * 1e-3
    y = y.sum() * 1.0
    options: dict[str, Any] = {"backward": True, "gradients": True}
    norms = [1.0, *(2 * 1e-3**k for k in range(6)), 2e-15 * scale]
    top = max(norms)
    for (width, _, told), norm in zip(widths(tg.draw(y, "svg", **options)), norms, strict=True):
        assert float(told.rpartition(" ")[2]) == pytest.approx(norm, rel=1e-2)
        assert width == pytest.approx(0.8 + 5.2 * max(0.0, 1 + np.log10(norm / top) / 8), abs=0.01)
    largest, least = key_of(y, **options)[-2:]
    assert largest == f"a gradient of norm {top:.2g}, the largest"
    assert least == f"one of {top / 1e8:.2g} or less; widths between go by the logarithm"


def test_infinite_gradients_have_a_colour_and_leave_others_their_widths() -> None:
    x, w = tg.tensor([1.0, 0.0], requires_grad=True), tg.ones(2, requires_grad=True)
    with np.errstate(all="ignore"):
        loss = (tg.sqrt(x) * w * 100).sum() + (w * 1000).sum()
        picture = tg.draw(loss, "svg", backward=True, gradients=True)
        key = key_of(loss, backward=True, gradients=True)
    assert MEANINGS["nonfinite"] in key
    assert key[-2:] == [
        "a gradient of norm 1.4e+03, the largest",
        "one of 1; widths between go by the logarithm",
    ]
    (strange,) = [link for link in widths(picture) if link[1] == COLOURS["nonfinite"]]
    assert re.fullmatch(r"sqrt#\d+ \(x\) \u2192 leaf#\d+, norm of the gradient inf", strange[2])
    assert len({width for width, *_ in widths(picture)}) > 3


def test_links_without_a_norm_are_dotted_where_others_have_one() -> None:
    cell = nn.RNNCell(2, 3)
    loss = bptt.unroll(cell, tg.ones(30, 1, 2)).outputs.sum()
    for gradients in (False, True):
        picture = tg.draw(loss, "svg", names=cell, backward=True, gradients=gradients)
        dotted = [
            p for p in ET.fromstring(picture).iter(f"{SVG}path") if p.get("stroke-dasharray") == DASHES["unmeasured"]
        ]
        ends = {(p.findtext(f"{SVG}title") or "").rpartition(" ")[2].partition("#")[0] for p in dotted}
        assert ends == ({"weight_hh", "linear"} if gradients else set())
        assert (MEANINGS["unmeasured"] in key_of(loss, backward=True, gradients=gradients)) == gradients


def test_a_long_time_is_folded() -> None:
    model, loss = lstm_loss(1000)
    picture = tg.draw(loss, "svg", names=model, fold=2)
    assert len(picture) < 100_000
    assert "996 steps" in picture
    assert [t.text for t in ET.fromstring(picture).iter(f"{SVG}text") if t.get("class") == "time"] == [
        "t = 0",
        "t = 1",
        None,
        "t = 998",
        "t = 999",
    ]
    words = tg.draw(loss)
    assert "994 time steps left out <- " in words
    assert len(words.splitlines()) < 130
    assert tg.draw(loss, "dot").count("cluster") == 7
    made = sketch(loss, None, 2, 0, True)
    (fold,) = [item for item in made.items if item.kind == "fold"]
    assert {link.parent.step for link in made.links if link.child is fold} == {None, 1}
    assert {link.child.step for link in made.links if link.parent is fold} == {None, 998}
    assert all(link.norm is not None for link in made.links if link.child.kind != "fold")


@pytest.mark.parametrize(("steps", "shown"), [(7, 7), (8, 7), (20, 7)])
def test_one_step_alone_is_not_folded(steps: int, shown: int) -> None:
    _, loss = lstm_loss(steps)
    assert tg.draw(loss, "dot").count("cluster") == shown


def test_all_but_one_end_can_be_folded() -> None:
    _, loss = lstm_loss(5)
    assert "5 time steps left out" in tg.draw(loss, fold=0)
    ET.fromstring(tg.draw(loss, "svg", fold=0))


# ---- truncation and gradients ----


def test_what_a_horizon_cuts_is_dashed() -> None:
    """The dashed edges are those over which nothing flows: the others bring all of the gradient."""
    cell = nn.RNNCell(3, 5)
    marks = []
    h: Any = cell.initial_state(tg.zeros(2, 5))
    xs = tg.randn(4, 2, 3)
    with tape.timeline() as mark:
        for t in range(4):
            marks.append(mark(t))
            _, h = cell(xs[t], h)
    loss = h.sum()
    picture = tg.draw(loss, "svg", horizon=marks[2], backward=True)
    cut, back = edges_in(picture, "cut"), edges_in(picture, "backward")
    ids = [node.id for node in reachable([loss.node]) if isinstance(node, tape.Node)]
    assert {b for _, b in back} >= {id for id in ids[:-1] if id >= marks[2]}
    assert all(a >= marks[2] and (b >= marks[2] or b not in ids) for a, b in back)
    assert {b for a, b in cut if a in ids and a < marks[2] <= b}  # the state's own edge
    assert sum(cut.values()) + sum(back.values()) == sum(len(edges_of(node)) for node in reachable([loss.node]))
    assert "(cut)" in tg.draw(loss, horizon=marks[2])
    assert "style=dashed" in tg.draw(loss, "dot", horizon=marks[2])
    assert not edges_in(tg.draw(loss, "svg"), "cut")
    assert not edges_in(tg.draw(loss, "svg", horizon=0), "cut")


def test_a_window_is_drawn_up_to_its_horizon() -> None:
    """What lies beyond was freed when the stream went on."""
    cell, losses = nn.RNNCell(3, 5), []

    def step(x: Any, h: Any) -> Any:
        y, h = cell(x, h)
        losses.append((y * y).mean())
        return losses[-1], h

    for window in bptt.truncated(step, tg.randn(9, 2, 3), None, k1=3, k2=5):
        loss = tg.stack(losses[-3:]).mean()
        words = tg.draw(loss, horizon=window.horizon, gradients=True)
        assert re.findall(r"time step (\d)", words) == [str(t) for t in range(window.reach, window.stop)]
        assert words.count("(cut)") == (window.reach > 0)
        if window.reach:
            with pytest.raises(GraphError, match="was freed by backward"):
                tg.draw(loss)


@pytest.mark.parametrize("k2", [2, 3, 5])
def test_a_window_knows_its_losses_and_its_horizon(k2: int) -> None:
    """Drawn as the mean of its losses within reach is, which a tensor made by hand shows."""
    cell, losses = nn.RNNCell(3, 5, dtype="float64"), []

    def step(x: Any, h: Any) -> Any:
        y, h = cell(x, h)
        losses.append((y * y).mean())
        return losses[-1], h

    def told(made: Sketch) -> dict[tuple[int, int, str], float]:
        return {(k.parent.id, k.child.id, k.input): k.norm or 0.0 if k.followed else -1.0 for k in made.links}

    for window in bptt.truncated(step, tg.randn(9, 2, 3, dtype="float64"), None, k1=3, k2=k2):
        mean = tg.stack(losses[-min(k2, 3) :]).sum() / 3
        for steps in (False, True):
            own, by_hand = (told(sketch(x, None, None, window.horizon, True, steps)) for x in (window, mean))
            assert own == pytest.approx({link: by_hand[link] for link in own})
            assert len(by_hand) - len(own) == min(k2, 3) + 2  # into the stack, the sum, and the quotient
        assert tg.draw(window, gradients=True) == tg.draw(window, gradients=True, horizon=window.horizon)
        picture = tg.draw(window, "svg", names=cell, backward=True)
        assert sum(edges_in(picture, "cut").values()) == (window.reach > 0)
        window.backward()
        with pytest.raises(GraphError, match=r"draw: Window\(.*\) has no history; .* a window that is over"):
            tg.draw(window)


def test_norms_are_those_of_single_uses() -> None:
    """Of a weight that is used in every step too, though backward merges its uses: against the closed form."""
    u = tg.tensor([[0.5]], dtype="float64", requires_grad=True)
    h = tg.tensor([[1.0]], dtype="float64")
    with tape.timeline() as mark:
        for t in range(4):
            mark(t)
            h = tg.linear(h, u)
    made = sketch(h.sum(), {"u": u}, None, 0, True)
    uses = {link.child.step: link.norm for link in made.links if link.parent.kind == "leaf"}
    assert uses == pytest.approx(dict.fromkeys(range(4), 0.5**3))  # h_4 = u^4, and each use gives u^3 of 4 u^3
    states = {link.child.step: link.norm for link in made.links if link.input == "x" and link.child.step}
    assert states == pytest.approx({t: 0.5 ** (3 - t) * 0.5 for t in (1, 2, 3)})
    assert "|g| 0.125" in tg.draw(h.sum(), gradients=True)
    assert 'tooltip="norm of the gradient 0.125"' in tg.draw(h.sum(), "dot", gradients=True)


def test_norms_over_all_uses_add_up_to_the_gradient() -> None:
    """Of one row each, where contributions to different rows cannot cancel."""
    x = tg.tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    loss = sum(((x[t] * (t + 1)).sum() for t in range(3)), tg.tensor(0.0))
    made = sketch(loss, None, None, 0, True)
    norms = [link.norm for link in made.links if link.parent.kind == "leaf"]
    assert norms == pytest.approx([2**0.5, 2 * 2**0.5, 3 * 2**0.5])


def test_drawing_gradients_leaves_no_trace() -> None:
    model, loss = lstm_loss()
    picture = tg.draw(loss, "svg", gradients=True, backward=True)
    assert all(p.grad is None for p in model.parameters())
    assert len(set(re.findall(r'class="backward".*?stroke-width="([\d.]+)"', picture))) > 5
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_title_of_a_link_says_which_way_it_leads() -> None:
    w = tg.ones(2, requires_grad=True)
    picture = re.sub(r"#\d+", "", tg.draw(w.tanh().sum(), "svg", names={"w": w}, backward=True))
    titles = set(re.findall(r'<path class="(\w+)"[^>]*><title>(.*?)</title>', picture))
    assert {("forward", "w \u2192 tanh (x)"), ("backward", "tanh (x) \u2192 w")} <= titles


def test_backward_in_words_goes_from_new_to_old() -> None:
    w = tg.ones(2, requires_grad=True)
    *_, backward, third, second, first = tg.draw((w.tanh() * w).sum(), names={"w": w}, backward=True).splitlines()
    assert backward == "backward"
    assert [line.split("#")[0].strip() for line in (third, second, first)] == ["sum", "multiply", "tanh"]
    assert first.endswith("=> w")


# ---- whole time steps ----


def test_steps_are_boxes_of_all_their_operations() -> None:
    deep = nn.Stacked([nn.Bidirectional(nn.GRUCell(3, 5), nn.GRUCell(3, 5)), nn.LSTMCell(10, 4)])
    outputs = deep(tg.randn(20, 2, 3)).outputs
    picture = ET.fromstring(tg.draw(outputs.sum(), "svg", names=deep, steps=True, fold=2))
    titles = Counter(t.text for t in picture.iter(f"{SVG}text"))
    for name in ("layers.0.directions.0.cell", "layers.0.directions.1.cell", "layers.1.cell"):
        assert titles[name] == 4
    assert titles["16 steps"] == 3
    assert titles["tanh"] == 0
    whole, plain = (sketch(outputs.sum(), None, None, 0, False, steps) for steps in (True, False))
    assert sum(int(item.detail.split()[0]) for item in whole.items if item.kind == "step") == sum(
        item.step is not None for item in plain.items
    )
    assert sum({link.parent.step, link.child.step} == {3, 4} for link in whole.links) == 3
    assert "step 3\n  step#" in tg.draw(outputs.sum(), steps=True, fold=None)


@pytest.mark.parametrize("fold", [3, None])
def test_between_steps_flows_the_gradient_of_the_state(fold: int | None) -> None:
    """All uses of a state together, as those of a GRU's, which its gates keep and its products read."""
    run = bptt.unroll(nn.GRUCell(3, 5, dtype="float64"), tg.randn(12, 2, 3, dtype="float64"), record=True)
    loss = (run.outputs[-1] ** 3).sum()
    made = sketch(loss, None, fold, 0, True, True)
    found = {link.child.step: link.norm for link in made.links if None not in (link.parent.step, link.child.step)}
    norms = flow.gradient_norms(loss, run)
    for t in (1, 2, 3, 9, 10, 11):
        assert found[t] == pytest.approx(norms[t - 1], rel=1e-12)


# ---- what cannot be drawn ----


def test_a_graph_that_is_gone_cannot_be_drawn() -> None:
    model, loss = lstm_loss()
    loss.backward()
    with pytest.raises(GraphError, match=r"draw: the graph behind mean#\d+ \[\] was freed by backward; draw before it"):
        tg.draw(loss)
    with pytest.raises(GraphError, match=r"draw: .* has no history"):
        tg.draw(tg.ones(3))
    with pytest.raises(GraphError, match="is not a scalar"):
        tg.draw(model.head(tg.ones(5)), gradients=True)


def test_moving_links_light_up_in_the_order_of_the_walk() -> None:
    model, loss = lstm_loss(12)
    still = tg.draw(loss, "svg", names=model, backward=True)
    picture = tg.draw(loss, "svg", names=model, backward=True, moving=True)
    assert re.sub(r"@media(.|\n)*(?=</style>)", "", picture) == still
    assert "calc(var(--turn)*0.2s)" in picture
    found = [p for p in ET.fromstring(picture).iter(f"{SVG}path") if p.get("class") == "backward"]
    turns = {int(p.get("data-from", "")): int(p.get("style", "").removeprefix("--turn:")) for p in found}
    newest_first = [id for id, _ in sorted(turns.items(), key=lambda turn: turn[1])]
    assert newest_first[0] == reachable([loss.node])[-1].id
    folded = newest_first.index(min(turns))  # what stands for many steps has an id below 0
    assert [id for id in newest_first if id > 0] == sorted((id for id in turns if id > 0), reverse=True)
    assert min(turns) < 0 < folded < len(newest_first) - 1


# ---- the page ----


@pytest.mark.parametrize("backward", [True, False])
def test_a_page_is_whole_and_needs_nothing_else(output: Tensor, backward: bool) -> None:
    page = tg.draw(output, "html", backward=backward)
    ET.fromstring(page)
    assert tg.draw(output, "svg", backward=backward) in page
    assert set(re.findall(r"\w+://[^\"]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href|import|fetch)\b|url\((?!#)", page)
    ids = [part.get("id") for part in ET.fromstring(page).iter() if part.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("steps", [True, False])
def test_each_link_of_the_page_has_its_turn_and_each_box_its_time_step(steps: bool) -> None:
    """Newest first: a link's turn comes after those of all the links that lead to where it begins."""
    deep = nn.LSTM(3, 4, num_layers=2)
    loss = deep(tg.randn(12, 2, 3)).outputs.sum()
    page = ET.fromstring(tg.draw(loss, "html", steps=steps, backward=True, gradients=True))
    links = [p for p in page.iter(f"{SVG}path") if p.get("class") == "backward"]
    turn = {p.get("data-from"): int(p.get("style", "").removeprefix("--turn:")) for p in links}
    assert sorted(turn.values()) == list(range(len(turn)))
    assert all(turn[p.get("data-from")] < turn.get(p.get("data-to"), len(turn)) for p in links)
    boxes = {g.get("data-id"): g.get("data-step") for g in page.iter(f"{SVG}g") if g.get("data-id")}
    assert boxes.keys() == {end for p in links for end in (p.get("data-from"), p.get("data-to"))}
    times = Counter(boxes.values())
    assert set(times) == {None, "0", "1", "2", "3 to 8", "9", "10", "11"}
    assert times["3 to 8"] == 2


def test_names_are_escaped_in_the_page() -> None:
    name, w = "</title></svg><script>alert(1)</script>&\"'", tg.ones(2, requires_grad=True)
    page: Any = tg.draw((w * 2).sum(), "html", names={name: w}, backward=True)
    assert page.count("<script") == 1
    assert name in {text.text for text in ET.fromstring(page).iter(f"{SVG}text")}
    assert page._repr_html_().count("<") == 2


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_of_the_page_parses(tmp_path: Path) -> None:
    page = ET.fromstring(tg.draw(tg.ones(3, requires_grad=True).sum(), "html", backward=True))
    script = tmp_path / "page.js"
    script.write_text(page.findtext("body/script") or "", encoding="utf-8")
    subprocess.run(["node", "--check", str(script)], check=True)


# ---- bad arguments, notebooks ----


def test_bad_arguments_are_named() -> None:
    loss = tg.ones(3, requires_grad=True).sum()
    for wrong in ({"style": "svg"}, {"style": "dot", "backward": True}):
        with pytest.raises(ValueError, match="what can move is the way back in SVG"):
            tg.draw(loss, moving=True, **wrong)
    with pytest.raises(ValueError, match="'text', 'dot', 'svg' or 'html', not 'png'"):
        tg.draw(loss, "png")
    with pytest.raises(ValueError, match=r"fold .* not -1"):
        tg.draw(loss, fold=-1)


def test_a_notebook_shows_the_picture() -> None:
    loss = tg.ones(3, requires_grad=True).sum()
    picture: Any = tg.draw(loss, "svg")
    assert picture._repr_svg_() == picture
    assert picture._repr_html_() is None
    assert isinstance(picture, str)
    page: Any = tg.draw(loss, "html")
    assert page._repr_svg_() is None
    assert ET.fromstring(page._repr_html_()).get("srcdoc") == page.replace("\n", " ")  # as XML reads attributes
    words: Any = tg.draw(loss)
    assert words._repr_svg_() is words._repr_html_() is None
    assert repr(words) == words
