"""A character-level language model: an LSTM reads text, learns to say what comes next, and then writes on its own.

    python examples/char_rnn.py                                # learn from Python's documentation, about two minutes
    python examples/char_rnn.py --text shakespeare.txt         # or from a text of yours
    python examples/char_rnn.py --resume --epochs 30           # go on where it stopped, after Ctrl-C or at the end
    python examples/char_rnn.py --sample 500 --prime "The "    # only write

Training is truncated BPTT: the text is read in windows of T steps, the state is carried from window to window, and the
gradient stops at each window's start. The folder --out gets best.safetensors (the model with the lowest validation
loss), state.safetensors (all that --resume needs to go on exactly) and curves.png.
"""

from __future__ import annotations

import os

# OpenBLAS's threads spin while they wait for each other: beside a busy process, two take 20 times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Options, Parser, at_least, running

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, optim
from tinygrad_rnn.curves import nats_and_bits, plot_curves
from tinygrad_rnn.extras import import_extra
from tinygrad_rnn.text import TextError, Vocabulary, Windows, python_documentation, read_text, split
from tinygrad_rnn.train import Interrupt, Training

DEFAULTS = {"text": None, "epochs": 12, "hidden": 128, "layers": 2, "batch": 50, "steps": 50, "lr": 2e-3, "seed": 0}
QUICK = {**DEFAULTS, "epochs": 2, "hidden": 32, "batch": 20, "steps": 25, "lr": 1e-2, "limit": 30_000}  # seconds


class CharLSTM(nn.Module):
    """Embedding, a stack of LSTM cells, and a linear map to the logits of the next character."""

    def __init__(self, characters: int, hidden: int, layers: int):
        self.embedding = nn.Embedding(characters, hidden)
        self.cells = [nn.LSTMCell(hidden, hidden) for _ in range(layers)]
        self.head = nn.Linear(hidden, characters)

    def forward(self, tokens: Any, state: Any = None) -> bptt.Unrolled:
        """Logits (T, B, characters) for tokens (T, B), and the state of each layer after the last of them."""
        xs = self.embedding(tokens)
        after = []
        for layer, cell in enumerate(self.cells):
            xs, last = bptt.unroll(cell, xs, state[layer] if state else None)
            after.append(last)
        return bptt.Unrolled(self.head(xs), after)


@tg.no_grad()
def generate(model: CharLSTM, vocabulary: Vocabulary, prime: str, length: int, temperature: float, seed: int) -> str:
    """What comes after the prime: each character is drawn from softmax(logits / temperature); 0 takes the likeliest."""

    def step(characters: Any, state: Any) -> tuple[Any, Any]:
        logits, state = model(characters[None], state)
        return logits[0], state

    read = tg.tensor(vocabulary.encode(prime)[:, None], backend=model.head.weight.backend)
    state = model(read[:-1]).state if len(read) > 1 else None
    written = nn.sample(step, state, read[-1], length, temperature, generator=np.random.default_rng(seed))
    return vocabulary.decode(written.tokens[:, 0])


def prepare(settings: dict[str, Any], prime: str, replay: str, saved: Any = None) -> tuple[Training, dict[str, Any]]:
    """The training, at its start or where it was saved, and a description of the run."""
    text = (read_text(settings["text"]) if settings["text"] else python_documentation())[: settings.get("limit")]
    vocabulary = Vocabulary(text)
    vocabulary.encode(prime)  # a prime that cannot be read should fail now, not after the training
    tg.manual_seed(settings["seed"])
    model = CharLSTM(len(vocabulary), settings["hidden"], settings["layers"])
    tokens = tg.tensor(vocabulary.encode(text), backend=model.head.weight.backend).data
    learn, validate = split(tokens, 0.95)
    batch, steps = settings["batch"], settings["steps"]
    windows = Windows(learn, batch, steps, "the part to learn from")
    validation = Windows(validate, batch, steps, "the part to validate on (5 %)")
    optimizer = optim.RMSprop(model.parameters(), lr=settings["lr"], alpha=0.95)
    training = Training(model, optimizer, windows, validation, max_norm=5.0, max_loss=1000.0, replay=replay)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if saved:
        if saved["digest"] != digest:
            raise TextError("the text is not the one that this run began with; train on it anew, without --resume")
        training.load_state_dict(saved["training"])
    size = sum(p.size for p in model.parameters())
    print(f"{len(text):,} characters ({len(vocabulary)} kinds), {size:,} parameters, {len(windows)} windows an epoch")
    left_out = f"the last {windows.dropped} characters to learn from and {validation.dropped} to validate on"
    print(f"left out, as they do not fill {batch} equal streams: {left_out}")
    run = {"program": "char_rnn", "settings": settings, "digest": digest, "characters": vocabulary.characters}
    return training, run


