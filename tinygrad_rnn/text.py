"""Text as numbers: a corpus, its vocabulary, and the windows in which truncated BPTT reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .backend import Array


class TextError(ValueError):
    """A text cannot be used; the message says why, and what would work."""


def read_text(path: str | os.PathLike[str]) -> str:
    r"""The content of a UTF-8 text file, with ``\n`` at the end of each line on every system.

    Raises FileNotFoundError if there is no such file, TextError if it is empty or not text.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        what = f"{path} is a folder" if os.path.isdir(path) else f"there is no file {path}"
        raise FileNotFoundError(f"{what}; give the path of a text file")
    with open(path, "rb") as file:
        content = file.read()
    if not content:
        raise TextError(f"{path} is empty; give a file with text in it")
    if (nul := content.find(b"\0")) >= 0:
        raise TextError(f"{path} is not a text file, for byte {nul} is NUL; give one in UTF-8")
    try:
        text = content.decode("utf-8-sig")  # without the byte order mark that some editors add
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); convert it, or give another file"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def python_documentation() -> str:
    """Python's own language documentation, about 425,000 characters of English that are always at hand.

    Ruled lines and tables are left out: a small model that begins to draw a line never stops.
    Raises TextError if this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise TextError("this Python comes without its documentation (pydoc_data); give a text file instead") from None
    lines = "\n".join(topics.values()).splitlines(keepends=True)
    return "".join(line for line in lines if not _RULED.fullmatch(line.strip()))


_RULED = re.compile(r"\|.*\||[-+=*^~|]{4,}[-+=*^~| ]*")


class Vocabulary:
    """The sorted characters of a text; a character's number is its index.

    Raises TextError for an empty text.

    >>> vocabulary = Vocabulary("hello")
    >>> vocabulary.characters, len(vocabulary)
    ('ehlo', 4)
    >>> vocabulary.encode("hole")
    array([1, 3, 2, 0])
    >>> vocabulary.decode([1, 0, 2, 3])
    'helo'
    """

    def __init__(self, text: str):
        if not text:
            raise TextError("a vocabulary needs at least one character, and the text is empty")
        self.characters = "".join(sorted(set(text)))
        self._codes = _code_points(self.characters)

    def __len__(self) -> int:
        return len(self.characters)

    def __repr__(self) -> str:
        return f"Vocabulary({self.characters!r})"

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's characters, int64; TextError names characters that the vocabulary lacks."""
        codes = _code_points(text)
        numbers = np.searchsorted(self._codes, codes).clip(max=len(self) - 1)
        if (unknown := self._codes[numbers] != codes).any():
            lacking = ", ".join(repr(chr(code)) for code in np.unique(codes[unknown]))
            raise TextError(f"the vocabulary of {len(self)} characters lacks {lacking}")
        return numbers

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of a sequence of numbers; TextError for one that the vocabulary lacks."""
        numbers = list(numbers)
        if any(not 0 <= number < len(self) for number in numbers):
            raise TextError(f"decode: the numbers of this vocabulary go from 0 to {len(self) - 1}")
        return "".join([self.characters[number] for number in numbers])


def split(sequence: Any, fraction: float = 0.95) -> tuple[Any, Any]:
    """The first part of a text or array, for training, and the rest, for validation.

    >>> split("abcdefghij", 0.8)
    ('abcdefgh', 'ij')
    >>> len(split(range(100), 0.29)[0])
    29
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split: the fraction must lie between 0 and 1, not at {fraction}")
    cut = int(round(len(sequence) * fraction, 6))  # 100 * 0.29 is 28.999999999999996
    return sequence[:cut], sequence[cut:]


class Window(NamedTuple):
    """Some time steps of all streams; each target is the next step's input."""

    inputs: Array  # (T, B)
    targets: Array  # (T, B)


class Windows(Sequence[Window]):
    """A text as B parallel streams, each a contiguous piece of it, in windows of T steps.

    Window k continues where window k-1 ended, so a recurrent state can be carried from one to the next, and the number
    of the next window suffices to save a position in the text. The last window is shorter if T does not divide the
    length of the streams. ``dropped`` counts the tokens left out at the end of the text, fewer than B, because they do
    not fill another step of all streams.

    tokens: (N,), integers, on any backend. name: what to call the text in messages.
    Raises TextError if there are not enough tokens to give every stream one step.

    >>> windows = Windows(np.arange(12), batch_size=2, steps=3)
    >>> [window.inputs.T.tolist() for window in windows]
    [[[0, 1, 2], [5, 6, 7]], [[3, 4], [8, 9]]]
    >>> windows[1].targets.T.tolist(), windows.dropped
    ([[4, 5], [9, 10]], 1)
    """

    def __init__(self, tokens: Array, batch_size: int, steps: int, name: str = "the text"):
        if getattr(tokens, "ndim", 0) != 1:
            raise ValueError(f"Windows: the tokens of {name} must be an array with one axis, (N,)")
        if batch_size < 1 or steps < 1:
            raise ValueError(f"Windows: batch_size {batch_size} and steps {steps} must be positive")
        self.length = (len(tokens) - 1) // batch_size  # of each stream; every input needs a token after it
        if self.length < 1:
            raise TextError(
                f"{name} has {len(tokens)} characters, too few for {batch_size} parallel streams, which need at least "
                f"{batch_size + 1}; use a longer text or a smaller batch"
            )
        used = batch_size * self.length
        self.batch_size, self.steps = batch_size, steps
        self.dropped = len(tokens) - 1 - used
        # Time first, and contiguous, so that a window is a slice and not a gather.
        self.inputs = tokens[:used].reshape(batch_size, -1).T.copy()  # (length, B)
        self.targets = tokens[1 : used + 1].reshape(batch_size, -1).T.copy()

    def __len__(self) -> int:
        return -(-self.length // self.steps)

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        if not -len(self) <= k < len(self):
            raise IndexError(f"there is no window {k}: there are {len(self)}")
        begin = k % len(self) * self.steps
        steps = slice(begin, begin + self.steps)
        return Window(self.inputs[steps], self.targets[steps])

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {self.steps} steps, {self.batch_size} streams of {self.length})"


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
