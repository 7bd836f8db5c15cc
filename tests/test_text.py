"""Corpora, vocabularies, and the windows of truncated BPTT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_rnn.text import TextError, Vocabulary, Windows, python_documentation, read_text, split


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"abc\0def", "is not a text file, for byte 3 is NUL"),
        ("caf\u00e9!".encode("latin-1"), "is not text in UTF-8 .* at byte 3"),
        ("text".encode("utf-16"), "is not a text file"),
    ],
)
def test_a_file_that_is_no_text_is_told_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(TextError, match=rf"corpus\.txt {words}") as raised:
        read_text(path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "nowhere.txt", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(FileNotFoundError, match=words):
            read_text(path)


def test_marks_and_line_ends_of_other_systems_are_read_as_ours(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n" + "\u00fc".encode())
    assert read_text(tmp_path / "a.txt") == "one\ntwo\nthree\n\u00fc"


def test_pythons_documentation_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    text = python_documentation()
    assert len(text) > 300_000
    assert "The form" in text
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(TextError, match="give a text file"):
        python_documentation()


@given(text=st.text(st.characters(exclude_categories=()), min_size=1))
def test_vocabulary_there_and_back(text: str) -> None:
    vocabulary = Vocabulary(text)
    numbers = vocabulary.encode(text)
    assert numbers.dtype == np.int64
    assert vocabulary.decode(numbers) == text
    for number in (-1, len(vocabulary)):
        with pytest.raises(TextError, match="the numbers of this vocabulary go from 0 to"):
            vocabulary.decode([number])
    assert vocabulary.characters == "".join(sorted(set(text)))
    assert Vocabulary(vocabulary.characters).characters == vocabulary.characters


def test_unknown_characters_are_named_once() -> None:
    with pytest.raises(TextError, match=r"vocabulary of 3 characters lacks '\\n', 'A', '\u00e9'$"):
        Vocabulary("abc").encode("a\u00e9b\nAA")
    assert len(Vocabulary("abc").encode("")) == 0
    with pytest.raises(TextError, match="empty"):
        Vocabulary("")


def test_split_loses_nothing() -> None:
    first, rest = split("x" * 1001)
    assert (len(first), len(rest)) == (950, 51)
    for fraction in (0, 1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split("abc", fraction)


@given(length=st.integers(2, 200), batch_size=st.integers(1, 9), steps=st.integers(1, 30))
def test_windows_joined_are_the_text(length: int, batch_size: int, steps: int) -> None:
    tokens = np.arange(length)
    if length <= batch_size:
        with pytest.raises(TextError, match=rf"has {length} characters, too few for {batch_size} parallel streams"):
            Windows(tokens, batch_size, steps)
        return
    windows = Windows(tokens, batch_size, steps)
    assert all(len(window.inputs) == steps for window in windows[:-1])
    inputs, targets = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    assert (targets == inputs + 1).all()
    assert 0 <= windows.dropped < batch_size
    read = inputs.T.ravel()  # stream after stream
    assert (read == tokens[: len(read)]).all()
    assert len(read) + 1 + windows.dropped == length


@pytest.mark.parametrize("tokens", [np.zeros((9, 2), int), [1, 2, 3], np.array(3)])
def test_tokens_are_one_after_the_other(tokens: Any) -> None:
    with pytest.raises(ValueError, match="must be an array with one axis"):
        Windows(tokens, 2, 2)


def test_windows_are_a_sequence() -> None:
    windows = Windows(np.arange(101), batch_size=4, steps=10)
    assert len(windows) == 3
    assert (windows[-1].inputs == list(windows)[2].inputs).all()
    assert windows[0].inputs.shape == windows[0].targets.shape == (10, 4)
    assert windows[2].inputs.shape == (5, 4)
    for k in (3, -4):
        with pytest.raises(IndexError, match=f"no window {k}: there are 3"):
            windows[k]
    with pytest.raises(ValueError, match="must be positive"):
        Windows(np.arange(101), batch_size=0, steps=10)
