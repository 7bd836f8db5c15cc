"""The character model: it learns, goes on exactly where it stopped, and says in one sentence what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import char_rnn
import numpy as np
import pytest
from test_io import same

import tinygrad_rnn as tg
from tinygrad_rnn.text import Vocabulary
from tinygrad_rnn.train import Training

TINY = ["--quick", "--hidden", "8", "--layers", "1", "--batch", "125", "--steps", "10"]  # 23 windows an epoch
WINDOWS = 23


@pytest.fixture(autouse=True)
def called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["char_rnn.py"])


def run(*arguments: str) -> Any:
    """The program's exit status; what a shell would show of it is printed."""
    try:
        char_rnn.main([*arguments])
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            return stop.code
        print(stop.code, file=sys.stderr)
        return 1
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("trained")
    assert run(*TINY, "--out", str(out)) == 0
    return out


@pytest.fixture(autouse=True)
def without_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other runs than that one: it takes a third of their time."""
    monkeypatch.setattr(char_rnn, "plot_curves", lambda *_: None)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of a training step."""
    train_on, steps = Training._train_on, iter(range(1, 10**6))

    def interrupted(self: Training, *window: Any) -> float:
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return train_on(self, *window)

    monkeypatch.setattr(Training, "_train_on", interrupted)


# ---- exact resumption ----


