"""Music, one to many: a starting note grows into a melody.

    python examples/music.py                # learn the tunes, grow each from its first note, write them as music.mid

Each output of an LSTM is its next input. It learns seven old songs, all in the public domain, each from another
starting note, and is then given that note and nothing else. The baseline knows only the previous note and
what most often follows it (a Markov chain): it loses its way at the first note that occurs twice. With a temperature,
the network does not recite but varies: the last track of the file is such a melody.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

import numpy as np
from common import Bar, Options, Result, checked, columns, out_file, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("notes right, grown from the first", full=0.99, quick=0.9, baseline="a Markov chain")
Note = tuple[int, float]  # a pitch, 60 for middle C, and how many beats it lasts
END: Note = (0, 0.0)
TUNES = {  # C is middle C, c is an octave above; ^ sharp; 2 is two beats, / half a beat, 3/ one and a half
    "Twinkle, twinkle": """C C G G A A G2 F F E E D D C2 G G F F E E D2 G G F F E E D2 C C G G A A G2
        F F E E D D C2""",
    "Ode to Joy": "E E F G G F E D C C D E E3/ D/ D2 E E F G G F E D C C D E D3/ C/ C2",
    "Frère Jacques": "G A B G G A B G B c d2 B c d2 d/ e/ d/ c/ B G d/ e/ d/ c/ B G G D G2 G D G2",
    "Mary had a little lamb": "A G F G A A A2 G G G2 A c c2 A G F G A A A A G G A G F4",
    "London Bridge": "d3/ e/ d c B c d2 A B c2 B c d2 d3/ e/ d c B c d2 A2 d2 B G3",
    "Au clair de la lune": """F F F G A2 G2 F A G G F4 F F F G A2 G2 F A G G F4 G G G G D2 D2 G F E D C4
        F F F G A2 G2 F A G G F4""",
    "Row, row, row your boat": """D3/ D3/ D E/ ^F3/ ^F E/ ^F G/ A3 d/ d/ d/ A/ A/ A/ ^F/ ^F/ ^F/ D/ D/ D/
        A G/ ^F E/ D3""",
}


def read(tune: str) -> list[Note]:
    """The notes of a tune, and the end."""
    found = re.findall(r"(\^?)([A-Ga-g])(\d*)(/?)", tune)
    pitches = dict(zip("CDEFGABcdefgab", (60, 62, 64, 65, 67, 69, 71, 72, 74, 76, 77, 79, 81, 83), strict=True))
    return [(pitches[name] + len(sharp), int(n or 1) / (2 if half else 1)) for sharp, name, n, half in found] + [END]


class Composer(nn.Module):
    """Notes (B,) and a state, to the logits of the notes that come next and the next state."""

    def __init__(self, notes: int) -> None:
        self.notes = nn.Embedding(notes, 24)
        self.cell = nn.LSTMCell(24, 64)
        self.head = nn.Linear(64, notes)

    def forward(self, notes: Tensor, state: nn.LSTMState) -> tuple[Tensor, nn.LSTMState]:
        output, state = self.cell(self.notes(notes), state)
        return self.head(output), state


def markov(songs: np.ndarray, notes: int) -> np.ndarray:
    """What the Markov chain writes from the first notes: always the note that most often follows the previous one."""
    follows = np.zeros((notes, notes), int)
    np.add.at(follows, (songs[:-1], songs[1:]), 1)
    follows[0, 1:] = 0  # what comes after the end is the end
    written = [songs[0]]
    for _ in songs[1:]:
        written.append(follows[written[-1]].argmax(axis=-1))
    return np.array(written[1:])


def run(args: Options, seed: int) -> Result:
    """Learn the tunes, and grow each from its first note."""
    tunes = [read(tune) for tune in TUNES.values()]
    notes = [END, *sorted({note for tune in tunes for note in tune} - {END})]
    songs = columns([notes.index(note) for note in tune] for tune in tunes)
    real, model = put(songs[:-1] > 0), Composer(len(notes))  # the end counts, what comes after it does not
    nothing = nn.LSTMState(tg.zeros(len(tunes), 64), tg.zeros(len(tunes), 64))

    def loss(_: int) -> Tensor:
        logits = nn.teacher_forced(model, nothing, put(songs[0]), put(songs[1:])).outputs
        return nn.cross_entropy(logits, put(songs[1:]), mask=real)

    train(model, loss, args.steps)
    grown = nn.greedy(model, nothing, songs[0], len(songs) - 1).tokens

    def right(written: np.ndarray) -> float:
        """The share of notes, without the ends, that are those of the tunes."""
        return float((written == songs[1:])[songs[1:] > 0].mean())

    if seed == args.seed:
        rng = np.random.default_rng(seed)
        varied = nn.sample(model, nothing, songs[0], len(songs) - 1, temperature=1.5, end=0, generator=rng).tokens
        melodies = {name: [notes[k] for k in (songs[0, c], *grown[:, c]) if k] for c, name in enumerate(TUNES)}
        melodies["Twinkle, varied"] = [notes[k] for k in (songs[0, 0], *varied[:, 0]) if k]
        out_file(args, "music.mid").write_bytes(midi(melodies.values()))
        draw(args, melodies)
    return Result(right(grown), right(markov(songs, len(notes))))


def midi(melodies: Iterable[list[Note]]) -> bytes:
    """Melodies one after the other as a standard MIDI file of one track, at 120 beats a minute."""
    events, pause = b"", 0
    for melody in melodies:
        for pitch, beats in melody:
            events += delta(pause) + bytes([0x90, pitch, 80]) + delta(round(beats * 90)) + bytes([0x80, pitch, 0])
            pause = round(beats * 6)
        pause += 4 * 96
    events += delta(0) + b"\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(events)) + events


def delta(ticks: int) -> bytes:
    """A time as MIDI writes it: seven bits a byte, with the eighth set in all but the last."""
    return (bytes([ticks >> 7 | 0x80]) if ticks > 127 else b"") + bytes([ticks & 0x7F])


def draw(args: Options, melodies: dict[str, list[Note]]) -> None:
    """Melodies as a piano roll: time to the right, pitch up; the given note is orange."""
    with picture(args, "Each melody grew from its orange note", rows=4, columns=2, size=(9, 6)) as axes:
        for panel, (name, melody) in zip(axes.ravel(), melodies.items(), strict=True):
            pitches, beats = np.array(melody).T
            begins = np.cumsum(beats) - beats
            panel.barh(pitches, beats * 0.9, 0.9, begins, color=["#d95f02"] + ["#1f77b4"] * (len(melody) - 1))
            panel.set_title(name, fontsize="small")
            panel.set(xticks=[], yticks=range(60, 78, 12), yticklabels=["C4", "C5"], ylim=(59, 78))


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(300, 130, "training steps")))
