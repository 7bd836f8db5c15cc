"""Drawing the graph behind a tensor, one column for each time step."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import Any

from ..tensor import Tensor
from .sketch import Rooted, sketch
from .svg import html, svg
from .text import dot, text

_STYLES = {"text": text, "dot": dot, "svg": svg, "html": html}


class Drawing(str):
    """A drawing as a string that displays itself: in a notebook as an image or a page, else line by line."""

    __repr__ = str.__str__

    def _repr_svg_(self) -> str | None:
        return str(self) if self.startswith("<svg") else None

    def _repr_html_(self) -> str | None:
        if not self.startswith("<!DOCTYPE html>"):
            return None
        frame = 'sandbox="allow-scripts" style="width:100%;height:40em;border:0"'  # so that ids of pages do not clash
        return f'<iframe srcdoc="{escape(self)}" {frame}></iframe>'


def draw(
    output: Tensor | Rooted,
    style: str = "text",
    *,
    names: Any = None,
    backward: bool = False,
    horizon: int | None = None,
    fold: int | None = 3,
    gradients: bool = False,
    moving: bool = False,
    steps: bool = False,
) -> Drawing:
    """Draw the graph behind an output, before backward frees it: time from left to right, depth from top to bottom.

    output: a tensor, or a window of ``bptt.truncated``, of which its losses and its horizon are drawn.
    style: "svg", a standalone image; "html", a page that plays the backward pass link by link, or one time step after
        another; "dot", for Graphviz; "text", one line for each operation.
    names: a module, or names and tensors as from ``named_parameters()``, to label the boxes.
    backward: also show the backward pass, in another colour.
    horizon: a ``tape.mark()``; links that ``backward(horizon=...)`` does not follow are dashed, "(cut)" in text.
    fold: how many time steps to keep at either end of a long sequence; None keeps all.
    gradients: run a backward pass, which touches no ``.grad`` and keeps the graph, and show for each link the norm of
        the gradient that this one use sends back: as line width, on a logarithmic scale, or as a number in text.
    moving: for "svg" with ``backward``, light up the backward links one after another, in the order of the backward
        pass, in a loop; browsers set to reduced motion show a still image.
    steps: one box for each time step of each loop, without rings, in place of one for each operation.

    A ring, or "constant" in text, marks an input without a history, such as a detached state; "run again", what
    ``bptt.checkpointed`` has not kept. Time steps are those that ``unroll`` or a loop in ``tape.timeline`` marks.

    Returns a string. Raises ValueError for other styles, a negative fold, or ``moving`` without "svg" and ``backward``,
    and GraphError if there is no graph, or if backward has freed it; what lies beyond the horizon may be gone.

    >>> from tinygrad_rnn import tanh, tensor
    >>> w = tensor([0.5, 2.0], requires_grad=True)
    >>> draw((tanh(w) * w).sum(), names={"w": w})  # doctest: +ELLIPSIS
    w f32[2]
    tanh#... f32[2] <- w
    multiply#... f32[2] <- tanh#..., w
    sum#... f32[] <- multiply#...
    """
    if style not in _STYLES:
        raise ValueError(f"draw: the style is 'text', 'dot', 'svg' or 'html', not {style!r}")
    if fold is not None and fold < 0:
        raise ValueError(f"draw: fold is how many time steps to keep at either end, or None for all, not {fold}")
    if moving and not (backward and style == "svg"):
        raise ValueError("draw: what can move is the way back in SVG, draw(output, 'svg', backward=True, moving=True)")
    horizon = getattr(output, "horizon", 0) if horizon is None else horizon
    write = partial(svg, moving=True) if moving else _STYLES[style]
    return Drawing(write(sketch(output, names, fold, horizon, gradients, steps), backward))
