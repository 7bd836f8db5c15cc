"""A layout as standalone SVG, and a page that plays the way back on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import isfinite, log
from pathlib import Path

from .layout import BOX_HEIGHT, Box, Layout, Point, Stripe, Wire
from .sketch import Link, Sketch

FILLS = {  # by kind: fill and border
    "leaf": ("#fff3c4", "#d9a400"),
    "linear": ("#d6e6fb", "#3b78c4"),
    "squash": ("#fddcc9", "#d9703a"),
    "elementwise": ("#ffffff", "#8a94a3"),
    "reduce": ("#e7dcf7", "#8558c2"),
    "nn": ("#e7dcf7", "#8558c2"),
    "step": ("#d5efee", "#2f8f8a"),
    "fold": ("#eef0f3", "#b3bac4"),
}
OTHER = ("#e6efe6", "#7d9c80")
COLOURS = {  # of links
    "forward": "#6b7684",
    "state": "#1d4f91",
    "backward": "#d1345b",
    "unmeasured": "#d1345b",
    "nonfinite": "#8e24aa",
    "cut": "#a0a8b3",
}
DASHES = {"unmeasured": "1 4", "cut": "5 4"}
MEANINGS = {
    "forward": "a result and where it is used",
    "state": "from one time step to the next",
    "backward": "the gradient's way back",
    "unmeasured": "the same to or from steps that are left out, with a norm that is not computed",
    "nonfinite": "a gradient that is infinite or NaN",
    "cut": "not followed back",
}
WIDTHS = 0.8, 6.0  # of links, from the smallest gradient to the largest
_LINE = 16.0  # the height of a line of the key
RADIUS = 5.0  # of corners
_STYLE = """text{font-family:"DejaVu Sans Mono",Menlo,Consolas,monospace;text-anchor:middle;fill:#1f2733}
.title{font-size:13px;font-weight:600}.leaf .title{font-size:11px}.detail{font-size:9px;fill:#5b6776}
.time,.key text{font-size:11px;text-anchor:start;fill:#7a8594}path{fill:none;stroke-linejoin:round}"""
_MOTION = """@media(prefers-reduced-motion:no-preference){{
.backward{{opacity:.2;animation:pass {period:.1f}s calc(var(--turn)*{pace}s) linear infinite}}}}
@keyframes pass{{0%{{opacity:.2}}1%,3%{{opacity:1}}12%,100%{{opacity:.2}}}}"""
_PACE, _PAUSE = 0.2, 2.0  # seconds: for each operation of the backward pass, and before it repeats


def svg(sketch: Sketch, backward: bool, moving: bool = False) -> str:
    """The drawing as text that begins with <svg."""
    layout = Layout(sketch, pitch=12.0 if backward else 8.0)
    scale = _Scale([wire.link for wire in layout.wires])
    walked = {wire.link.child for wire in layout.wires if wire.link.followed}
    turns = {item: turn for turn, item in enumerate(item for item in reversed(sketch.items) if item in walked)}
    motion = _MOTION.format(pace=_PACE, period=_PACE * len(turns) + _PAUSE) if moving else ""
    key = list(_key(layout, scale, backward))
    width = f"{max(layout.width, 60 + max((6.7 * len(meaning) for _, meaning in key), default=0)):.0f}"
    height = f"{layout.height + _LINE * len(key):.0f}"
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<style>{_STYLE}{motion}</style><defs>{''.join(map(_arrow, COLOURS))}</defs>",
        '<rect width="100%" height="100%" rx="8" fill="#fff"/>',
        *(_stripe(stripe, sketch.hidden) for stripe in layout.stripes),
        *(line for wire in layout.wires for line in _lines(wire, scale, backward, turns.get(wire.link.child))),
        *(_stub(*constant) for constant in layout.constants),
        *(_box(box, sketch.hidden) for box in layout.boxes.values()),
        *(
            f'<g class="key" transform="translate(10 {layout.height + _LINE * line:.0f})">{mark}'
            f'<text x="34" y="4">{meaning}</text></g>'
            for line, (mark, meaning) in enumerate(key)
        ),
        "</svg>",
    ]
    return "\n".join(parts)


def html(sketch: Sketch, backward: bool) -> str:
    """The drawing as a page that needs no other file."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return page.replace("<svg/>", svg(sketch, backward))


def _arrow(name: str) -> str:
    return (
        f'<marker id="{name}" markerUnits="userSpaceOnUse" markerWidth="8" markerHeight="8" refX="7" refY="4" '
        f'orient="auto"><path d="M0 0.8L8 4L0 7.2z" style="fill:{COLOURS[name]}"/></marker>'
    )


class _Scale:
    """Widths and colours of links by the norms of their gradients, over at most eight powers of ten."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.norms = [link.norm for link in links if link.norm is not None]
        finite = [norm for norm in self.norms if isfinite(norm)]
        self.least, self.top = min(finite, default=0.0), max(finite, default=0.0)
        self.low = max(min(filter(None, finite), default=0.0), self.top / 1e8)  # the largest that is drawn thin

    def width(self, norm: float) -> float:
        if norm < self.top:
            return WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * log(max(norm, self.low) / self.low) / log(self.top / self.low)
        return WIDTHS[1] if norm else WIDTHS[0]  # of the largest, and of NaN

    def kind(self, link: Link, kind: str) -> str:
        """A link's colour: that of its kind, unless its norm is out of the ordinary."""
        if link.norm is not None and not isfinite(link.norm):
            return "nonfinite"
        return "unmeasured" if kind == "backward" and self.norms and link.norm is None else kind


def _stripe(stripe: Stripe, hidden: Sequence[int]) -> str:
    folded = stripe.step in hidden
    text = "" if folded else f"t = {stripe.step}"
    return (
        f'<rect x="{stripe.x:.1f}" y="{stripe.y:.1f}" width="{stripe.width:.1f}" height="{stripe.height:.1f}" rx="8" '
        f'fill="{"#fafbfc" if folded else "#f3f5f8"}" class="step"/>'
        f'<text x="{stripe.x + 6:.1f}" y="{stripe.y + stripe.height - 6:.1f}" class="time">{text}</text>'
    )


def _lines(wire: Wire, scale: _Scale, backward: bool, turn: int | None) -> Iterator[str]:
    link = wire.link
    parent, child = link.parent.label, f"{link.child.label} ({link.input})"
    norm = "" if link.norm is None else f", norm of the gradient {link.norm:.3g}"
    kind = _kind(link)
    plain = 1.9 if kind == "state" else 1.2
    width = plain if link.norm is None else scale.width(link.norm)
    told, ends = f"{parent} \u2192 {child}{norm}", (link.parent.id, link.child.id)
    colour, forward_width = (kind, plain) if backward else (scale.kind(link, kind), width)
    yield _path(wire.points, kind, colour, forward_width, told, ends)
    if backward and link.followed:
        points = [(x + 4, y + 4) for x, y in reversed(wire.points)]
        points[0], points[-1] = (points[0][0], wire.points[-1][1]), (points[-1][0], wire.points[0][1])
        told = f"{child} \u2192 {parent}{norm}"
        yield _path(
            points, "backward", scale.kind(link, "backward"), width, told, ends[::-1], f' style="--turn:{turn}"'
        )


def _kind(link: Link) -> str:
    between_steps = None not in (link.parent.step, link.child.step) and link.parent.step != link.child.step
    return "cut" if not link.followed else "state" if between_steps else "forward"


def _key(layout: Layout, scale: _Scale, backward: bool) -> Iterator[tuple[str, str]]:
    """What is below the drawing: marks that occur in it, and their meanings."""
    links = [wire.link for wire in layout.wires]
    followed = [link for link in links if link.followed]
    kinds = {_kind(link) for link in links}
    kinds.update(scale.kind(link, "backward" if backward else _kind(link)) for link in followed)
    for kind, meaning in MEANINGS.items():
        if kind in kinds:
            yield _sample(kind, 2), meaning
    if layout.constants:
        yield _ring(13, 0), "a constant: the gradient ends here"
    if scale.top:
        kind = "backward" if backward else "forward"
        yield _sample(kind, WIDTHS[1]), f"a gradient of norm {scale.top:.2g}, the largest"
        if scale.least < scale.top:
            less = " or less" if scale.least < scale.low else ""
            yield _sample(kind, WIDTHS[0]), f"one of {scale.low:.2g}{less}; widths between go by the logarithm"


def _sample(kind: str, width: float) -> str:
    return f'<line x2="26" {_stroke(kind)} stroke-width="{width}"/>'


def _stroke(kind: str) -> str:
    return f'stroke="{COLOURS[kind]}"' + (f' stroke-dasharray="{DASHES[kind]}"' if kind in DASHES else "")


def _path(
    points: Sequence[Point], kind: str, colour: str, width: float, told: str, ends: tuple[int, int], turn: str = ""
) -> str:
    return (
        f'<path class="{kind}" data-from="{ends[0]}" data-to="{ends[1]}" d="{_rounded(points)}" {_stroke(colour)}{turn}'
        f' stroke-width="{width:.2f}" marker-end="url(#{colour})"><title>{escape(told)}</title></path>'
    )


def _rounded(points: Sequence[Point]) -> str:
    """A path of straight lines with rounded corners."""
    way = [points[0]]
    for point in points[1:]:
        if abs(point[0] - way[-1][0]) + abs(point[1] - way[-1][1]) > 0.1:
            way.append(point)
    parts = [f"M{way[0][0]:.1f} {way[0][1]:.1f}"]
    for before, corner, after in zip(way, way[1:], way[2:], strict=False):
        parts.append("L{:.1f} {:.1f}".format(*_towards(corner, before)))
        parts.append("Q{:.1f} {:.1f} {:.1f} {:.1f}".format(*corner, *_towards(corner, after)))
    return "".join(parts) + f"L{way[-1][0]:.1f} {way[-1][1]:.1f}"


def _towards(corner: Point, other: Point) -> Point:
    """The point where a rounded corner begins; lines run along the axes."""
    x, y = (c + max(-RADIUS, min((o - c) / 2, RADIUS)) for c, o in zip(corner, other, strict=True))
    return x, y


def _stub(box: Box, x: float, input: str) -> str:
    """A ring where a constant enters."""
    stalk = f'd="M{x:.1f} {box.y - 6:.1f}V{box.y:.1f}" stroke="{COLOURS["cut"]}" stroke-width="1.2"'
    return (
        f'<g class="constant"><path {stalk}/>{_ring(x, box.y - 8.5)}'
        f"<title>{escape(input)} of {escape(box.item.label)} is a constant: no gradient leaves here</title></g>"
    )


def _ring(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#fff" stroke="{COLOURS["cut"]}" stroke-width="1.2"/>'


def _box(box: Box, hidden: Sequence[int]) -> str:
    ground, rim = FILLS.get(box.item.kind, OTHER)
    step = f"{hidden[0]} to {hidden[-1]}" if box.item.kind == "fold" else box.item.step
    time = "" if step is None else f' data-step="{step}"'
    told = escape(f"{box.item.label} {box.item.detail}")
    return (
        f'<g class="box {box.item.kind}" data-id="{box.item.id}"{time}><title>{told}</title>'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{BOX_HEIGHT:.0f}" rx="6" '
        f'fill="{ground}" stroke="{rim}"/>'
        f'<text x="{box.middle:.1f}" y="{box.y + 15:.1f}" class="title">{escape(box.item.title)}</text>'
        f'<text x="{box.middle:.1f}" y="{box.y + 27:.1f}" class="detail">{escape(box.item.detail)}</text></g>'
    )