def train(settings: dict[str, Any], out: Path, prime: str, replay: str, saved: Any = None) -> None:
    """Train as the settings say, from the start or from what was saved, and write models and curves to a folder."""
    tqdm, *_ = (import_extra(name, "this program") for name in ("tqdm", "safetensors", "matplotlib"))  # now, not later
    training, run = prepare(settings, prime, replay, saved)
    windows = len(training.windows)
    if training.epoch >= settings["epochs"]:
        quick = " of a --quick run" if "limit" in settings else ""
        print(f"{training.epoch} of {settings['epochs']} epochs{quick} are done; --resume --epochs N goes on")
    out.mkdir(parents=True, exist_ok=True)
    with Interrupt() as interrupt:
        while training.epoch < settings["epochs"]:
            begun = time.perf_counter()
            title = f"epoch {training.epoch + 1} of {settings['epochs']}"
            # disable=None: no bar where the output is not a terminal
            with tqdm.tqdm(total=windows, initial=training.position, desc=title, leave=False, disable=None) as bar:
                for loss in training.windows_left():
                    bar.set_postfix_str(nats_and_bits(loss), refresh=False)
                    bar.update()
                    if interrupt.asked:
                        tg.save(out / "state.safetensors", {**run, "training": training.state_dict()})
                        place = f"{training.position} of {windows} windows of {title}"
                        raise KeyboardInterrupt(f"stopped after {place}, and saved; to go on, add --resume")
            mean = sum(training.losses) / len(training.losses)
            loss = training.end_epoch()
            if loss == training.best:
                tg.save(out / "best.safetensors", {**run, "model": training.model.state_dict(), "validation": loss})
            tg.save(out / "state.safetensors", {**run, "training": training.state_dict()})
            seconds = time.perf_counter() - begun
            print(f"{title}: train {mean:.3f}, validation {nats_and_bits(loss)}, {seconds:.1f} s", flush=True)
    plot_curves(training, out / "curves.png", f"Character LSTM, {settings['layers']} x {settings['hidden']}")
    print(f"best validation loss {nats_and_bits(training.best)}; models and curves are in {out}")


def read_run(path: Path) -> Any:
    """What an earlier run saved."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; train first")
    saved = tg.load(path)
    if not isinstance(saved, dict) or saved.get("program") != "char_rnn":
        raise tg.CheckpointError(f"{path} was not saved by this program; give the folder of one of its runs as --out")
    return saved


def sample(options: Options) -> None:
    """Write with the best model of a run."""
    saved = read_run(options.out / "best.safetensors")
    vocabulary = Vocabulary(saved["characters"])
    model = CharLSTM(len(vocabulary), saved["settings"]["hidden"], saved["settings"]["layers"])
    model.load_state_dict(saved["model"])
    prime = options.prime or ("The " if set("The ") <= set(vocabulary.characters) else vocabulary.characters[-1])
    print(prime + generate(model, vocabulary, prime, options.sample or 600, options.temperature, options.seed or 0))


def parse(arguments: list[str] | None) -> Options:
    """Parse the options; those of the recipe are None if they are not given."""
    parser = Parser(__doc__)
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to learn from (Python's documentation)")
    for name, kind, meaning in (
        ("epochs", at_least(1), "passes over the text"),
        ("hidden", at_least(1), "units of each layer"),
        ("layers", at_least(1), "LSTM cells on top of each other"),
        ("batch", at_least(1), "streams of text side by side"),
        ("steps", at_least(1), "characters that the gradient goes back"),
        ("lr", at_least(0, float), "learning rate"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=f"{meaning} ({DEFAULTS[name]})")
    parser.add_argument("--out", type=Path, default=Path("runs/char_rnn"), help="folder of the run (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--sample", type=at_least(1), metavar="N", help="do not train, write N characters")
    parser.add_argument("--temperature", type=at_least(0, float), default=0.7, help="0 dares nothing (%(default)s)")
    parser.add_argument("--prime", default="", help="how the sample begins")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--eager", dest="replay", action="store_const", const="", help="no replay of a recorded step")
    ways.add_argument(
        "--fast", dest="replay", action="store_const", const="fast", help="replay with last bits that may differ"
    )
    parser.set_defaults(replay="exact", seed=None)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, and sample; or only sample."""
    options = parse(arguments)
    with running("char_rnn.py", options.backend):
        if not options.sample:
            settings, saved = (QUICK if options.quick else DEFAULTS), None
            given = {name: value for name, value in vars(options).items() if name in DEFAULTS and value is not None}
            if options.resume:
                saved = read_run(options.out / "state.safetensors")
                settings = saved["settings"]
                for name, value in given.items():
                    if name != "epochs" and value != settings[name]:
                        raise ValueError(f"--{name} cannot change with --resume: this run has {settings[name]}")
            train({**settings, **given}, options.out, options.prime, options.replay, saved)
        sample(options)


if __name__ == "__main__":
    main()
