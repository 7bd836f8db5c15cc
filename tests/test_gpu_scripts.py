"""The scripts for a GPU, without one: tiny shapes, a stand-in for the device, and processes that fail."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import gpu
import launches
import pytest
from workloads import Workload, parameter_shapes

import tinygrad_rnn as tg

ROOT = Path(__file__).parents[1]
needs_gnu = pytest.mark.skipif(sys.platform != "linux", reason="the script needs the timeout and env of GNU")


def test_all_parts_run_on_the_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.md"
    options = ["--quick", "--device", "strict", "--out", str(out), "--engines", "tinygrad_rnn"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    assert gpu.main() == 0
    text, progress = capsys.readouterr()
    assert out.read_text(encoding="utf-8") in text
    assert [line.partition(":")[0] for line in progress.splitlines()] == [
        *("limits", "tinygrad_rnn", "crossover strict", "char strict", "crossover cpu", "char cpu")
    ]
    for row in (
        "| 1 x 8 | float32 | tinygrad_rnn | ",
        "| 2 x 8 | TF32 | tinygrad_rnn | ",
        "| 4, 2 | ",
        "| strict | 1 | ",
    ):
        assert row in text
    assert "LOSSES DIFFER" not in text
    losses = [line.split(" | ")[2:4] for line in text.splitlines() if line.startswith(("| strict | 1", "| numpy | 1"))]
    assert losses[0] == losses[1]


def test_a_process_that_fails_leaves_a_line() -> None:
    (only,) = gpu.run(["steps", "no-such-engine", "--device", "cpu", "--tiny"], 60)
    assert "ended with status 1: KeyError: 'no-such-engine'" in only["error"]


def test_a_process_that_takes_too_long_is_stopped() -> None:
    assert gpu.run(["char", "--device", "cpu"], 0.2)[-1] == {"error": "stopped at its limit of 0 s"}
    assert gpu.run(["char"], -1.0) == [{"error": "not begun: no time was left"}]


def test_what_is_missing_leaves_a_row_out_and_a_note() -> None:
    figure = {"shape": "1 x 8", "precision": "float32", "ms": [2.0, 4.0, 3.0], "losses": [1.0, 2.0], "first_s": 1.0}
    found = {
        "limits": [{"error": "gone"}],
        "tinygrad_rnn": [figure, {"shape": "1 x 8", "precision": "TF32", "error": "RuntimeError: no cuBLAS"}],
        "torch-cells": [figure | {"ms": [12.0]}],
        "torch-lstm": [figure | {"ms": [6.0], "losses": [1.0, 2.1]}],
    }
    page = gpu.report(found, "cpu", True)
    assert "| 1 x 8 | float32 | tinygrad_rnn | 3 | 2..4 | 0.25 | 0.50 |  | 1.0 |" in page
    assert "LOSSES DIFFER: 1 x 8, float32, torch-lstm has [1.0, 2.1], not [1.0, 2.0]" in page
    assert "- tinygrad_rnn: 1 x 8, TF32: RuntimeError: no cuBLAS" in page
    assert "- limits: whole: gone" in page


def test_the_roofline_counts_the_products() -> None:
    w = Workload(batch=3, steps=5, hidden_size=7, layers=2)
    flops, _, launches = gpu.needed(w)
    matrices = {n: s for n, s in parameter_shapes(w).items() if len(s) == 2 and "embedding" not in n}
    assert flops == sum(3 * 2 * w.steps * w.batch * rows * columns for rows, columns in matrices.values())
    assert launches == 2 * 2 * w.steps * w.layers
    limits = {"flops": 1e3, "bytes": 1e9, "recurrent_s": {"7": 0.5}}
    bounds = gpu.bounds(w, limits)
    assert bounds["FLOPs"] == flops
    assert bounds["recurrence"] == 5 * 500.0  # of one layer


@needs_gnu
def test_the_tests_for_a_gpu_are_run_by_one_command(tmp_path: Path) -> None:
    script = ["bash", str(ROOT / "benchmarks" / "gpu_tests.sh")]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "LOG": str(tmp_path / "log")}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*script, *options, "tests/test_cublas.py"], capture_output=True, text=True, check=False, env=environment
        )

    done = run("--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert " passed" in log
    if "cupy" not in tg.available_backends():
        assert "backend 'cupy' was asked for" in log
        done = run()
        assert done.returncode == 2
        assert "nothing was run" in done.stdout


@needs_gnu
def test_tests_that_take_too_long_are_interrupted_and_the_failures_until_then_are_shown(tmp_path: Path) -> None:
    slow = tmp_path / "test_strict_slow.py"
    slow.write_text("import time\ndef test_fails(): assert not 7\ndef test_sleeps(): time.sleep(60)\n")
    script = f"trap '' INT; exec {shlex.join([str(ROOT / 'benchmarks' / 'gpu_tests.sh'), '--dry', str(slow)])}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "LOG": str(tmp_path / "log"), "LIMIT": "10"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 124, done.stdout + done.stderr
    assert "assert not 7" in (tmp_path / "log").read_text(encoding="utf-8")


def test_launches_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    launches.main()
    rows = [line.strip("| ").split(" | ")[:3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["lstm", "11", "12"], ["gru", "10", "11"], ["rnn", "3", "3"]]
