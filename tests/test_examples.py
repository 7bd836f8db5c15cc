"""Every program in examples/ runs in its quick form, and reaches what it says."""

from __future__ import annotations

from pathlib import Path

import common
import pytest
import run_all

from tinygrad_rnn.backend import Backend

PROGRAMS = run_all.programs()


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_quick_form_reaches_its_bar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("matplotlib", "safetensors", "tqdm"):
        pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)  # to which the programs write
    row = run_all.run(name, PROGRAMS[name], ["--quick"])
    assert row.passed, row


GALLERY = [name for name, path in PROGRAMS.items() if "return checked(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", GALLERY)
def test_it_runs_on_a_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Backend) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    row = run_all.run(name, PROGRAMS[name], ["--seeds", "1", "--steps", "2", "--backend", device.name])
    assert row.seeds in ("0 of 1", "1 of 1"), row  # two steps learn little, but nothing is refused


def test_all_programs_are_found() -> None:
    assert {"captions", "char_rnn", "parity", "rain"} <= PROGRAMS.keys()
    assert not {"common", "run_all"} & PROGRAMS.keys()


@pytest.mark.parametrize(
    ("value", "baseline", "lower", "met"),
    [(0.9, 0.5, False, True), (0.8, 0.5, False, False), (0.95, 0.96, False, False), (0.1, 0.5, True, False)],
)
def test_a_bar_is_met_by_what_reaches_it_and_beats_the_baseline(
    value: float, baseline: float, lower: bool, met: bool
) -> None:
    bar = common.Bar("rightness", full=0.05 if lower else 0.9, quick=0.9, baseline="guessing", lower=lower)
    assert bar.met(common.Result(value, baseline), quick=False) == met


PROGRAM = """
from common import Bar, Result, checked, parse
def run(args, seed):
    if args.steps == 7:
        raise ValueError("seven is too many")
    return Result(args.steps / 10, 0.1)
def main():
    return checked(run, Bar("goodness", 0.5, 0.3, "nothing"), parse("A program.", None, steps=(6, 4, "steps")))
if __name__ == "__main__":
    main().exit()
"""


@pytest.mark.parametrize(
    ("arguments", "passed", "told"),
    [
        ([], True, ("0.6 goodness", "0.1 (nothing)", "at least 0.5", "3 of 3")),
        (["--quick"], True, ("0.4 goodness", "0.1 (nothing)", "at least 0.3", "1 of 1")),
        (["--steps", "2", "--seeds", "2"], False, ("0.2 goodness", "0.1 (nothing)", "at least 0.5", "0 of 2")),
        (["--steps", "7"], False, ("ended with program.py: seven is too many", "", "", "")),
        (["--steps", "0"], False, ("ended with 2", "", "", "")),
        (["--backend", "abacus"], False, None),
    ],
)
def test_a_row_says_what_a_program_came_to(
    arguments: list[str], passed: bool, told: tuple[str, ...] | None, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "program.py").write_text(PROGRAM)
    row = run_all.run("program", tmp_path / "program.py", arguments)
    assert row.passed == passed
    assert row[1:5] == told if told else row.result.startswith("ended with program.py: there is no backend 'abacus'")


def test_the_table_is_markdown_and_one_failure_fails_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.py").write_text("print('all is well')")
    (tmp_path / "bad.py").write_text("raise ZeroDivisionError('alas')")
    monkeypatch.setattr(run_all, "programs", lambda: {name: tmp_path / f"{name}.py" for name in ("good", "bad")})
    monkeypatch.chdir(tmp_path)
    assert run_all.main(["--markdown", "table.md", "good"]) == 0
    assert run_all.main(["--markdown", "table.md", "--out", "there"]) == 1
    head, rule, good, bad = (tmp_path / "table.md").read_text().splitlines()
    assert head.split(" | ")[0] == "| task"
    assert set(rule) == {"|", "-"}
    assert "all is well" in good
    assert "ZeroDivisionError: alas" in bad
    assert "1 of 2 failed: bad" in capsys.readouterr().out
