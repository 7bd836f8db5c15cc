"""The rules by which examples make their data, and the yardsticks that they are held to."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import entities
import exons
import numpy as np
import pytest
import rain
import speech
import temperature
import translation


def test_the_filter_is_the_sum_over_all_weathers() -> None:
    words = np.random.default_rng(0).integers(len(rain.WORDS), size=(5, 3))
    for row, word in enumerate(words.T):
        weights = {
            weather: np.prod([rain.SAY[w, x] for w, x in zip(weather, word, strict=True)])
            * np.prod([rain.NEXT[a, b] for a, b in pairwise(weather)])
            for weather in product(range(3), repeat=5)
        }
        rainy = sum(p for weather, p in weights.items() if weather[-1] == rain.RAIN)
        np.testing.assert_allclose(rain.bayes(words)[-1, row], rainy / sum(weights.values()), rtol=1e-12)


def test_the_weather_is_drawn_by_its_rule() -> None:
    p = np.array([0.2, 0.5, 0.3])
    found = np.bincount(rain.drawn(np.random.default_rng(0), np.tile(p, (20_000, 1))), minlength=3) / 20_000
    np.testing.assert_allclose(found, p, atol=0.02)


def test_names_are_marked_and_padding_is_not() -> None:
    words, names, lengths = entities.sentences(np.random.default_rng(0), 200)
    always = [entities.NUMBER[word] for word in (*entities.CHOICES["FIRST"], *entities.CHOICES["LAST"])]
    real = np.arange(len(words))[:, None] < lengths
    assert not names[~real].any()
    assert names[real & np.isin(words, always)].all()
    either = real & np.isin(words, [entities.NUMBER[word] for word in entities.CHOICES["BOTH"]])
    assert 0.3 < names[either].mean() < 0.8
    assert not (names & ~either & ~np.isin(words, always)).any()


@pytest.mark.parametrize(
    ("dna", "exon"),
    [
        ("ACAGTAACAGTT", "111000000011"),
        ("AGTACC", "100000"),  # an intron without an end
        ("CAGACAG", "1111111"),  # acceptors without a donor
        ("GTAGTACAGTA", "00000000011"),  # a donor in an intron; the one that the acceptor's G begins is none
    ],
)
def test_introns_go_from_donor_to_acceptor(dna: str, exon: str) -> None:
    assert "".join(str(int(base)) for base in exons.spliced(dna)) == exon


@pytest.mark.parametrize(
    ("number", "english", "french"),
    [
        (0, "zero", "zéro"),
        (19, "nineteen", "dix neuf"),
        (21, "twenty one", "vingt et un"),
        (71, "seventy one", "soixante et onze"),
        (80, "eighty", "quatre vingts"),
        (81, "eighty one", "quatre vingt un"),
        (91, "ninety one", "quatre vingt onze"),
        (200, "two hundred", "deux cents"),
        (1100, "one thousand one hundred", "mille cent"),
        (3497, "three thousand four hundred ninety seven", "trois mille quatre cent quatre vingt dix sept"),
    ],
)
def test_numbers_in_two_languages(number: int, english: str, french: str) -> None:
    assert " ".join(translation.english(number)) == english
    assert " ".join(translation.french(number)) == french


def test_no_two_numbers_have_the_same_words() -> None:
    for language in (translation.english, translation.french):
        assert len({tuple(language(n)) for n in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    ("a", "b", "count"), [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "", 2)]
)
def test_edits(a: str, b: str, count: int) -> None:
    assert speech.edits(a, b) == speech.edits(b, a) == count


def test_tones_are_where_the_spectrogram_shows_them() -> None:
    found = speech.spectrogram(speech.spoken(np.random.default_rng(0), "a"))
    hertz = np.arange(speech.BINS) * speech.RATE / speech.FRAME
    peaks = hertz[found.argmax(axis=1)]
    for tone in speech.LETTERS["a"]:
        assert abs(peaks - tone).min() < 40


def test_temperatures_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "series.txt"
    path.write_text("\n".join(map(str, range(200))), encoding="utf-8-sig")  # with the mark that Windows puts before it
    assert temperature.read(str(path))[-1] == 199
    for text, told in (("35 32 45", "at least 160 numbers"), ("35\nmild", "one number a line")):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"series.txt: .*{told}"):
            temperature.read(str(path))
