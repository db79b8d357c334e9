"""Scales that migrate from the channels of a tensor to the weights that read it; the float function stays the same.

Activations have one step for all channels of a tensor, weights one for each output channel. Dividing each channel of a
tensor by a scale, and multiplying the weights that read the channel by the same scale, changes neither the function nor
the size of the graph, and moves the difficulty of rounding from one to the other. The scales are powers of two, so that
every float result is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.session import TensorSession
from deploy.core.runner import Feeds

Array = NDArray[Any]

POWERS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the difference between channels that are moved to the weights; that with the least noise is taken."""

LARGEST_RATIO = 32.0
"""Largest ratio of two scales of a tensor: a channel that is small on the samples may not be on other inputs."""

MIN_GAIN = 1.1
"""Smallest ratio of the expected noise before and after for which a graph is changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelSize:
    """The largest magnitude and the mean square of each channel."""

    largest: Array
    square: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingWeight:
    """Weights that read the channels: (outputs, channels, others), or (channels, 1, others) for ``depthwise``."""

    weight: Array
    depthwise: bool = False

    def scaled(self, scales: Array) -> Array:
        """Return the weight with the channels multiplied by scales."""
        return self.weight * (scales[:, None, None] if self.depthwise else scales[None, :, None])


def measure(model: onnx.ModelProto, axes: Mapping[str, int], batches: Iterable[Feeds]) -> dict[str, ChannelSize]:
    """Run a graph and return the size of the channels, along the given axes, of some of its tensors."""
    session = TensorSession(model, list(axes))
    sizes: dict[str, ChannelSize] = {}
    samples = 0
    for batch in batches:
        count = len(next(iter(batch.values())))
        samples += count
        for name, value in session.run(batch).items():
            flat = np.moveaxis(value, axes[name], -1)
            flat = flat.reshape(-1, flat.shape[-1])
            largest = np.abs(flat).max(axis=0).astype(np.float64)
            square = np.square(flat, dtype=np.float64).mean(axis=0)
            if name in sizes:
                largest = np.maximum(largest, sizes[name].largest)
                square = sizes[name].square + (square - sizes[name].square) * (count / samples)
            sizes[name] = ChannelSize(largest=largest, square=square)
    return sizes


def choose_scales(size: ChannelSize, readers: Sequence[ReadingWeight]) -> Array | None:
    """Return the powers of two by which to divide the channels; None if the expected noise is not much smaller.

    The scales are ``largest ** power / weight ** (1 - power)``, with the largest magnitudes of each channel and of the
    weights that read it (Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient Post-Training
    Quantization for Large Language Models", 2023, equation 4).
    """
    ones = np.ones(len(size.largest))
    used = size.largest > 0
    heaviest = np.max([_by_channel(reader) for reader in readers], axis=0)
    used &= heaviest > 0
    if not used.any():
        return None
    before = _noise(size, readers, ones)
    best, least = None, before / MIN_GAIN
    for power in POWERS:
        scales = ones.copy()
        scales[used] = size.largest[used] ** power / heaviest[used] ** (1.0 - power)
        scales[used] = np.clip(scales[used] / scales[used].max(), 1.0 / LARGEST_RATIO, 1.0)
        scales = np.exp2(np.rint(np.log2(scales)))
        noise = _noise(size, readers, scales)
        if noise < least:
            best, least = scales, noise
    return best


def _by_channel(reader: ReadingWeight) -> Array:
    """Return the largest magnitude of the weights that read each channel."""
    largest: Array = np.abs(reader.weight).max(axis=(1, 2) if reader.depthwise else (0, 2))
    return largest


def _noise(size: ChannelSize, readers: Sequence[ReadingWeight], scales: Array) -> float:
    """Return the expected power of the noise at the outputs: errors are even within a step of 1/127 of the range."""
    activation = float((size.largest / scales).max()) / 127.0
    square = size.square / scales**2
    total = 0.0
    for reader in readers:
        weight = reader.scaled(scales)
        steps = np.abs(weight).max(axis=(1, 2)) / 127.0
        signal = square if reader.depthwise else np.full(len(weight), square.sum())
        total += activation**2 * float(np.square(weight).sum()) + weight.shape[2] * float((steps**2 * signal).sum())
    return total / 12.0
