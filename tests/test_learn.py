"""The rungs of the ladder: each runs alone, on the CPU and on a stand-in for a GPU, and fails on a false claim."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import ladder
import pytest
import run_all

import tinygrad_rnn as tg

LEARN = Path(ladder.__file__).parent
RUNGS = sorted(LEARN.glob("[0-9]*.py"))


def climb(monkeypatch: pytest.MonkeyPatch, rung: Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [rung.name, "--quick", *options])
    runpy.run_path(str(rung), run_name="__main__")


@pytest.mark.parametrize("backend", ["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.stem)
@pytest.mark.usefixtures("strict_device")
def test_a_rung_holds(rung: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = run_all.run(rung.stem, rung, ["--quick", "--backend", backend], first=backend != "numpy")
    assert row.passed, row
    assert capsys.readouterr().out.count("holds: ") >= 3


def test_the_ladder_has_no_missing_rung() -> None:
    assert [int(rung.name[:2]) for rung in RUNGS] == list(range(1, len(RUNGS) + 1))


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.stem)
def test_a_rung_can_be_read_at_a_sitting(rung: Path) -> None:
    lines = rung.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 95
    assert f"    python examples/learn/{rung.name}" in lines


@pytest.mark.parametrize("number", [1, 4, 7])
def test_a_rung_notices_a_derivative_that_is_wrong(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tg.tanh.op.rules
    right = rules["x"]
    tg.tanh.vjp(x=lambda g, y: g * (1 - y * y) * 1.5)
    try:
        with pytest.raises(SystemExit) as stop:
            climb(monkeypatch, RUNGS[number - 1])
    finally:
        tg.tanh.vjp(x=right)
    assert str(stop.value).startswith("this does not hold: ")  # Python prints it to stderr, and exits with 1


def test_what_goes_wrong_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^03_broadcasting\.py: there is no backend 'abacus'; there are "):
        climb(monkeypatch, RUNGS[2], "--backend", "abacus")
    with pytest.raises(SystemExit):
        climb(monkeypatch, RUNGS[2], "--seed", "-1")
    told = capsys.readouterr().err
    assert told == "03_broadcasting.py: argument --seed: '-1' is not a whole number of at least 0\n"
