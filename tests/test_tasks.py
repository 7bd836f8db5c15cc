"""The synthetic tasks, held to their definitions: each answer is found again in another way."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_rnn import tasks

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
few = settings(max_examples=50, deadline=None)


@few
@given(rng=seeds, steps=st.integers(1, 40), distractors=st.integers(1, 9))
def test_first_symbol(rng: np.random.Generator, steps: int, distractors: int) -> None:
    symbols, first = tasks.first_symbol(steps, 7, rng, distractors)
    assert symbols.shape == (steps, 7)
    for column, which in zip(symbols.T, first, strict=True):
        assert [s for s in column if s < 2] == [which]
        assert column.max() < 2 + distractors


@few
@given(rng=seeds, steps=st.integers(22, 60))
def test_adding_of_1997(rng: np.random.Generator, steps: int) -> None:
    xs, targets = tasks.adding(steps, 30, rng, form=1997)
    assert steps <= len(xs) <= steps * 1.1
    for row, target in enumerate(targets):
        numbers, marks = xs[:, row].T
        assert set(marks.tolist()) <= {-1.0, 0.0, 1.0}
        assert marks[-1] == -1
        marked = np.flatnonzero(marks == 1)
        assert (marked < 10).any()
        assert (marked < max(10, steps // 2 - 1)).all()
        assert len(marked) == 2
        assert marks[0] == (-1 if 0 not in marked else 1)
        assert (abs(numbers) <= 1).all()
        if 0 in marked and marked[1] >= 10:  # else either may have been drawn first
            assert numbers[0] == 0
        assert target == pytest.approx(0.5 + (numbers[marks == 1]).sum() / 4, abs=1e-6)


@few
@given(rng=seeds, steps=st.integers(2, 60))
def test_adding_of_2015(rng: np.random.Generator, steps: int) -> None:
    xs, targets = tasks.adding(steps, 20, rng)
    assert xs.shape == (steps, 20, 2)
    for row, target in enumerate(targets):
        numbers, marks = xs[:, row].T
        assert sorted(marks.tolist()) == [0.0] * (steps - 2) + [1.0] * 2
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert target == pytest.approx(sum(n for n, m in zip(numbers, marks, strict=True) if m), abs=1e-6)


def test_to_say_one_costs_a_sixth() -> None:
    """The variance of the sum of two uniform numbers, 2/12; the 0.1767 that is often printed is none."""
    targets = np.concatenate([tasks.adding(10, 1000, np.random.default_rng(seed)).targets for seed in range(40)])
    assert ((targets - 1) ** 2).mean() == pytest.approx(1 / 6, abs=0.004)


@few
@given(rng=seeds, steps=st.integers(10, 110), form=st.sampled_from([1997, 2013]))
def test_temporal_order(rng: np.random.Generator, steps: int, form: int) -> None:
    symbols, classes = tasks.temporal_order(steps, 20, rng, form)
    tenth, middle = steps // 10, (5 if form == 1997 else 4) * (steps // 10)
    assert steps <= len(symbols) <= (steps + tenth if form == 1997 else steps)
    for column, which in zip(symbols.T, classes, strict=True):
        (first, second) = np.flatnonzero(column < 2)
        assert tenth <= first <= 2 * tenth
        assert middle <= second <= middle + tenth
        assert which == ["XX", "XY", "YX", "YY"].index("XY"[column[first]] + "XY"[column[second]])
        inner = column[1:-1] if form == 1997 else column
        assert inner.max() < 6
    if form == 1997:
        assert (symbols[0] == 6).all()
        assert (symbols[-1] == 7).all()


@few
@given(rng=seeds, delay=st.integers(1, 20), items=st.integers(1, 12))
def test_copy_memory(rng: np.random.Generator, delay: int, items: int) -> None:
    inputs, targets = tasks.copy_memory(delay, 5, rng, items)
    assert inputs.shape == targets.shape == (delay + 2 * items, 5)
    assert (targets[:-items] == 8).all()
    for column, wanted in zip(inputs.T, targets.T, strict=True):
        (signal,) = np.flatnonzero(column == 9)
        assert signal + items + 1 == len(column)
        assert wanted[signal + 1 :].tolist() == column[:items].tolist() == [s for s in column if s < 8]


@few
@given(rng=seeds, steps=st.integers(1, 60))
def test_parity(rng: np.random.Generator, steps: int) -> None:
    bits, odd = tasks.parity(steps, 5, rng)
    for column, answers in zip(bits.T, odd.T, strict=True):
        assert answers.tolist() == [sum(column[: t + 1].tolist()) % 2 for t in range(steps)]


def test_anbn_and_what_may_follow() -> None:
    """All prefixes of the language, by brute force: what follows them is what may follow."""
    language = [tasks.anbn(n) for n in range(1, 9)]
    for string in language[:6]:
        for k, allowed in enumerate(tasks.anbn_successors(string)):
            prefix = string[: k + 1]
            assert set(allowed) == {other[k + 1] for other in language if other.startswith(prefix)}


# Reber's grammar once more, as an expression that was read off the drawing of it.
_TAIL = "T*V(?:PXT*V)*(?:V|PS)"
REBER = f"B(?:TS*X(?:S|X{_TAIL})|P{_TAIL})E"
EMBEDDED = re.compile(f"B(?:T{REBER}T|P{REBER}P)E")


@few
@given(rng=seeds)
def test_reber_strings_are_of_the_grammar(rng: np.random.Generator) -> None:
    for _ in range(10):
        assert re.fullmatch(REBER, tasks.reber(rng))
        string = tasks.embedded_reber(rng)
        assert EMBEDDED.fullmatch(string)
        assert len(tasks.embedded_reber_successors(string)) == len(string) - 1


def test_what_may_follow_in_the_embedded_grammar_is_what_follows_in_some_string_of_it() -> None:
    """Brute force: every string up to 12 symbols, grown symbol by symbol from those that a string was seen to hold."""
    rng = np.random.default_rng(0)
    drawn = {tasks.embedded_reber(rng) for _ in range(6000)}
    followers: dict[str, set[str]] = {}
    for string in drawn:
        for k in range(1, len(string)):
            followers.setdefault(string[:k], set()).add(string[k])
    for string in sorted(drawn, key=len)[:30]:
        for k, allowed in enumerate(tasks.embedded_reber_successors(string)):
            assert followers[string[: k + 1]] == set(allowed)


def test_only_strings_of_the_grammar_have_successors() -> None:
    """All strings of nine symbols that agree with a true one in their outer letters: the two checkers must agree."""
    for inner in product("TPSXVE", repeat=4):
        string = f"BTB{''.join(inner)}TE"
        if EMBEDDED.fullmatch(string):
            assert len(tasks.embedded_reber_successors(string)) == len(string) - 1
        else:
            with pytest.raises(ValueError, match="no string of the embedded Reber grammar"):
                tasks.embedded_reber_successors(string)


@pytest.mark.parametrize("string", ["", "B", "BT", "BTBPVVETX", "BTBPVVET", "BTBPVVEPE", "BTBPVVETEE", "BQBPVVEQE"])
def test_broken_strings_are_refused(string: str) -> None:
    with pytest.raises(ValueError, match="no string of the embedded Reber grammar"):
        tasks.embedded_reber_successors(string)


@pytest.mark.parametrize("symbols", [[0, 3], [0, -1], [True, False], [0.0, 1.0]])
def test_what_is_no_symbol_has_no_vector(symbols: list[Any]) -> None:
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        tasks.one_hot(np.array(symbols), 3)


def test_a_set_with_a_foreign_symbol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multi_hot: \['c', 'd'\] are not among the symbols 'ab'"):
        tasks.multi_hot(iter(["a", "bdc"]), "ab")


def test_bad_settings_are_named() -> None:
    rng = np.random.default_rng(0)
    for draw, words in (
        (lambda: tasks.adding(100, 5, rng, form=2001), "1997 or 2015, not 2001"),
        (lambda: tasks.temporal_order(100, 5, rng, form=2015), "1997 or 2013, not 2015"),
        (lambda: tasks.adding(21, 5, rng, form=1997), "adding: at least 22 steps"),
        (lambda: tasks.parity(5, 0, rng), "parity: .* a batch of 1 are needed, not 5 and 0"),
    ):
        with pytest.raises(ValueError, match=words):
            draw()


@pytest.mark.parametrize(
    "wrong", [0, None, np.random.RandomState(0), np.random.default_rng], ids=["seed", "none", "RandomState", "function"]
)
def test_what_is_no_generator_is_told_what_is(wrong: Any) -> None:
    for draw in (tasks.first_symbol, tasks.adding, tasks.temporal_order, tasks.copy_memory, tasks.parity):
        with pytest.raises(TypeError, match=rf"{draw.__name__}: .* rng = np\.random\.default_rng\(0\), not "):
            draw(20, 4, wrong)
    for write in (tasks.reber, tasks.embedded_reber):
        with pytest.raises(TypeError, match=rf"{write.__name__}: .* rng = np\.random\.default_rng\(0\), not "):
            write(wrong)
