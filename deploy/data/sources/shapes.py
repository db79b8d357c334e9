"""1,200 generated pictures of circles, squares, triangles and crosses, with boxes and masks; available offline.

128 x 128 pixels, colored, with a background of a random gradient and noise. A picture shows up to seven shapes of any
angle, from 8 to 48 pixels wide; later ones cover earlier ones, of which at least half stays visible. About one picture
in six shows nothing. The pixels of a shape have its class, counted from 1, and those of the background the class 0.
Every fifth picture is held out.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import UsageError
from deploy.data.dataset import ArrayImages, Dataset
from deploy.data.outlines import run_lengths
from deploy.data.truth import ListedTruths, Truth

CLASSES = ("circle", "square", "triangle", "cross")
COUNT = 1200
SIDE = 128
SEED = 0
EVERY = 5
"""One of so many pictures is held out."""
MAX_SHAPES = 7
WIDTHS = (12.0, 48.0)
"""Smallest and largest width in pixels."""
VISIBLE = 0.5
"""Share of a shape that must remain uncovered."""
NOISE = 14
"""Largest noise of a channel, in 0..255."""
CONTRAST = 60
"""Smallest difference of a channel between a shape and what it covers, in 0..255."""


def load(split: str, root: Path | None) -> Dataset:
    """Load the 960 training pictures or the 240 held-out pictures; they are drawn anew, always the same."""
    if root is not None:
        raise UsageError("--data-root is not used with shapes, which are generated.")
    whole = _whole()
    held_out = np.arange(COUNT) % EVERY == EVERY - 1
    chosen = ~held_out if split == "train" else held_out
    return whole.take(np.flatnonzero(chosen), split="train" if split == "train" else "test")


@functools.cache
def _whole() -> Dataset:
    random = np.random.RandomState(SEED)  # same stream in every numpy version, unlike Generator
    images = np.empty((COUNT, SIDE, SIDE, 3), np.uint8)
    truths, digest = [], hashlib.sha256()
    for index in range(COUNT):
        images[index], truth = _picture(random)
        truths.append(truth)
        digest.update(images[index].tobytes() + truth.boxes.tobytes() + truth.labels.tobytes())
    return Dataset(
        name="shapes",
        split="all",
        classes=CLASSES,
        images=ArrayImages(images),
        labels=None,
        digest=digest.hexdigest(),
        truths=ListedTruths(tuple(truths)),
        pixel_classes=("background", *CLASSES),
    )


def _picture(random: np.random.RandomState) -> tuple[NDArray[np.uint8], Truth]:
    """Draw one picture and return what it shows."""
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    corner = random.uniform(60, 200, 3).astype(np.float32)
    slope = random.uniform(-40, 40, (2, 3)).astype(np.float32)
    image = corner + ramp[:, None, None] * slope[0] + ramp[None, :, None] * slope[1]
    owner = np.zeros((SIDE, SIDE), np.int64)  # number of the shape on top, 0 for the background
    labels: list[int] = []
    sizes: list[int] = []
    for _ in range(random.randint(MAX_SHAPES + 1) if random.rand() > 0.05 else 0):
        label, width, angle = random.randint(len(CLASSES)), random.uniform(*WIDTHS), random.uniform(0, 2 * np.pi)
        (row, column), color = random.uniform(width / 2, SIDE - width / 2, 2), random.uniform(0, 255, 3)
        window = tuple(slice(int(at - width / 2), int(at + width / 2) + 1) for at in (row, column))
        inside = _inside(CLASSES[label], row - window[0].start, column - window[1].start, width / 2, angle)
        inside = inside[: SIDE - window[0].start, : SIDE - window[1].start]
        hidden = np.bincount(owner[window][inside], minlength=len(labels) + 1)[1:]
        drawn = np.bincount(owner.reshape(-1), minlength=len(labels) + 1)[1:] - hidden
        if (drawn < VISIBLE * np.asarray(sizes, np.int64)).any():
            continue
        if np.abs(image[window][inside].mean(axis=0) - color).max() < CONTRAST:
            continue
        labels.append(label)
        sizes.append(int(inside.sum()))
        owner[window][inside] = len(labels)
        image[window][inside] = color
    noise = random.randint(-NOISE, NOISE + 1, image.shape, dtype=np.int16)
    masks = owner == np.arange(1, len(labels) + 1)[:, None, None]
    truth = Truth(
        size=(SIDE, SIDE),
        boxes=np.asarray([_box(mask) for mask in masks], np.float32).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
        crowd=np.zeros(len(labels), bool),
        masks=tuple(map(run_lengths, masks)),
        pixels=np.asarray([0, *(label + 1 for label in labels)], np.uint8)[owner],
    )
    return np.clip(image + noise, 0, 255).astype(np.uint8), truth


def _inside(shape: str, row: float, column: float, radius: float, angle: float) -> NDArray[np.bool_]:
    """Return the pixels of a shape, turned by an angle in radians; all of it is within ``radius`` of the center."""
    down = np.arange(int(row + radius) + 1)[:, None] + 0.5 - row
    right = np.arange(int(column + radius) + 1)[None, :] + 0.5 - column
    across = np.cos(angle) * right + np.sin(angle) * down
    along = -np.sin(angle) * right + np.cos(angle) * down
    longest = np.maximum(np.abs(across), np.abs(along))
    if shape == "circle":
        inside = across**2 + along**2 <= (0.85 * radius) ** 2
    elif shape == "square":
        inside = longest <= radius * np.sqrt(0.5)
    elif shape == "triangle":  # equal sides: a third of a turn between the three normals
        turns = np.arange(3)[:, None, None] * 2 * np.pi / 3
        inside = (np.cos(turns) * across + np.sin(turns) * along <= radius / 2).all(axis=0)
    else:
        inside = (np.minimum(np.abs(across), np.abs(along)) <= 0.28 * radius) & (longest <= 0.9 * radius)
    return np.asarray(inside, bool)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
