"""One training step of a character-level LSTM, forward and backward by hand in NumPy.

This is the limit that the engine is compared with, and an independent derivation for its tests. The model: embedding,
a stack of LSTM layers, linear head, mean cross entropy over all T * B positions. Sequences are time-major (T, B, ...),
weights have PyTorch's orientation, gates come in the order i, f, g, o, and each cell has one bias:

    z_t = W_ih x_t + W_hh h_{t-1} + b
    i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)

It computes what any engine computes and no less: there is no shortcut through the small vocabulary or the repeated
batch.
"""

from __future__ import annotations

import numpy as np

Parameters = dict[str, np.ndarray]
State = list[tuple[np.ndarray, np.ndarray]]  # (h, c) of each layer, both (B, H)

BLOCK = 2**15  # elements of a (steps, B, H) block that stays in the cache while several operations pass over it


def rows(x: np.ndarray) -> np.ndarray:
    """Return (T, B, F) as (T * B, F), without a copy."""
    return x.reshape(-1, x.shape[-1])


class LSTMLayer:
    """An LSTM layer over T steps and its buffers, which every call overwrites."""

    def __init__(self, steps: int, batch: int, input_size: int, hidden_size: int, dtype: np.dtype) -> None:
        def buffer(*shape: int) -> np.ndarray:
            return np.zeros(shape, dtype)

        n = hidden_size
        self.gates = buffer(steps, batch, 4 * n)
        self.dz = buffer(steps, batch, 4 * n)
        self.h = buffer(steps + 1, batch, n)  # h[t] is the state before step t, h[t + 1] the one after it
        self.c = buffer(steps + 1, batch, n)
        self.tanh_c = buffer(steps, batch, n)
        self.dh_dc = buffer(steps, batch, n)
        self.dx = buffer(steps, batch, input_size)
        self.recurrent = buffer(batch, 4 * n)
        self.dh, self.dc = buffer(batch, n), buffer(batch, n)
        self.weight_ih_t, self.weight_hh_t = buffer(input_size, 4 * n), buffer(n, 4 * n)
        # Repeated for the whole batch: broadcasting along it takes twice the time, once in every step.
        self.scale = np.tile(np.repeat(np.array([0.5, 0.5, 1.0, 0.5], dtype), n), (batch, 1))
        self.offset = 1 - self.scale
        self.bias = np.zeros_like(self.scale)

        # Taking a view costs time as well, so the views of all steps are taken once.
        gate = self.gates.reshape(steps, batch, 4, n)
        i, f, g, o = (gate[:, :, k] for k in range(4))
        dz = self.dz.reshape(steps, batch, 4, n)
        self.forward_steps = list(
            zip(self.gates, i, f, g, o, self.h[:-1], self.h[1:], self.c[:-1], self.c[1:], self.tanh_c, strict=True)
        )
        self.backward_steps = list(zip(self.dz, dz[:, :, :3], dz[:, :, 3], f, self.dh_dc, strict=True))
        span = max(1, BLOCK // (batch * n))
        self.blocks = [slice(start, min(start + span, steps)) for start in range(0, steps, span)]

    def forward(self, x: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Run over x (T, B, I) from the state in h[0] and c[0]; return the outputs (T, B, H)."""
        # sigmoid(z) = tanh(z / 2) / 2 + 1 / 2: with the weights of i, f and o halved, one tanh serves all four gates.
        # The recurrent weight is laid out as the product wants it, once for its T uses.
        scale, offset, recurrent = self.scale, self.offset, self.recurrent
        np.multiply(weight_ih.T, scale[0], out=self.weight_ih_t)
        weight = np.multiply(weight_hh.T, scale[0], out=self.weight_hh_t)
        np.multiply(bias, scale, out=self.bias)
        np.dot(rows(x), self.weight_ih_t, out=rows(self.gates))
        for block in self.blocks:
            self.gates[block] += self.bias
            for z, i, f, g, o, h_before, h, c_before, c, tanh_c in self.forward_steps[block]:
                np.dot(h_before, weight, out=recurrent)
                z += recurrent
                np.tanh(z, out=z)
                z *= scale
                z += offset
                np.multiply(f, c_before, out=c)
                np.multiply(i, g, out=tanh_c)
                c += tanh_c
                np.tanh(c, out=tanh_c)
                np.multiply(o, tanh_c, out=h)
        return self.h[1:]

    def local_derivatives(self, block: slice) -> None:
        """Set dz to dc/dz (for o: dh/dz) and dh_dc to dh/dc, for many steps at once, as nothing here recurs."""
        gates, dz, tanh_c, dh_dc = self.gates[block], self.dz[block], self.tanh_c[block], self.dh_dc[block]
        i, _f, g, o = np.split(gates, 4, axis=-1)
        dz_i, dz_f, dz_g, dz_o = np.split(dz, 4, axis=-1)
        np.multiply(gates, gates, out=dz)
        np.subtract(gates, dz, out=dz)  # s (1 - s), the derivative of a sigmoid
        dz_i *= g
        dz_f *= self.c[block]  # c before each step
        dz_o *= tanh_c
        np.multiply(g, g, out=dz_g)
        np.subtract(1, dz_g, out=dz_g)
        dz_g *= i
        np.multiply(tanh_c, tanh_c, out=dh_dc)
        np.subtract(1, dh_dc, out=dh_dc)
        dh_dc *= o

    def backward(self, d_outputs: np.ndarray, weight_hh: np.ndarray) -> np.ndarray:
        """Carry d_outputs (T, B, H) back through all steps; return dz (T, B, 4H)."""
        dh, dc = self.dh, self.dc
        dh[...] = 0
        dc[...] = 0
        by_gate = dc[:, None]  # (B, 1, H) against (B, 3, H)
        for block in reversed(self.blocks):
            self.local_derivatives(block)
            for step, d_output in zip(self.backward_steps[block][::-1], d_outputs[block][::-1], strict=True):
                dz, dz_ifg, dz_o, f, dh_dc = step
                np.add(dh, d_output, out=dh)
                dh_dc *= dh
                dc += dh_dc
                dz_ifg *= by_gate
                dz_o *= dh
                dc *= f
                np.dot(dz, weight_hh, out=dh)
        return self.dz


class CharLSTM:
    """Forward and BPTT of the whole model for one shape of batch; calls reuse the buffers."""

    def __init__(self, params: Parameters, steps: int, batch: int) -> None:
        vocabulary, embedding_size = params["embedding.weight"].shape
        classes = len(params["head.weight"])
        dtype = params["embedding.weight"].dtype
        self.layers: list[LSTMLayer] = []
        size = embedding_size
        while (key := f"cells.{len(self.layers)}.weight_hh") in params:
            hidden_size = params[key].shape[1]
            self.layers.append(LSTMLayer(steps, batch, size, hidden_size, dtype))
            size = hidden_size
        self.x = np.zeros((steps, batch, embedding_size), dtype)
        self.d_outputs = np.zeros((steps, batch, size), dtype)
        # Class-major: reductions over the classes then run along whole rows, which NumPy vectorises.
        self.logits = np.zeros((classes, steps * batch), dtype)
        self.one_hot = np.zeros((vocabulary, steps * batch), dtype)
        self.positions = np.arange(steps * batch)
        self.ones = np.ones(steps * batch, dtype)
        self.grads = {name: np.zeros_like(value) for name, value in params.items()}

    def __call__(
        self, params: Parameters, tokens: np.ndarray, targets: np.ndarray, state: State | None = None
    ) -> tuple[float, Parameters, State]:
        """Return loss, gradients and final state; gradients live in buffers that the next call overwrites."""
        grads = self.grads
        x = np.take(params["embedding.weight"], tokens, axis=0, out=self.x, mode="clip")  # "raise" would buffer
        inputs = [x]
        for k, layer in enumerate(self.layers):
            layer.h[0], layer.c[0] = (0, 0) if state is None else state[k]
            cell = f"cells.{k}."
            x = layer.forward(x, params[cell + "weight_ih"], params[cell + "weight_hh"], params[cell + "bias"])
            inputs.append(x)
        final_state = [(layer.h[-1].copy(), layer.c[-1].copy()) for layer in self.layers]

        np.dot(params["head.weight"], rows(x).T, out=self.logits)
        loss, d_logits = self.cross_entropy(params["head.bias"], targets.reshape(-1))
        np.dot(d_logits, rows(x), out=grads["head.weight"])
        np.dot(d_logits, self.ones, out=grads["head.bias"])
        np.dot(d_logits.T, params["head.weight"], out=rows(self.d_outputs))

        d_outputs = self.d_outputs
        for k, layer in reversed(list(enumerate(self.layers))):
            cell = f"cells.{k}."
            dz = rows(layer.backward(d_outputs, params[cell + "weight_hh"]))
            # Each weight is used T times; the sum over its uses is one product over all T * B rows.
            np.dot(dz.T, rows(inputs[k]), out=grads[cell + "weight_ih"])
            np.dot(dz.T, rows(layer.h[:-1]), out=grads[cell + "weight_hh"])
            np.dot(self.ones, dz, out=grads[cell + "bias"])
            np.dot(dz, params[cell + "weight_ih"], out=rows(layer.dx))
            d_outputs = layer.dx

        # A product with one-hot rows adds up the gradients of equal tokens, far faster than np.add.at.
        flat = tokens.reshape(-1)
        self.one_hot[flat, self.positions] = 1
        np.dot(self.one_hot, rows(d_outputs), out=grads["embedding.weight"])
        self.one_hot[flat, self.positions] = 0
        return loss, grads, final_state

    def cross_entropy(self, bias: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean loss of logits + bias, and its gradient in place of the logits (classes, T * B)."""
        logits = self.logits
        logits += bias[:, None]
        logits -= logits.max(axis=0)
        chosen = logits[targets, self.positions]
        np.exp(logits, out=logits)
        total = logits.sum(axis=0)
        loss = np.mean(np.log(total) - chosen)
        logits *= 1 / (total * len(targets))
        logits[targets, self.positions] -= 1 / len(targets)
        return float(loss), logits


def loss_and_gradients(
    params: Parameters, tokens: np.ndarray, targets: np.ndarray, state: State | None = None
) -> tuple[float, Parameters, State]:
    """Return the mean cross entropy, its gradient for every parameter, and the final state.

    Args:
        params: arrays by name (`embedding.weight`, `cells.0.weight_ih`, ..., `head.bias`), all of one dtype.
        tokens: input tokens, integers (T, B).
        targets: tokens to predict, integers (T, B).
        state: (h, c) of each layer, both (B, H); zeros by default.
    """
    return CharLSTM(params, *tokens.shape)(params, tokens, targets, state)


class TrainingStep:
    """Forward, BPTT, clipping of the global gradient norm and a step of SGD, on one batch."""

    def __init__(
        self, params: Parameters, tokens: np.ndarray, targets: np.ndarray, lr: float = 0.1, max_norm: float = 5.0
    ) -> None:
        self.params = {name: value.copy() for name, value in params.items()}
        self.tokens, self.targets = tokens, targets
        self.lr, self.max_norm = lr, max_norm
        self.model = CharLSTM(params, *tokens.shape)

    def __call__(self) -> float:
        """Do one step and return the loss before it."""
        loss, grads, _ = self.model(self.params, self.tokens, self.targets)
        norm = sum(float(np.vdot(grad, grad)) for grad in grads.values()) ** 0.5
        rate = self.lr * min(1.0, self.max_norm / (norm + 1e-6))
        for name, grad in grads.items():
            grad *= rate
            self.params[name] -= grad
        return loss
