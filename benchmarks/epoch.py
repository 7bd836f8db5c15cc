"""Time epochs of examples/char_rnn.py's recipe on a text, beside PyTorch's nn.LSTM, in one run.

    python benchmarks/epoch.py --text input.txt --epochs 1 --threads 1

Each engine lives in a process of its own. They take turns: one trains on a twentieth of an epoch while the others wait,
and measures its validation loss at the epoch's end. The recipe: embedding, two LSTM layers of 128, batch 50, windows of
50 steps with the state carried over, norm clip 5, RMSprop 2e-3 (decay 0.95), 95 % of the text to learn from.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from train_step import machine, stdout_for_answers, take_turns

TURNS = 20  # of each engine in an epoch
ENGINES = {"replayed": "exact", "fast": "fast", "eager": "", "torch-lstm": None}  # how char_rnn.py replays

Run = tuple[Callable[[int], None], Callable[[], float], int]  # train on window k; the validation loss; windows


def char_rnn(text: str, seed: int, replay: str) -> Run:
    """The example's own training, without what it writes and prints."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    program = import_module("char_rnn")
    settings = {**program.DEFAULTS, "text": text, "seed": seed}
    with contextlib.redirect_stdout(io.StringIO()):
        training, _ = program.prepare(settings, "", replay)
    losses: Any = iter(())

    def train(k: int) -> None:
        nonlocal losses
        if k == 0:
            losses = training.windows_left()
        next(losses)

    return train, training.end_epoch, len(training.windows)


def torch_lstm(text: str, seed: int) -> Run:
    """The same model, windows and recipe in PyTorch, with its nn.LSTM."""
    import torch
    from torch.nn import functional

    from tinygrad_rnn.text import Vocabulary, Windows, read_text, split

    torch.manual_seed(seed)
    content = read_text(text)
    vocabulary = Vocabulary(content)
    learn, validate = split(vocabulary.encode(content), 0.95)
    windows, validation = ([*map(tensors, Windows(part, 50, 50))] for part in (learn, validate))
    embedding, lstm = torch.nn.Embedding(len(vocabulary), 128), torch.nn.LSTM(128, 128, 2)
    model = torch.nn.ModuleList([embedding, lstm, torch.nn.Linear(128, len(vocabulary))])
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, alpha=0.95)
    state: Any = None

    def loss_of(inputs: Any, targets: Any, state: Any) -> Any:
        outputs, state = lstm(embedding(inputs), state)
        return functional.cross_entropy(model[2](outputs).flatten(0, 1), targets.flatten()), state

    def train(k: int) -> None:
        nonlocal state
        optimizer.zero_grad()
        inputs, targets = windows[k]
        loss, state = loss_of(inputs, targets, state if k else None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        state = tuple(s.detach() for s in state)
        loss.item()

    def validation_loss() -> float:
        total, count, state = 0.0, 0, None
        with torch.no_grad():
            for inputs, targets in validation:
                loss, state = loss_of(inputs, targets, state)
                total, count = total + loss.item() * targets.numel(), count + targets.numel()
        return total / count

    return train, validation_loss, len(windows)


def tensors(window: Any) -> Any:
    import torch

    return [torch.from_numpy(tokens.astype("int64")) for tokens in window]


def work(engine: str, text: str, seed: int, threads: int) -> None:
    """Serve one engine: for each line read, train on the next part of an epoch, and validate at its end."""
    answers = stdout_for_answers()
    if engine == "torch-lstm":
        import_module("torch").set_num_threads(threads)
        train, validate, windows = torch_lstm(text, seed)
    else:
        train, validate, windows = char_rnn(text, seed, ENGINES[engine] or "")
    print(json.dumps({}), file=answers)
    while True:
        for turn in range(TURNS):
            if not sys.stdin.readline():
                return
            begin = time.perf_counter()
            for k in range(turn * windows // TURNS, (turn + 1) * windows // TURNS):
                train(k)
            loss = validate() if turn == TURNS - 1 else None
            print(json.dumps({"seconds": time.perf_counter() - begin, "loss": loss}), file=answers)


def main() -> int:
    """Run the benchmark, or one of its workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, metavar="FILE")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.text, options.seed, options.threads)
        return 0
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    arguments = ["--text", options.text, "--seed", str(options.seed)]
    workers = take_turns(options.engines, __file__, arguments, options.threads, TURNS * options.epochs)
    print("| engine | epoch | seconds | validation loss |\n| --- | ---: | ---: | ---: |")
    for worker in workers:
        for epoch in range(options.epochs):
            part = worker.chunks[epoch * TURNS : (epoch + 1) * TURNS]
            seconds = sum(chunk["seconds"] for chunk in part)
            print(f"| {worker.engine} | {epoch + 1} | {seconds:.1f} | {part[-1]['loss']:.3f} |")
    print(f"\n{machine(options.threads)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
