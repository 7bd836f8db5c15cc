"""The reference programs in their quick form: each comes to its end, and reaches what a small form of it must."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import run_all

from tinygrad_rnn.backend import Backend

REFERENCE = Path(__file__).parents[1] / "examples" / "reference"
PROGRAMS = sorted(path.stem for path in REFERENCE.glob("*.py") if path.stem != "harness")


def run(name: str, *arguments: str) -> tuple[run_all.Finished, str]:
    """How a program ended, and what it printed."""
    finished, told, why = run_all.once(REFERENCE / f"{name}.py", [*arguments])
    assert finished, why
    return finished, told


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_quick_form_reaches_its_bars(name: str, tmp_path: Path) -> None:
    finished, told = run(name, "--quick", "--out", str(tmp_path))
    assert not finished.code, told
    assert all(row.passed for row in finished.rows)
    assert [row.task for row in finished.rows] == [bar.name for bar in importlib.import_module(name).BARS]
    kept = json.loads((tmp_path / f"{name}.json").read_text())
    assert [bar["bar"] for bar in kept] == [row.task for row in finished.rows]
    for bar, row in zip(kept, finished.rows, strict=True):
        (trial,) = bar["trials"]
        assert f"  seed 0: {'met' if trial['met'] else 'not met'}; {trial['said']}; " in told
        assert (f"{trial['met']:d} of 1", trial["said"]) == (row.seeds, row.result)


def test_nothing_is_hidden_from_a_device(device: Backend) -> None:
    """The training that uses the most of the engine: clipping, and gradients of gradients."""
    assert not run("order_pascanu", "--quick", "--only", "SGD-CR", "--backend", device.name)[0].code


def test_a_bar_that_is_missed_fails_the_program_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = importlib.import_module("harness")
    monkeypatch.setattr(sys, "argv", ["program.py"])
    for needed in (True, False):
        bar = harness.Bar("never", "impossible", lambda rng, quick: harness.Outcome(False, "no"), 2, needed)
        with pytest.raises(run_all.Finished) as end:
            harness.measured("A program.", [bar])
        assert [row.seeds for row in end.value.rows] == ["0 of 2"]
        assert end.value.code == needed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--seeds", "0"], "--seeds"), (["--only", "Elman"], "--only"), (["--backend", "abacus"], "abacus")],
)
def test_bad_options_are_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    finished, _, why = run_all.once(REFERENCE / "order.py", ["--quick", *arguments])
    assert not finished
    assert words in capsys.readouterr().err + why


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished, told, why = run_all.once(REFERENCE / "anbn.py", ["--out", str(tmp_path / "file")])
    assert re.fullmatch(r"ended with anbn\.py: .*file: File exists", why)
    assert (finished, told) == (None, "")


def test_every_program_has_its_row_among_the_results() -> None:
    page = (REFERENCE.parents[1] / "docs" / "reference_results.md").read_text(encoding="utf-8")
    for name in PROGRAMS:
        assert f"examples/reference/{name}.py" in page
