"""Which way does the ball fly? Many to one: a CNN looks at each frame of a video, and a GRU remembers what it saw.

    python examples/ball.py

A ball on a screen of 8 x 8 flies left, right, up or down, and one frame does not tell which: whatever looks at a
single frame, the same CNN included, guesses. All of the information is between the frames.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, share_right, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("directions told right", full=0.97, quick=0.85, baseline="the same network on one frame")
SIDE, FRAMES = 8, 5
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Watcher(nn.Module):
    """Videos (T, B, H, W) to the logits of the directions, after the last frame."""

    def __init__(self) -> None:
        self.eye = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), tg.relu)
        self.memory = nn.GRU(8 * (SIDE // 2) ** 2, 32)
        self.head = nn.Linear(32, len(DIRECTIONS))

    def forward(self, video: Tensor) -> Tensor:
        frames, batch = video.shape[:2]
        seen = self.eye(video.reshape(frames * batch, 1, SIDE, SIDE))  # the same eye for every frame, in one product
        return self.head(nn.last(self.memory(seen.reshape(frames, batch, -1)).outputs))


def videos(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos (T, B, H, W) of a ball, with noise, and its direction (B,).

    What leaves at one side comes in at the other, so that all places are equally likely in every frame, whatever the
    direction: a frame says nothing about it.
    """
    direction = rng.integers(0, len(DIRECTIONS), count)
    velocity = np.array(list(DIRECTIONS.values()))[direction] * rng.uniform(0.5, 1.2, (count, 1))
    start = rng.uniform(0, SIDE, (count, 2))
    place = (start + velocity * np.arange(FRAMES)[:, None, None]) % SIDE
    away = abs(place[:, :, :, None] - np.arange(SIDE))
    away = np.minimum(away, SIDE - away)  # (T, B, 2, SIDE), around the edge where that is nearer
    bright = np.exp(-(away**2) / 1.5)
    video = bright[:, :, 1, :, None] * bright[:, :, 0, None, :]
    return video + rng.normal(0, 0.1, video.shape), direction


def learn(args: Options, seed: int, frames: slice) -> tuple[Watcher, float]:
    """Train on these frames of each video; returns the network, and how often it is right about new videos."""
    rng, model = np.random.default_rng(seed), Watcher()

    def loss(_: int) -> Tensor:
        video, direction = videos(rng, 64)
        return nn.cross_entropy(model(put(video[frames])), put(direction))

    train(model, loss, args.steps, lr=5e-3)
    video, direction = videos(rng, 500)
    with tg.no_grad():
        return model, share_right(model(put(video[frames])), direction)


def run(args: Options, seed: int) -> Result:
    """Learn from whole videos, and from their last frame."""
    model, right = learn(args, seed, slice(None))
    _, guessed = learn(args, seed, slice(FRAMES - 1, None))
    if seed == args.seed:
        draw(args, model, np.random.default_rng(seed + 1))
    return Result(right, guessed)


def draw(args: Options, model: Watcher, rng: np.random.Generator) -> None:
    """The frames of three videos, one below the other, and what the network says after each frame."""
    video, direction = videos(rng, 3)
    names = list(DIRECTIONS)
    with picture(args, "What the network says after each frame", 3, FRAMES, size=(7, 4)) as axes, tg.no_grad():
        for row, truth in enumerate(direction):
            for t in range(FRAMES):
                share = tg.softmax(model(put(video[: t + 1, row : row + 1]))).numpy()[0]
                panel = axes[row, t]
                panel.imshow(video[t, row], cmap="gray", vmin=0, vmax=1)
                panel.set(xticks=[], yticks=[])
                panel.set_title(f"{names[share.argmax()]} {share.max():.0%}", fontsize=8)
            axes[row, 0].set_ylabel(names[truth], fontsize="medium")


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(800, 320, "training steps")))
