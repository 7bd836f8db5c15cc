"""Inputs on which every operation and every composite function must keep the laws of test_laws.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sampling import (
    S,
    Sample,
    choices,
    compared,
    distinct,
    each,
    exponents,
    integers,
    mask,
    masks,
    normal,
    of,
    one,
    positive,
    reductions,
    shifted,
    two,
)

import tinygrad_rnn as tg

# Every kind of key, for an array of shape (4, 3, 5).
ROOM = normal(4, 3, 5)
BASIC_KEYS: list[Any] = [
    *(0, -1, slice(1, 3), slice(None, None, -2), slice(2, 2), Ellipsis, None, (), (1, 2), (1, 2, 3), (slice(None), 1)),
    *((..., slice(1, None, 2)), (None, 1, None, slice(0, 2)), (..., None, 0)),
]
ARRAY_KEYS: list[Any] = [
    *(np.array([2, 0, 2, -1]), np.array([[0, 1], [1, 3]]), np.array([], dtype=int), np.array(2), np.array([3, 3, 0])),
    *(np.array([True, False, True, True]), np.zeros(4, dtype=bool), mask(4, 3), mask(4, 3, 5)),
    *((np.array([0, 3, 3]), np.array([1, 2, 2])), (np.array([[0], [3]]), np.array([1, 2, 1]))),
    *((slice(None), np.array([1, 1, 0])), (np.array([1, 1]), slice(1, 2), np.array([4, 4]))),
    *((2, slice(None), np.array([0, 0, 4])), (np.array([True, False, False, True]), 1)),
]
KEYS = [*BASIC_KEYS, *ARRAY_KEYS]
TENSOR_KEYS: list[Any] = [[3, 3, 0], tg.tensor([1, 1, 3]), (slice(None), tg.tensor([0, 2, 0])), tg.tensor(mask(4, 3))]

SKIPS = np.arange(10).reshape(2, 5) % 3 == 0
WIDE: dict[str, Any] = {"size": (2, 3), "stride": (2, 1)}
DENSE: dict[str, Any] = {"size": (3, 2), "stride": (1, 1)}
ROWS: list[tuple[int, ...]] = [(3,), (2, 3), (), (0,)]
PRODUCTS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    *(((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 4))),
    *(((1, 2, 3), (3, 4)), ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((0, 2, 3), (3, 4)), ((1, 1), (1, 1))),
]

SAMPLES: dict[str, list[Sample]] = {
    **each("add subtract multiply", two),
    **each("maximum minimum logaddexp", lambda: two(distinct, shifted)),
    **each("floor_divide remainder", lambda: two(distinct, positive)),
    **each("equal not_equal less less_equal greater greater_equal", compared),
    **each("bitwise_and bitwise_or bitwise_xor", masks),
    "invert": [*one(mask), S(integers(5, 3, 4))],
    **each("negative square exp expm1 sin cos tanh sigmoid softplus logistic", one),
    **each("log log1p sqrt reciprocal", lambda: one(positive)),
    **each("absolute sign relu floor ceil isnan isinf isfinite", lambda: one(distinct)),
    "round": [
        *(*one(distinct), S(distinct(3, 4), decimals=1), S(distinct(4), decimals=-1)),
        *(S(x, decimals=d) for x in [integers(90, 4)] for d in (0, -1)),
    ],
    "divide": two(normal, positive),
    "power": exponents(),
    "clip": [
        *one(distinct, min=-0.6, max=0.6),
        *(S(distinct(3, 4), **bounds) for bounds in ({"min": 0.0}, {"max": 0.0}, {"min": -9, "max": 9})),
    ],
    "where": choices(),
    "cast": [*one(dtype=np.float64), S(distinct(3, 4), dtype=np.int64)],
    "clip_message": one(bound=1e3),
    "norms": [of((3,), (2, 3), (), (0, 2)), S(normal(4, 3).T, normal(8)[::-2]), of((1,), (2,), dtype=np.float64)],
    "factors": [
        *(S(x, limit=1.1, together=t) for x in (positive(4), positive(6)[::-2]) for t in (False, True)),
        *(S(positive(4), limit=limit, together=True) for limit in (0.3, 9.0)),
        *(of((0,), limit=1.0, together=t) for t in (False, True)),
    ],
    "scaled": [
        *(of(shape, ()) for shape in ((3, 4), (), (0, 2))),
        *(S(normal(4, 3).T, np.array(0.7)), S(normal(3), np.array(1.0))),
    ],
    "lengths_within": [S(x, longest=3) for x in (np.array([0, 3, 2]), np.arange(4)[::-2], np.zeros(0, int))],
    "as_mask": [S(x) for x in (np.array([[0, 1], [1, 1]]).T, np.array([0, 5, 1])[::2], np.zeros(0, int))],
    "labels_among": [
        S(np.array([[1, 2], [2, 0]]).T, np.array([2, 1]), classes=3, blank=0),
        S(np.zeros((0, 2), int), np.zeros(0, int), classes=3, blank=1),
    ],
    "at_most": [S(x, 9.0) for x in (normal(), normal(3, 4).T, normal(0, 3), normal(5)[::-2])],
    "refuse_nonfinite": [
        *(S(x, caller="clip", names=tuple("abcdef")) for x in (normal(6), normal(12)[::-2])),
        of((0,), caller="clip", names=()),
    ],
    "reshape": [
        *(of((3, 4), shape=shape) for shape in ((2, 6), (-1,), (2, -1, 2), (3, 4))),
        *(of((), shape=(1, 1)), of((1,), shape=()), of((0, 3), shape=(3, 0))),
        *(S(normal(4, 3).T, shape=(6, 2)), S(normal(6, 8)[::-2, ::2], shape=(12,))),
    ],
    "transpose": [
        *(of((2, 3, 4), axes=axes) for axes in (None, (1, 0, 2), (2, 0, 1), (-1, 0, 1), [0, 2, 1])),
        *(S(x) for x in (normal(), normal(3), normal(0, 2), normal(3, 8)[::-1, ::3])),
    ],
    "broadcast_to": [
        *(of((3, 1), shape=shape) for shape in ((3, 4), (2, 3, 4), (3, 1), (3, 0))),
        *(S(x, shape=(2, 3)) for x in (normal(), normal(1), normal(3), normal(6)[::-2])),
        of((0, 1), shape=(2, 0, 3)),
    ],
    "expand_dims": [
        *(of((3, 4), axis=axis) for axis in (0, 1, -1, (0, 2), (-1, 0), ())),
        *(S(x, axis=0) for x in (normal(), normal(0), normal(4, 3).T)),
    ],
    "squeeze": [
        *(of((1, 3, 1), axis=axis) for axis in (None, 0, -1, (0, 2))),
        *(S(x) for x in (normal(), normal(1, 1), normal(1, 0), normal(3, 2, 1)[::-1])),
    ],
    "flip": [*one(), *(of((2, 3, 4), axis=axis) for axis in (0, -1, (0, 2), (-1, 1)))],
    "join": [
        of((2, 3), (4, 3), axis=0, bounds=(0, 2, 6)),
        of((2, 3), (2, 1), (2, 0), axis=-1, bounds=(0, 3, 4, 4)),
        S(normal(3, 2).T, normal(4, 6)[::-2, ::2], axis=1, bounds=(0, 3, 6)),
        of((3,), axis=0, bounds=(0, 3)),
    ],
    "stack": [
        *(of((2, 3), (2, 3), (2, 3), axis=axis) for axis in (0, 1, -1)),
        *(of((), ()), of((3,)), of((0, 2), (0, 2)), S(normal(2, 3).T, normal(6, 4)[::-2, ::2])),
    ],
    "surround": [
        *(of((2, 3), pairs=pairs, value=1.5) for pairs in (((0, 1), (2, 0)), ((0, 0), (0, 0)))),
        *(S(x, pairs=((2, 2),) * x.ndim, value=0.0) for x in (normal(), normal(3), normal(0, 2), normal(4, 3).T)),
    ],
    **each("sum mean", reductions),
    "prod": [
        *(*reductions(), *(S(normal(n)) for n in (1, 2, 7, 8))),
        *(S(np.array(x)) for x in ([2.0, 0.0, 3.0], [0.0, 2.0, 0.0, 3.0], [[0.0, 2.0], [3.0, 4.0]])),
    ],
    **each("max min", lambda: reductions(distinct)),
    **each("argsort", lambda: [S(distinct(3, 4), axis=0), S(distinct(3, 4)), S(distinct(2, 0))]),
    **each(
        "argmax argmin", lambda: [S(distinct(3, 4), axis=a, keepdims=k) for a in (None, 0, -1) for k in (False, True)]
    ),
    **each("any all", lambda: [*reductions(mask), *reductions(distinct)]),
    "var": [*reductions(), of((3, 4), axis=0, ddof=1), of((3, 4), ddof=2, keepdims=True)],
    "std": [
        *(of((3, 4)), of((3, 4), axis=0), of((2, 3, 4), axis=(0, -1), keepdims=True, ddof=1), of((3, 4), ddof=2)),
        *(S(normal(4, 3, 2).T, axis=1), S(normal(6, 8)[::-2, 1::3], axis=0), of((0, 3), axis=1)),
    ],
    "logsumexp": [*reductions(), S(300 * normal(3, 4), axis=0)],
    "cumsum": [*(of((2, 3, 4), axis=a) for a in (0, 1, -1)), of((3,)), of((2, 0)), S(normal(4, 3).T)],
    "linear_scan": [
        *(of(s, (s[0] + 1, *s[1:])) for s in ((4, 3), (9, 2, 3), (6,), (1, 2), (0, 3), (3, 0))),
        *(S(normal(3, 4).T, normal(10, 6)[::-2, ::2]), S(integers(3, 4), normal(5))),
    ],
    **each(
        "softmax log_softmax",
        lambda: [
            *(of((2, 3, 4), axis=a) for a in (0, 1, -1)),
            *(*one(), S(300 * normal(3, 4)), of((2, 0)), of((0, 3), axis=0), of((0,))),
        ],
    ),
    "product": [
        *(of(a, b) for a, b in PRODUCTS),
        *(S(normal(3, 2).T, normal(4, 3).T), S(normal(4, 6)[::-2, ::2], normal(3, 8)[:, ::-2])),
    ],
    "linear": [
        *(of((*shape, 3), (4, 3)) for shape in [*ROWS, (2, 0)]),
        *(of((*shape, 3), (4, 3), (4,)) for shape in [*ROWS, (2, 1, 2)]),
        *(of((2, 5, 3), (4, 3), (2, 1, 4)), of((2, 3), (4, 3), ()), of((0, 3), (4, 3), (1, 4))),
        S(normal(3, 5).T, normal(3, 4).T, normal(8)[::-2]),
        S(normal(5, 2, 3).swapaxes(0, 1), normal(8, 3)[::2]),
    ],
    "contract": [
        *(of((2, 3), subscripts="ij->ji"), of((2, 3), subscripts="ij->j"), of((), (3,), subscripts=",i->i")),
        *(of((2, 3), (3, 4), subscripts="ij,jk->ik"), of((2, 3), (3,), subscripts="ij,j->")),
        *(of((2, 3), (4,), subscripts="ij,k->jk"), of((0, 3), (3, 2), subscripts="ij,jk->ki")),
        *(of((1, 3), (2, 3), subscripts="ij,ij->j"), of((2, 3), (3, 4), (4, 2), subscripts="ij,jk,kl->li")),
        S(normal(3, 2).T, normal(4, 6)[::-2, ::2], subscripts="ij,ij->i"),
    ],
    "windows": [
        *(of((2, 5, 6), **WIDE), of((4, 4), **DENSE), S(normal(7, 5, 2).T, **WIDE), of((0, 3, 3), **DENSE)),
        of((2, 7, 6), dilation=(2, 2), **WIDE),
    ],
    "overlap_add": [
        *(of((2, 2, 4, 2, 3), shape=(2, 5, 6), **WIDE), of((2, 3, 3, 2), shape=(4, 4), **DENSE)),
        *(of((0, 1, 2, 3, 2), shape=(0, 3, 3), **DENSE), of((2, 2, 2, 3), shape=(6, 6), dilation=(2, 2), **WIDE)),
    ],
    "max_pool2d": [
        *(S(distinct(2, 3, 4, 6), size=2), S(distinct(1, 5, 6), size=(3, 2), stride=1)),
        *(S(distinct(2, 1, 5, 5), size=2, stride=(3, 2)), S(distinct(5, 4, 2).T, size=2)),
        of((0, 1, 4, 4), size=(2, 1)),
    ],
    "shares": [
        S(x, tg.max_pool2d(x, **how), **how)
        for x, how in ((distinct(2, 5, 6), WIDE), (distinct(7, 5, 2).T, WIDE), (normal(0, 3, 3), DENSE))
    ],
    "path_sums": [
        *(S(normal(4, 2, 5), SKIPS), S(normal(2, 4, 5).swapaxes(0, 1), SKIPS), S(normal(1, 2, 5), SKIPS)),
        *(S(normal(3, 0, 5), SKIPS[:0]), S(normal(3, 2, 1), SKIPS[:, :1])),
    ],
    "moved": [
        *(of((2, 3, 4), value=0.0), of((2, 3, 1), value=-1.5), of((2, 0, 3), value=0.0)),
        S(normal(4, 3, 2).T, value=2.0),
    ],
    "joined": [of((3, 2, 3, 4)), of((3, 2, 3, 1)), S(normal(4, 3, 2, 3).T), of((3, 2, 0, 3))],
    **{
        name: [
            *(of((4, 2, 5), (3, 4, 2, 5)), of((1, 2, 3), (3, 1, 2, 3)), of((3, 2, 1), (3, 3, 2, 1))),
            *(S(normal(5, 2, 4).T, normal(5, 2, 4, 3).T), of((3, 0, 3), (3, 3, 0, 3))),
        ]
        for name in ("carried_back", "carried_on")
    },
    "getitem": [
        *(S(ROOM, key=key) for key in KEYS),
        *(S(normal(5, 3, 4).T, key=(slice(None, None, -1), 0)), of((), key=()), of((0, 2), key=slice(0, 0))),
    ],
    "scatter": [
        *(of(ROOM[key].shape, keys=(key,), shape=ROOM.shape) for key in KEYS),
        *(of((3,), (3,), (3,), keys=(1, 0, 2), shape=(3, 3)), of((3,), (3,), keys=(1, -2), shape=(3, 3))),
        *(of((3,), (3,), keys=(1, -1), shape=(4, 3)), of((), (), keys=(0, 2), shape=(3,))),
        of((2, 3), (3,), (3, 3), keys=(slice(0, 2), 1, np.array([0, 0, 3])), shape=(4, 3)),
    ],
    "take_along_axis": [
        *(S(normal(3, 4), integers(n, *s), axis=a) for a, n, s in ((-1, 4, (3, 2)), (0, 3, (5, 4)), (1, 4, (3, 1)))),
        *(S(normal(3, 1, 4), integers(4, 1, 2, 5)), S(normal(4), np.array([3, 3, -1]))),
        *(S(normal(0, 4), integers(4, 0, 2)), S(normal(4, 3).T, integers(4, 2, 3).T)),
        *(S(normal(2, 3), integers(6, 4), axis=None), S(normal(4, 3).T, np.array([11, -1, 11]), axis=None)),
    ],
    "add_along_axis": [
        S(normal(3, 2), integers(4, 3, 2), shape=(3, 4), axis=-1),
        S(normal(5, 4), integers(3, 5, 4), shape=(3, 4), axis=0),
        S(normal(3, 2, 5), integers(4, 1, 2, 5), shape=(3, 1, 4), axis=-1),
        S(normal(0, 2), integers(4, 0, 2), shape=(0, 4), axis=-1),
    ],
    **each(
        "cross_entropy nll",
        lambda: [
            *(S(normal(*s, 5), integers(5, *s)) for s in ROWS),
            S(normal(5, 3).T, integers(5, 6)[::-2].astype("i1")),
        ],
    ),
    "cross_entropy_back": [
        *(S(normal(*s, 5), integers(5, *s), normal(*s)) for s in ROWS),
        S(normal(5, 3).T, integers(5, 6)[::-2].astype("i1"), normal(3)),
    ],
    "embedding": [*(S(integers(4, *s), normal(4, 3)) for s in ROWS), S(np.array([1, 1], "u1"), normal(3, 4).T)],
    "add_rows": [S(normal(*s, 3), integers(4, *s), shape=(4, 3)) for s in ROWS],
    "normalize": [*(of(s) for s in ((5,), (3, 4), (2, 3, 4), (0, 4))), S(normal(4, 3).T, eps=0.1)],
    **each(
        "normalize_back gain_gradient",
        lambda: [
            *(of(s, s, eps=1e-5) for s in ((5,), (3, 4), (2, 3, 4), (0, 4))),
            S(normal(4, 3).T, normal(4, 3).T, eps=0.1),
        ],
    ),
    "layer_norm": [
        *(of((3, 4)), of((3, 4), (4,)), of((2, 3, 4), (4,), (4,)), of((5,), (5,), (1,)), of((0, 4), (4,), (4,))),
        *(of((3, 4), (4,), (3, 4)), S(normal(4, 3).T, None, normal(4), eps=0.1)),
    ],
}


def seeded_dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Dropout with the same mask at every call."""
    tg.manual_seed(1)
    return tg.dropout(x, p, training)


