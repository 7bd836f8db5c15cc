"""The reference programs in their quick form: each comes to its end, and reaches what a small form of it must."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tinygrad_rnn.backend import Backend

REFERENCE = Path(__file__).parents[1] / "examples" / "reference"
PROGRAMS = sorted(path.stem for path in REFERENCE.glob("*.py") if path.stem != "harness")


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_quick_form_reaches_its_bars(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = importlib.import_module(name)
    report = program.main(["--quick", "--out", str(tmp_path)])
    told = capsys.readouterr().out
    assert report.passed, told
    assert [record.bar for record in report.records] == list(program.BARS)
    kept = json.loads((tmp_path / f"{name}.json").read_text())
    assert [(bar["bar"], bar["trials"]) for bar in kept] == [(bar.name, trials) for bar, _, trials in report.records]
    with pytest.raises(SystemExit) as end:
        report.exit()
    assert not end.value.code
    rows = end.value.rows  # type: ignore[attr-defined]
    assert len(rows) == len(program.BARS)
    assert all(row.passed for row in rows)


def test_nothing_is_hidden_from_a_device(device: Backend) -> None:
    """The program that uses the most of the engine."""
    assert importlib.import_module("order_pascanu").main(["--quick", "--backend", device.name]).passed


def test_a_bar_that_is_missed_fails_the_program_only_where_it_is_needed() -> None:
    harness = importlib.import_module("harness")
    for needed in (True, False):
        bar = harness.Bar("never", "impossible", lambda rng, quick: harness.Outcome(False, "no"), 2, needed)
        report = harness.measured("program.py", "A program.", [bar], [])
        assert report.records[0].met == 0
        assert len(report.records[0].trials) == 2
        assert report.passed == (not needed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--seeds", "0"], "--seeds"), (["--only", "Elman"], "--only"), (["--backend", "abacus"], "abacus")],
)
def test_bad_options_are_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module("order").main(["--quick", *arguments])
    assert words in capsys.readouterr().err + str(end.value)


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^anbn\.py: .*file: File exists$"):
        importlib.import_module("anbn").main(["--out", str(tmp_path / "file")])


def test_every_program_has_its_row_among_the_results() -> None:
    page = (REFERENCE.parents[1] / "docs" / "reference_results.md").read_text(encoding="utf-8")
    for name in PROGRAMS:
        assert f"examples/reference/{name}.py" in page
