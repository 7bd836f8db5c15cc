"""The Jacobians of single time steps, their products, and how fast these grow or shrink."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from ..grad import pull_back
from ..grad_mode import enable_grad, no_grad
from ..nn.checks import begin
from ..nn.unrolling import prepare
from ..ops import expand_dims, repeat
from ..tensor import Tensor, as_tensor, tensor
from ..tree import tree_leaves, tree_map
from .pictures import finish, slide


class JacobianSpectrum(NamedTuple):
    """Step Jacobians along a trajectory h_0, ..., h_T of n-dimensional states, for each of B rows, in float64."""

    jacobians: np.ndarray  # (T, B, n, n): dh_t / dh_{t-1}, for t from 1
    singular_values: np.ndarray  # (T, B, n), the largest first
    spectral_radius: np.ndarray  # (T, B): the largest absolute value of an eigenvalue
    product_singular_values: np.ndarray  # (T, B, n): of dh_T / dh_s, for s from 0

    def product(self, t: int, s: int) -> np.ndarray:
        """dh_t / dh_s = J_t J_{t-1} ... J_{s+1}, (B, n, n), for 0 <= s <= t <= T."""
        steps, rows, n, _ = self.jacobians.shape
        if not 0 <= s <= t <= steps:
            raise ValueError(f"product: 0 <= s <= t <= {steps} is needed, not s {s} and t {t}")
        found = np.tile(np.eye(n), (rows, 1, 1))
        for jacobian in self.jacobians[s:t]:
            found = jacobian @ found
        return found

    def plot(self, ax: Any = None, row: int = 0) -> Any:
        """Plot the singular values and the spectral radius of each step, for one row; returns the figure."""
        ax = slide(ax, "Step Jacobians ∂h$_t$/∂h$_{t-1}$", "time step t", "singular value", log=True)
        ticks = np.arange(1, len(self.jacobians) + 1)
        _draw_values(ax, ticks, self.singular_values[:, row])
        ax.plot(ticks, self.spectral_radius[:, row], "--", color="0.3", linewidth=2, label="spectral radius")
        return finish(ax)

    def plot_products(self, ax: Any = None, row: int = 0) -> Any:
        """Plot the singular values of dh_T / dh_s over the lag T - s, for one row; returns the figure."""
        ax = slide(ax, "Products of Jacobians ∂h$_T$/∂h$_s$", "lag T - s (time steps)", "singular value", log=True)
        _draw_values(ax, np.arange(len(self.jacobians), 0, -1), self.product_singular_values[:, row])
        return finish(ax)


def _draw_values(ax: Any, across: np.ndarray, values: np.ndarray) -> None:
    """Plot the largest, median and smallest singular value, without rounding noise, and a line at 1."""
    for name, column in (("largest", values[:, 0]), ("median", np.median(values, axis=1)), ("smallest", values[:, -1])):
        known = np.where(column > 1e-15 * values[:, 0], column, np.nan)
        ax.plot(across, known, linewidth=2.5, label=name)
    ax.axhline(1.0, color="0.6", linewidth=1)


def jacobian_spectrum(cell: Any, xs: Any, state: Any = None) -> JacobianSpectrum:
    """The Jacobians dh_t / dh_{t-1} of a cell along a trajectory, their products, and the singular values of both.

    A gradient that goes back from step t to step s is multiplied by J_t J_{t-1} ... J_{s+1}: it vanishes if the largest
    singular values are below 1, and can explode if they are above (Bengio, Simard and Frasconi 1994; Pascanu, Mikolov
    and Bengio 2013).

    cell, xs, state: as for ``unroll``, xs (T, B, ...). The state of each row is flattened, one part after the other:
        for an LSTM h, then c, so n is 2 H.

    Rows must be independent of each other. Each step costs one backward pass through n copies of the batch. In a long
    product, singular values below 1e-16 of the largest are rounding noise; ``lyapunov_exponents`` measures those too.
    Raises ValueError for a step that draws random numbers: call ``cell.eval()`` if it has dropout.

    >>> from tinygrad_rnn import nn, ones
    >>> found = jacobian_spectrum(nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> found.jacobians.shape, found.singular_values.shape
    ((7, 2, 10, 10), (7, 2, 10))
    """
    jacobians = np.stack(list(_step_jacobians("jacobian_spectrum", cell, xs, state)))
    products = np.stack([*accumulate(jacobians[::-1], np.matmul)])[::-1]  # products[s] is dh_T / dh_s
    return JacobianSpectrum(
        jacobians,
        np.linalg.svd(jacobians, compute_uv=False),
        abs(np.linalg.eigvals(jacobians)).max(axis=-1),
        np.linalg.svd(products, compute_uv=False),
    )


class LyapunovExponents(NamedTuple):
    """Mean growth rates of directions along a trajectory, in nats per time step, largest first."""

    exponents: np.ndarray  # (B, k)
    over_time: np.ndarray  # (steps, B, k): the means over the steps so far

    def plot(self, ax: Any = None, row: int = 0, label: str = "") -> Any:
        """Plot the spectrum of one row, with an optional label; returns the figure."""
        ax = slide(ax, "Lyapunov spectrum", "index i", "exponent λ$_i$ (nats per step)")
        values = self.exponents[row]
        ax.plot(np.arange(1, len(values) + 1), values, "o-", linewidth=2.5, label=label or None)
        ax.axhline(0.0, color="0.6", linewidth=1)
        return finish(ax)


def lyapunov_exponents(
    cell: Any, xs: Any, state: Any = None, count: int | None = None, warmup: int = 0
) -> LyapunovExponents:
    """The Lyapunov exponents of a cell along a trajectory, by repeated QR decomposition.

    Q_t R_t = J_t Q_{t-1},  lambda_i = mean over t of log |(R_t)_ii|  (Benettin et al. 1980; for RNNs Engelken, Wolf and
    Abbott 2023). Products of Jacobians have singular values e^(lambda_i t): gradients vanish along directions with
    lambda_i < 0, and explode along those with lambda_i > 0, where the network is chaotic.

    cell, xs, state: as for ``jacobian_spectrum``. count: the number of exponents, largest first; all n if None.
    warmup: initial steps that do not count, while the trajectory approaches its attractor and Q aligns.

    Directions that a step maps to 0, such as those of inactive ReLUs, have the exponent -inf. Raises ValueError for a
    count or a warmup out of range.

    >>> from tinygrad_rnn import nn, zeros
    >>> cell = nn.RNNCell(1, 2, nonlinearity=lambda x: x)  # h_t = W h_{t-1}, whose exponents are log |eigenvalues|
    >>> cell.weight_hh.data[...] = [[2.0, 1.0], [0.0, 0.5]]
    >>> lyapunov_exponents(cell, zeros(50, 1, 1), warmup=20).exponents.round(4)  # ln 2 and -ln 2
    array([[ 0.6931, -0.6931]])
    """
    logs: list[np.ndarray] = []
    for t, jacobian in enumerate(_step_jacobians("lyapunov_exponents", cell, xs, state)):
        if t == 0:
            directions = _directions(jacobian, count, warmup, len(xs))
        directions, r = np.linalg.qr(jacobian @ directions)
        if t >= warmup:
            with np.errstate(divide="ignore"):
                logs.append(np.log(abs(np.diagonal(r, axis1=1, axis2=2))))
    over_time = np.cumsum(logs, axis=0) / np.arange(1, len(logs) + 1)[:, None, None]
    order = np.argsort(-over_time[-1], axis=-1, kind="stable")
    over_time = np.take_along_axis(over_time, order[None], axis=-1)
    return LyapunovExponents(over_time[-1], over_time)


def _directions(jacobian: np.ndarray, count: int | None, warmup: int, steps: int) -> np.ndarray:
    """Random orthonormal directions to start from, (B, n, count), the same for each row."""
    rows, n, _ = jacobian.shape
    count = n if count is None else count
    if not 1 <= count <= n:
        raise ValueError(f"lyapunov_exponents: the state has {n} numbers, so count is from 1 to {n}, not {count}")
    if not 0 <= warmup < steps:
        raise ValueError(f"lyapunov_exponents: warmup must leave some of the {steps} steps, so it cannot be {warmup}")
    drawn = np.random.default_rng(0).standard_normal((n, count))
    return np.tile(np.linalg.qr(drawn)[0], (rows, 1, 1))


def _step_jacobians(who: str, cell: Any, xs: Any, state: Any = None) -> Iterator[np.ndarray]:
    """dh_t / dh_{t-1} for each step, (B, n, n), on the host, by one backward pass through n copies of each row.

    Copy j of a row gets the j-th unit vector as its cotangent, which yields the j-th row of the Jacobian.
    """
    with no_grad():
        xs, _ = prepare(who, cell, xs)
        if xs.ndim == 2 and getattr(cell, "input_size", None) is not None:
            xs = expand_dims(xs, axis=1)
            state = tree_map(lambda leaf: expand_dims(leaf, axis=0) if leaf.ndim == 1 else leaf, state)
        zs = cell.input_projection(xs)
        state = begin(cell, tree_map(itemgetter(0), zs), state)
    parts = [as_tensor(leaf) for leaf in tree_leaves(state) if leaf.dtype.kind == "f"]
    sizes = [leaf.size // leaf.shape[0] for leaf in parts]
    rows, n = parts[0].shape[0], sum(sizes)
    units = np.split(np.tile(np.eye(n), (rows, 1)), np.cumsum(sizes)[:-1], axis=1)
    cotangents = [
        tensor(unit.reshape(-1, *leaf.shape[1:]), dtype=leaf.dtype, backend=leaf.backend)
        for unit, leaf in zip(units, parts, strict=True)
    ]
    for t in range(len(xs)):
        with no_grad():
            z = tree_map(lambda leaf: _copied(leaf[t], n), zs)  # noqa: B023
            copies = tree_map(lambda leaf: _copied(leaf, n), state)
        before = [leaf for leaf in tree_leaves(copies) if leaf.dtype.kind == "f"]
        for leaf in before:
            leaf.requires_grad = True
        with enable_grad():
            _, after = cell.step(z, copies)
        ends = [leaf for leaf in tree_leaves(after) if leaf.dtype.kind == "f"]
        for leaf in ends:
            alike = leaf.numpy().reshape(rows, n, -1)
            if not np.allclose(alike, alike[:, :1], rtol=1e-3, atol=1e-3, equal_nan=True):  # more than rounding
                raise ValueError(
                    f"{who}: step {t} gave different states for copies of one row, so it draws random numbers; "
                    "call cell.eval()"
                )
        found = pull_back(ends, before, cotangents, record=False)
        blocks = [g.numpy().reshape(rows, n, size) for g, size in zip(found, sizes, strict=True)]
        yield np.concatenate(blocks, axis=2).astype(np.float64)
        state = tree_map(lambda leaf: leaf[::n].detach(), after)


def _copied(leaf: Any, n: int) -> Tensor:
    """Repeat each row n times, side by side."""
    return Tensor.wrap(repeat(as_tensor(leaf), n, axis=0).array.copy())
