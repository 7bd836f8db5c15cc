"""Write the pictures of graphs in docs/images.

python docs/make_drawings.py
"""

from __future__ import annotations

from pathlib import Path

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, tape

IMAGES = Path(__file__).with_name("images")


class Model(nn.Module):
    """A cell over time, and class scores for every step."""

    def __init__(self, cell: nn.Cell):
        self.rnn, self.head = nn.Recurrent(cell), nn.Linear(cell.output_size, 5)

    def forward(self, steps: int) -> Tensor:
        """The loss over random inputs."""
        outputs, _ = self.rnn(tg.randn(steps, 2, 3))
        return nn.cross_entropy(self.head(outputs), tg.zeros(steps, 2).astype(int))


def unrolled_lstm() -> str:
    """Three steps of an LSTM: the graph that back-propagation through time goes back through."""
    model = Model(nn.LSTMCell(3, 8))
    return tg.draw(model(3), "svg", names=model)


def vanishing_gradient() -> str:
    """A hundred steps of a simple RNN with small weights: the gradient of the last output on its way back."""
    tg.manual_seed(0)
    cell = nn.RNNCell(3, 8)
    outputs, _ = nn.unroll(cell, tg.randn(100, 2, 3))
    return tg.draw(outputs[-1].sum(), "svg", names=cell, backward=True, gradients=True)


def truncated_rnn() -> str:
    """Six steps of a simple RNN, and a horizon after the third: what is dashed gets no gradient."""
    cell, xs = nn.RNNCell(3, 8), tg.randn(6, 2, 3)
    h = tg.zeros(2, 8)
    marks = []
    with tape.timeline() as mark:
        for t in range(6):
            marks.append(mark(t))
            _, h = cell(xs[t], h)
    return tg.draw(h.sum(), "svg", names=cell, horizon=marks[3], backward=True)


DRAWINGS = (unrolled_lstm, truncated_rnn, vanishing_gradient)


def main() -> None:
    """Write one file for each drawing, which is the same in every run but for the ids of nodes."""
    for make in DRAWINGS:
        (IMAGES / f"{make.__name__}.svg").write_text(make() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