def summed(subscripts: str) -> Sample:
    """Operands for ``einsum``: each letter has a length of its own, and ``...`` stands for one axis."""
    terms = subscripts.replace(" ", "").partition("->")[0].replace("...", ".").split(",")
    return Sample((subscripts, *(normal(*(2 + ".bijkl".find(c) % 4 for c in term)) for term in terms)))


SUBSCRIPTS = [
    *("ij,jk", "bi,b", "ij , kj -> i", "i,j", ",", "ii", "ii->i", "iij->ij", "iii->i", "bii->b", "iji,jk->ik", "ij->"),
    *("ij,jk,kl->il", "...ij,...jk->...ik", "...i,...i", "i...->...", "...", "...ii->...i", "i...j,j...->i..."),
]

FUNCTIONS: dict[str, Callable[..., Any]] = {"dropout": seeded_dropout, "index": tg.ops.index}

COMPOSITES: dict[str, list[Sample]] = {
    "matmul": [
        *(of(a, b) for a, b in PRODUCTS),
        *(of(a, b) for a, b in [((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,))]),
        *(of((0,), (0,)), of((0, 3), (3,)), S(normal(6)[::-2], normal(4, 3).T)),
    ],
    "einsum": [
        *map(summed, SUBSCRIPTS),
        *(S("...ij,...jk->...ik", normal(2, 1, 2, 3), normal(4, 3, 2)), S("ij,ij->ij", normal(1, 3), normal(2, 1))),
        *(S("...i,...i", normal(2, 3), normal(3)), S("ij,j->i", normal(0, 3), normal(3)), S("bii->b", normal(0, 2, 2))),
    ],
    "split": [
        *(S(normal(6, 4), 3), S(normal(6, 4), np.int64(2), axis=-1), S(normal(4, 6).T, 2, axis=0), S(normal(0, 4), 2)),
        *(S(normal(2, 3, 4), (1, 3), axis=2), S(normal(2, 5), [0, 2, 2], axis=1)),
    ],
    "concatenate": [
        *(S([normal(2, 3), normal(1, 3)]), S((normal(2, 3), normal(2, 1), normal(2, 0)), axis=-1)),
        *(S([normal(3)]), S([normal(0, 2), normal(2, 2).T]), S([normal(3, 2).T, normal()], axis=None)),
    ],
    "pad": [
        *(of((2, 3), widths=w) for w in (np.int64(1), (1, 2), ((0, 1), [2, 0]), ((1,), (2,)), ((0, 0), (0, 0)))),
        *(S(x, widths=2, value=1.5) for x in (normal(), normal(3), normal(0, 2), normal(4, 3).T)),
    ],
    "outer": [of((3,), (4,)), of((0,), (2,)), S(normal(6)[::-2], normal(3))],
    "flatten": [of((2, 3, 4), **dims) for dims in ({}, {"start_dim": 1}, {"end_dim": -2})] + [of(()), of((0, 3))],
    "swapaxes": [of((2, 3, 4), a=a, b=b) for a, b in ((0, 1), (-1, -2), (0, -1), (1, 1))],
    "conv2d": [
        *(of((2, 3, 5, 6), (4, 3, 2, 3)), of((2, 3, 5, 6), (4, 3, 2, 3), (4,), stride=2)),
        *(of((1, 2, 4, 5), (3, 2, 3, 3), (3,), padding=1), of((0, 2, 4, 4), (3, 2, 2, 2))),
        of((2, 1, 7, 6), (2, 1, 3, 2), stride=(3, 2), padding=(2, 0)),
        of((1, 4, 7, 6), (6, 2, 2, 3), (6,), stride=(2, 1), dilation=(3, 2), groups=2),
    ],
    "dropout": [of((3, 4)), of((3, 4), p=0.2), of((3,), training=False), of(())],
    "index": [S(ROOM, key=key) for key in [*KEYS, *TENSOR_KEYS, np.int64(2), True]],
}
