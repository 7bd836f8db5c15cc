"""The gradient truncation of the original LSTM."""

from __future__ import annotations

from ..nn import LayerNormBasicLSTMCell, LSTMCell, PeepholeLSTMCell
from ..nn.wrappers import RecurrenceDetached


class GatesDetached(RecurrenceDetached):
    """An LSTM in which no gradient flows through the gates to the previous step: only the memory cell c carries it.

    c_t = f_t * c_{t-1} + i_t * g_t, so dc_t / dc_{t-1} = f_t, with i, f, g and o taken as constants in c_{t-1}, h_{t-1}

    This is the truncation of Hochreiter and Schmidhuber (1997): errors that reach a gate change its weights, but go no
    further back in time. Where f is 1, the remaining path, the constant error carousel, neither vanishes nor
    explodes. The full gradient came into use with Graves and Schmidhuber (2005). The forward pass is unchanged.

    Raises TypeError for anything but an LSTM cell without peepholes and without normalisation of c, as other cells have
    further paths back.

    >>> from tinygrad_rnn import bptt, nn, ones
    >>> outputs, state = bptt.unroll(bptt.GatesDetached(nn.LSTMCell(3, 5)), ones(7, 2, 3))
    >>> outputs.shape
    (7, 2, 5)
    """

    def __init__(self, cell: LSTMCell):
        if not isinstance(cell, LSTMCell) or isinstance(cell, (PeepholeLSTMCell, LayerNormBasicLSTMCell)):
            raise TypeError(f"GatesDetached: it goes round an LSTM cell without peepholes, not a {type(cell).__name__}")
        super().__init__(cell)
