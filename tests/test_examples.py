"""Every program in examples/ runs in its quick form, and reaches what it says."""

from __future__ import annotations

import re
from pathlib import Path

import common
import pytest
import run_all

from tinygrad_rnn.backend import Backend

PROGRAMS = run_all.programs()

QUICK = [name for name in PROGRAMS if "/" not in name]  # learn/ and reference/ have tests of their own


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_form_reaches_its_bar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("matplotlib", "safetensors", "tqdm"):
        pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)  # to which the programs write
    rows = run_all.run(name, PROGRAMS[name], ["--quick"])
    assert rows
    assert all(row.passed for row in rows), rows


GALLERY = [name for name, path in PROGRAMS.items() if "    checked(run, " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", GALLERY)
def test_it_runs_on_a_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Backend) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(figures.Figure, "savefig", lambda *_, **__: None)  # what is drawn is on the host by then
    monkeypatch.chdir(tmp_path)
    (row,) = run_all.run(name, PROGRAMS[name], ["--quick", "--steps", "2", "--backend", device.name])
    assert row.seeds in ("0 of 1", "1 of 1"), row  # two steps learn little, but nothing is refused


def test_all_programs_are_found() -> None:
    assert {"captions", "char_rnn", "parity", "rain"} <= PROGRAMS.keys()
    assert not {"common", "run_all"} & PROGRAMS.keys()


def test_every_program_has_its_place_in_the_documentation() -> None:
    docs = Path(run_all.__file__).parents[1] / "docs"
    gallery, results = ((docs / page).read_text(encoding="utf-8") for page in ("gallery.md", "results.md"))
    assert set(re.findall(r"^\| ([a-z][a-z0-9_/]+)", results, re.M)) - {"task"} == PROGRAMS.keys()
    shown = {name.removeprefix("gallery_") for name in re.findall(r"^!\[.+\]\(images/(\w+)\.png\)$", gallery, re.M)}
    assert shown == {name for name in PROGRAMS if "/" not in name}
    assert all(f"[`{name}.py`](#" in gallery for name in shown)


@pytest.mark.parametrize(
    ("value", "baseline", "lower", "met"),
    [(0.9, 0.5, False, True), (0.8, 0.5, False, False), (0.95, 0.96, False, False), (0.1, 0.5, True, False)],
)
def test_a_bar_is_met_by_what_reaches_it_and_beats_the_baseline(
    value: float, baseline: float, lower: bool, met: bool
) -> None:
    bar = common.Bar("rightness", full=0.05 if lower else 0.9, quick=0.9, baseline="guessing", lower=lower)
    assert bar.met(common.Result(value, baseline), quick=False) == met


with pytest.raises(FileExistsError) as raised:
    Path(__file__).mkdir()
EXISTS = raised.value.strerror  # in the words of this system

PROGRAM = """
from common import Bar, Result, checked, parse
def run(args, seed):
    if args.steps == 7:
        raise ValueError("seven is too many")
    return Result(args.steps / 10, 0.1)
if __name__ == "__main__":
    checked(run, Bar("goodness", 0.5, 0.3, "nothing"), parse("A program.", steps=(6, 4, "steps")))
"""


@pytest.mark.parametrize(
    ("arguments", "passed", "told"),
    [
        ([], True, ("goodness: 0.6", "0.1 (nothing)", "at least 0.5", "3 of 3")),
        (["--quick"], True, ("goodness: 0.4", "0.1 (nothing)", "at least 0.3", "1 of 1")),
        (["--steps", "2", "--seeds", "2"], False, ("goodness: 0.2", "0.1 (nothing)", "at least 0.5", "0 of 2")),
        (["--steps", "7"], False, ("ended with program.py: seven is too many", "", "", "0 of 3")),
        (["--steps", "0"], False, ("ended with 2", "", "", "0 of 3")),
        (["--backend", "abacus"], False, None),
        (["--out", "program.py"], False, (f"ended with program.py: program.py: {EXISTS}", "", "", "0 of 3")),
    ],
)
def test_a_row_says_what_a_program_came_to(
    arguments: list[str], passed: bool, told: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    (row,) = run_all.run("program", tmp_path / "program.py", arguments)
    assert row.passed == passed
    assert row[1:5] == told if told else row.result.startswith("ended with program.py: there is no backend 'abacus'")


REFERENCE = """
from harness import Bar, Outcome, measured
def trial(rng, quick):
    drawn = rng.random()
    return Outcome(drawn > 0.6, f"drew {drawn:.2f}")
if __name__ == "__main__":
    bars = Bar("needed", "above 0.6", trial, 1), Bar("other", "above 0.6", trial, 2, needed=False)
    measured("A program.", bars)
"""


def test_a_reference_program_has_a_row_for_each_bar(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(REFERENCE)
    rows = run_all.run("program", tmp_path / "program.py", [])
    assert [row[:5] for row in rows] == [
        ("program needed", "drew 0.64", "", "above 0.6", "1 of 1"),
        ("program other", "drew 0.51", "", "above 0.6", "1 of 2"),  # the seed that missed
    ]
    assert all(row.passed for row in rows)


def test_of_other_programs_three_seeds_tell(tmp_path: Path) -> None:
    text = "import sys\nprint(f'holds: {sys.argv[-1]}\\nholds: 1 = 1\\nbye')\nsys.exit('2' in sys.argv and 'no')"
    (tmp_path / "program.py").write_text(text)
    (row,) = run_all.run("program", tmp_path / "program.py", [])
    assert row[:5] == ("program", "2 claims hold, the last: 1 = 1; ended with no", "", "", "2 of 3")
    (row,) = run_all.run("program", tmp_path / "program.py", ["--quick"])
    assert row.passed
    assert row.seeds == "1 of 1"


def test_what_was_finished_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "done.py").write_text("print('done')")
    (tmp_path / "stopped.py").write_text("import sys\nsys.exit(130)")  # as programs say that somebody stopped them
    monkeypatch.setattr(run_all, "programs", lambda: {name: tmp_path / f"{name}.py" for name in ("done", "stopped")})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_all.main(["--quick"])
    assert stop.value.code == 130
    for program in ("done", "stopped"):
        (tmp_path / f"{program}.py").write_text("print('run again')")
    assert run_all.main(["--quick", "--resume", "--markdown", "table.md"]) == 0
    results = [line.split("|")[2].strip() for line in (tmp_path / "table.md").read_text().splitlines()]
    assert results[2:] == ["done", "run again"]
    (tmp_path / "runs" / "all" / "rows.json").write_text("[")
    with pytest.raises(SystemExit, match="leave out --resume"):
        run_all.main(["--resume"])
    for arguments, words in ((["nothing"], "no program 'nothing'"), (["--markdown", "no/table.md"], "no folder no")):
        with pytest.raises(SystemExit):
            run_all.main(arguments)
        assert words in capsys.readouterr().err


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
