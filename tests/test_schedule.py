"""Schedules of recomputation against all that there are, and against what their papers say."""

from __future__ import annotations

from functools import cache
from itertools import combinations, pairwise
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_rnn.bptt.schedule import Schedule, best, even, held, lengths, smallest_budget, work


@cache
def all_schedules(steps: int) -> list[Schedule]:
    """Every schedule for so many steps."""
    found: list[Schedule] = [steps]
    for parts in range(2, steps + 1):
        for cut in combinations(range(1, steps), parts - 1):
            bounds = [0, *cut, steps]
            *earlier, last = (b - a for a, b in pairwise(bounds))
            lists: list[tuple[Schedule, ...]] = [()]
            for length in earlier:
                lists = [(*done, part) for done in lists for part in all_schedules(length)]
            found += [(*done, last) for done in lists]
    return found


def carry_out(schedule: Schedule, step_bytes: int, state_bytes: int) -> tuple[int, int, list[int]]:
    """Play a schedule with nothing but a list of kept states: steps run, most bytes, order of the way back."""
    run, most, gone = 0, 0, []
    kept: list[int] = []

    def play(part: Schedule, start: int) -> None:
        nonlocal run, most
        parts = part if isinstance(part, tuple) else (part,)
        starts = [start]
        for p in parts[:-1]:
            kept.append(starts[-1])
            run += sum(lengths(p))
            starts.append(starts[-1] + sum(lengths(p)))
        run += parts[-1]
        most = max(most, len(kept) * state_bytes + parts[-1] * step_bytes)
        gone.extend(range(starts[-1] + parts[-1] - 1, starts[-1] - 1, -1))
        for p, s in zip(parts[-2::-1], starts[-2::-1], strict=True):
            assert kept.pop() == s
            play(p, s)

    play(schedule, 0)
    return run, most, gone


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 7), step_bytes=st.integers(1, 9), state_bytes=st.integers(1, 9), budget=st.integers(1, 70))
def test_no_schedule_within_the_budget_works_less(steps: int, step_bytes: int, state_bytes: int, budget: int) -> None:
    played = [(s, carry_out(s, step_bytes, state_bytes)) for s in all_schedules(steps)]
    least = min(most for _, (_, most, _) in played)
    assert least == smallest_budget(steps, step_bytes, state_bytes)
    if budget < least:
        with pytest.raises(ValueError, match=f"the smallest budget that would do is {least:,} bytes"):
            best(steps, step_bytes, state_bytes, budget)
        return
    found = best(steps, step_bytes, state_bytes, budget)
    assert work(found) == min(run for _, (run, most, _) in played if most <= budget)
    for schedule, (run, most, gone) in played:
        assert (run, most) == (work(schedule), held(schedule, step_bytes, state_bytes))
        assert gone == list(range(steps))[::-1]


def test_a_budget_without_a_limit_keeps_everything() -> None:
    assert best(1000, 10, 3, float("inf")) == 1000
    with pytest.raises(ValueError, match="the smallest budget that would do"):
        best(1000, 10, 3, float("nan"))


def test_the_deepest_schedules_stay_clear_of_the_limit_of_recursion() -> None:
    """With the smallest budget, each tuple holds another one and a single step: hundreds within each other."""
    steps = 512
    found = best(steps, 10, 3, smallest_budget(steps, 10, 3))
    assert list(lengths(found)) == [1] * steps
    assert held(found, 10, 3) == smallest_budget(steps, 10, 3)
    assert work(found) == steps * (steps + 1) // 2


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 100])
def test_states_alone_are_placed_as_in_the_papers(steps: int, slots: int) -> None:
    """Room for one step's graph and some states: the recurrence of BPTT-HSM, and the closed form of revolve."""

    @cache
    def hsm(t: int, m: int) -> int:
        if t == 1 or m == 1:
            return t * (t + 1) // 2
        return min(y + hsm(t - y, m - 1) + hsm(y, m) for y in range(1, t))

    large = 1000  # bytes of a step, so that no two steps fit instead of states
    schedule = best(steps, large, 1, large + slots)
    assert work(schedule) == hsm(steps, slots)
    repeats = next(r for r in range(steps + 1) if comb(slots + r, slots) >= steps)
    advances = repeats * steps - comb(slots + repeats, slots + 1)  # Griewank and Walther, without the steps themselves
    assert work(schedule) - steps == advances


def test_long_sequences_are_planned_in_units() -> None:
    schedule = best(10_007, 30_000, 8_000, 5_000_000)
    assert sum(lengths(schedule)) == 10_007
    assert held(schedule, 30_000, 8_000) <= 5_000_000
    assert work(schedule) < 3 * 10_007


def test_equal_parts() -> None:
    assert even(7, 1) == 7
    assert even(7, 3) == (3, 2, 2)
    assert even(3, 3) == (1, 1, 1)
