"""What mypy knows of the public face; it is only checked, not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim

if TYPE_CHECKING:
    from typing_extensions import assert_type

    x = tg.ones(2, 3, requires_grad=True)
    assert_type(1 - x / 2, Tensor)
    assert_type(x @ x.T, Tensor)
    assert_type(x[0, :2], Tensor)
    assert_type(x > 0, Tensor)
    assert_type(x.tanh().sum(axis=0).reshape(-1), Tensor)
    assert_type(x.std().pad(1).astype("float64"), Tensor)
    assert_type(tg.tanh(x), Tensor)
    assert_type(tg.linear(x, x), Tensor)
    assert_type(x.grad, Tensor | None)

    @tg.op
    def softsign(xp: Any, x: Any) -> Any:
        return x / (1 + abs(x))

    assert_type(softsign(x), Tensor)
    assert_type(nn.mse_loss(x, x), Tensor)
    assert_type(bptt.detach(nn.LSTMState(x, x)), nn.LSTMState)
    assert_type(bptt.truncated(lambda x, h: (h, h), x, x, 5), Iterator[bptt.Window])

    @tg.capture
    def step(x: Tensor, factor: float = 1.0) -> Tensor:
        return (x * factor).sum()

    assert_type(step(x, factor=2.0), Tensor)
    assert_type(tg.clip_grad_norm_(nn.Linear(3, 1).parameters(), 1.0), tg.ClipReport)
    assert_type(optim.Adam([x]).state_dict(), dict[str, Any])
    assert_type(tg.text.Vocabulary("ab").decode([0, 1]), str)

    @tg.no_grad()
    def evaluate(x: Tensor) -> float:
        return x.mean().item()

    assert_type(evaluate(x), float)
