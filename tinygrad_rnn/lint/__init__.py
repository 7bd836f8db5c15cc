"""Finds common mistakes with recurrent networks in the graph of a loss, before backward."""

from __future__ import annotations

from typing import Any

from ..graph import check_tensor, reachable
from ..nn.sequences import time_major
from ..tape import bare_array
from ..tensor import Tensor
from .finding import Case, Finding, Findings
from .operations import ctc, double, softmax_twice
from .padding import padding
from .parameters import parameters
from .windows import freed, history, not_reset, older_window, overwritten

_CHECKS = history, freed, overwritten, older_window, not_reset, parameters, padding, softmax_twice, ctc, double


def lint(
    loss: Tensor,
    model: Any = None,
    *,
    outputs: Tensor | None = None,
    mask: Any = None,
    lengths: Any = None,
    batch_first: bool = False,
    state: Any = None,
    starts: Any = None,
    initial: Any = None,
    horizon: int | None = None,
) -> Findings:
    """Report what is probably wrong with a loss before backward: what, where, why, and how to fix it.

    It always finds a state that still holds an older window, a loss without history or that is not finite, overwritten
    saved arrays, softmax before cross-entropy, CTC of logits, and float64 among float32. Arguments add further checks:

    model: a module. Finds parameters that get no gradient, are cut off by ``detach``, are not finite, or still hold the
        gradient of an earlier backward; and other leaves that require a gradient.
    outputs, with mask or lengths: what the loss was computed from, (T, B, ...), and which of its steps are real, as for
        ``unroll``. Finds padding that reaches the loss, by a gradient that touches no ``.grad``, and means that count
        padding, by the operation ``mean`` or division by the number of all steps.
    state, starts, initial: the state carried into this window, which rows (B,) start a new sequence, and the state they
        should start with, 0 if None. Finds rows that were not reset.
    horizon: the ``tape.mark()`` that backward will be given; anything older is ignored.

    Time steps are those that ``unroll`` or a loop in ``tape.timeline`` marks; other loops are not recognised. A
    ``detach`` hides the graph behind it; only the gap shows. Source lines are known within ``detect_anomaly`` and where
    ``record.Lines`` watched. What ``bptt.checkpointed`` will rebuild in backward is not seen. The graph is kept.

    Returns a list, mistakes before notes; it is empty if nothing was found. Raises only for arguments that do not fit
    together.

    >>> from tinygrad_rnn import nn, ones
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> lint(model(ones(4, 3)).sum(), model)
    nothing found
    >>> lint(ones(4).sum(), model)[0].what
    'the loss has no history'
    """
    check_tensor("lint", loss)
    if not (model is None or hasattr(model, "named_tensors")):
        raise TypeError(
            f"lint: model is a Module, not a {type(model).__name__}; leave it out, or join "
            "several, nn.ModuleList([a, b])"
        )
    if (mask is None and lengths is None) != (outputs is None):
        raise ValueError("lint: outputs go with a mask or with lengths, and these with outputs")
    if (state is None) and (starts is not None):
        raise ValueError("lint: starts say which rows of a state begin anew; give the state that was carried in, too")
    if outputs is not None:
        _, mask = time_major("lint", outputs, lengths, mask, batch_first)
        mask = bare_array(mask).swapaxes(0, 1) if batch_first else bare_array(mask)
    nodes = [] if loss.node is None else reachable([loss.node], horizon=horizon or 0)
    case = Case(loss, model, outputs, mask, state, starts, initial, nodes)
    found = [finding for check in _CHECKS for finding in check(case)]
    return Findings(sorted(found, key=lambda finding: finding.note))