@pytest.mark.parametrize("step", [1, WINDOWS - 5, WINDOWS, WINDOWS + 1, 2 * WINDOWS - 3])
def test_interrupted_and_resumed_equals_uninterrupted(
    trained: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        assert run(*TINY, "--out", str(tmp_path)) == 130
    epoch, position = divmod(step - 1, WINDOWS)
    told = capsys.readouterr().err
    assert told == (
        f"char_rnn.py: stopped after {position + 1} of {WINDOWS} windows of epoch {epoch + 1} of 2, and saved; "
        "to go on, add --resume\n"
    )
    tg.manual_seed(99)  # as another process would have it
    assert run("--resume", "--out", str(tmp_path)) == 0
    for name in ("state.safetensors", "best.safetensors"):
        assert same(tg.load(tmp_path / name), tg.load(trained / name)), name


def test_more_epochs_can_be_added(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*TINY, "--epochs", "1", "--out", str(tmp_path)) == 0
    assert "goes on" not in capsys.readouterr().out
    assert run("--resume", "--out", str(tmp_path)) == 0
    assert "\n1 of 1 epochs of a --quick run are done; --resume --epochs N goes on\n" in capsys.readouterr().out
    assert run("--resume", "--epochs", "2", "--out", str(tmp_path)) == 0
    resumed, whole = (tg.load(out / "state.safetensors") for out in (tmp_path, trained))
    assert same(resumed["training"], whole["training"])


# ---- the run ----


def test_it_learns_and_draws(trained: Path) -> None:
    saved = tg.load(trained / "state.safetensors")["training"]
    curve, validation = saved["curves"]["train"], saved["curves"]["validation"]
    assert curve["loss"][0] > 3.8  # the text, and so the number of its characters, is that of this Python
    assert curve["loss"][-1] < 3.4
    assert validation["loss"].tolist() == sorted(validation["loss"], reverse=True)
    assert curve["step"].tolist() == [10, 20, 23, 33, 43, 46]
    assert (trained / "curves.png").stat().st_size > 10_000
    assert not [name for name in os.listdir(trained) if name.endswith(".tmp")]


def test_a_second_interrupt_while_saving_leaves_the_file_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*TINY, "--epochs", "1", "--out", str(tmp_path)) == 0
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    interrupt_at(3, monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
    capsys.readouterr()
    assert run("--resume", "--epochs", "2", "--out", str(tmp_path)) == 130
    assert capsys.readouterr().err == "char_rnn.py: stopped at once; what was saved before is intact\n"
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.usefixtures("strict_device")
def test_it_runs_and_resumes_on_a_device(trained: Path, tmp_path: Path) -> None:
    """On an array module that refuses what CuPy refuses; the numbers are NumPy's."""
    for options in ([*TINY, "--epochs", "1"], ["--resume", "--epochs", "2"]):
        assert run(*options, "--out", str(tmp_path), "--backend", "strict") == 0
    found, expected = (tg.load(out / "state.safetensors")["training"]["curves"] for out in (tmp_path, trained))
    np.testing.assert_allclose(found["train"]["loss"], expected["train"]["loss"], rtol=1e-4)
    np.testing.assert_allclose(found["validation"]["loss"], expected["validation"]["loss"], rtol=1e-4)


# ---- writing ----


def test_sampling_needs_no_training_and_follows_the_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sample(*options: str) -> str:
        assert run("--sample", "40", "--out", str(trained), *options) == 0
        return capsys.readouterr().out

    assert len(sample()) == len("The ") + 40 + len("\n")
    assert sample("--prime", "The ").startswith("The ")
    assert sample("--seed", "1") == sample("--seed", "1") != sample("--seed", "2")
    greedy = ("--temperature", "0", "--prime", "The ")
    assert sample(*greedy, "--seed", "1") == sample(*greedy, "--seed", "2")


def test_draws_follow_the_softmax() -> None:
    vocabulary = Vocabulary("abc")
    model = char_rnn.CharLSTM(3, 4, 2)
    model.head.weight.data = np.zeros((3, 4), np.float32)
    model.head.bias.data = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    drawn = char_rnn.generate(model, vocabulary, "a", 2000, 1.0, seed=0)
    assert [drawn.count(c) / 2000 for c in "abc"] == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    cold = char_rnn.generate(model, vocabulary, "a", 2000, 0.5, seed=0)
    assert cold.count("a") / 2000 == pytest.approx(0.25 / 0.38, abs=0.04)


# ---- what goes wrong is one sentence ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--text nowhere.txt", "there is no file nowhere.txt"),
        ("--text empty.txt", "empty.txt is empty"),
        ("--text binary.txt", "binary.txt is not a text file"),
        ("--text latin.txt", "latin.txt is not text in UTF-8"),
        ("--text short.txt", "the part to learn from has 38 characters, too few for 50 parallel streams"),
        ("--text medium.txt", "the part to validate on (5 %) has 20 characters, too few for 50 parallel streams"),
        ("--quick --prime \u2603", "lacks '\u2603'"),
        ("--sample 9 --prime \u2603 --out TRAINED", "lacks '\u2603'"),
        ("--sample 9 --out nowhere", "train first"),
        ("--resume --out nowhere", "train first"),
        ("--sample 9 --out broken", "is truncated, or not a .safetensors file"),
        ("--resume --out broken", "is truncated, or not a .safetensors file"),
        ("--sample 9 --out foreign", "was not saved by this program"),
        ("--resume --out foreign", "was not saved by this program"),
        ("--resume --hidden 9 --out TRAINED", "--hidden cannot change with --resume: this run has 8"),
        ("--hidden 0", "argument --hidden: '0' is not a whole number of at least 1"),
        ("--batch -3", "argument --batch: '-3' is not a whole number of at least 1"),
        ("--epochs 1.5", "argument --epochs: '1.5' is not a whole number of at least 1"),
        ("--lr nan", "argument --lr: 'nan' is not a number of at least 0"),
        ("--temperature -1", "argument --temperature: '-1' is not a number of at least 0"),
        ("--seed -1", "argument --seed: '-1' is not a whole number of at least 0"),
        ("--backend abacus", "there is no backend 'abacus'; there are"),
        ("--quick --hidden 100000000000", "allocate"),
        ("--quick --hidden 100000000000000000000", "dimension"),
        ("--quick --out empty.txt/x", "empty.txt"),
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
    ],
)
def test_errors_are_one_sentence(
    arguments: str,
    words: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_bytes(b"")
    Path("binary.txt").write_bytes(b"a\0b")
    Path("latin.txt").write_bytes(b"caf\xe9 au lait")
    Path("short.txt").write_text("hello world " * 3 + "four")
    Path("medium.txt").write_text("hello world, " * 30)
    for name, content in (("broken", None), ("foreign", {"program": "another"})):
        Path(name).mkdir()
        for file in ("best.safetensors", "state.safetensors"):
            if content:
                tg.save(Path(name, file), content)
            else:
                Path(name, file).write_bytes((trained / file).read_bytes()[:-100])
    capsys.readouterr()
    status = run(*arguments.replace("TRAINED", str(trained)).split())
    told = capsys.readouterr().err
    assert status in (1, 2)
    assert words in told
    assert told.startswith("char_rnn.py: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["tqdm", "safetensors", "matplotlib"])
def test_what_is_not_installed_is_told_before_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert run(*TINY, "--out", str(tmp_path / "out")) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"char_rnn.py: this program needs {name}, which is not installed: pip install ")
    assert not (tmp_path / "out").exists()


def command(*arguments: str) -> list[str]:
    """The program as a process of its own, in which any warning is an error."""
    return [sys.executable, "-W", "error", char_rnn.__file__, *arguments]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes find the package, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(tg.__file__).parent.parent))


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(("lr", "loss"), [("1e30", "([0-9.]+e\\+3[0-9]|nan|inf)"), ("1e38", "(nan|inf)")])
def test_a_loss_that_diverges_ends_in_a_sentence_and_keeps_what_was_saved(
    trained: Path, tmp_path: Path, lr: str, loss: str
) -> None:
    for name in ("best.safetensors", "state.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    ended = subprocess.run(
        command(*TINY, "--lr", lr, "--out", str(tmp_path)), capture_output=True, text=True, encoding="utf-8"
    )
    assert ended.returncode == 1
    words = (
        rf"char_rnn\.py: the loss became {loss} in epoch 1, after 1 of 23 windows; the learning rate may be too high\n"
    )
    assert re.fullmatch(words, ended.stderr)
    assert (tmp_path / "state.safetensors").read_bytes() == (trained / "state.safetensors").read_bytes()


@pytest.mark.usefixtures("importable")
@pytest.mark.skipif(os.name != "posix", reason="other systems send Ctrl-C in another way")
def test_control_c_in_a_real_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--epochs", "1000", *TINY, "--out", str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2 of 1000"):
            process.send_signal(signal.SIGINT)
            break
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.startswith("char_rnn.py: stopped after ")
    assert told.count("\n") == 1
    assert tg.load(tmp_path / "state.safetensors")["training"]["counters"]["epoch"] >= 2
