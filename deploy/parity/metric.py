"""Signal, noise and their ratio, accumulated probe by probe in the memory of one sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(slots=True)
class RunningMean:
    """Mean over samples of one shape, and the sum of squared deviations from it (Welford 1962).

    Attributes:
        mean: in the shape of a sample.
        squares: sum of squared deviations, over samples and elements.
    """

    count: int = 0
    mean: Array | float = 0.0
    squares: float = 0.0

    def add(self, sample: Array) -> None:
        """Add one sample."""
        self.count += 1
        before = sample - self.mean
        self.mean = self.mean + before / self.count
        self.squares += float(np.sum(before * (sample - self.mean)))


@dataclass(slots=True)
class Noise:
    """Differences of a run from the reference.

    Attributes:
        squares: sum of squared differences.
        worst: mean squared difference of the worst sample.
        peak: largest absolute difference.
    """

    squares: float = 0.0
    worst: float = 0.0
    worst_at: str = ""
    peak: float = 0.0

    def add(self, difference: Array, at: str) -> None:
        """Add the difference of one sample."""
        total = float(np.sum(difference * difference))
        self.squares += total
        self.peak = max(self.peak, float(np.max(np.abs(difference), initial=0.0)))
        mean = total / max(difference.size, 1)
        if mean > self.worst:
            self.worst, self.worst_at = mean, at


@dataclass(slots=True)
class Accumulator:
    """Statistics of one output over one group of probes.

    Attributes:
        centered: mean of the reference and deviations from it, by sample shape.
        baseline, candidate: noise of PyTorch's run in the artifact's precision, and of the artifact.
        faults: reasons why the candidate fails.
        unusable: reasons why the candidate cannot be judged.
        mismatched: number of integers that differ from the reference, by run.
    """

    elements: int = 0
    samples: int = 0
    centered: dict[tuple[int, ...], RunningMean] = field(default_factory=dict)
    baseline: Noise = field(default_factory=Noise)
    candidate: Noise = field(default_factory=Noise)
    faults: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    mismatched: dict[str, int] = field(default_factory=lambda: {"baseline": 0, "candidate": 0})

    def add(self, reference: Array, baseline: Array, candidate: Array, *, batched: bool, at: str) -> None:
        """Add the output for the probe ``at``; if ``batched``, its first axis counts samples."""
        if baseline.shape != reference.shape:
            self.unusable.append(
                f"PyTorch's own run has shape {list(baseline.shape)}, the float64 run {list(reference.shape)} ({at})"
            )
            return
        if candidate.shape != reference.shape:
            self.faults.append(f"shape {list(candidate.shape)} instead of {list(reference.shape)} ({at})")
            return
        if not np.issubdtype(reference.dtype, np.floating):
            self.elements += reference.size
            self.mismatched["baseline"] += int(np.count_nonzero(baseline != reference))
            self.mismatched["candidate"] += int(np.count_nonzero(candidate != reference))
            return
        if not np.isfinite(reference).all() or not np.isfinite(baseline).all():
            self.unusable.append(f"the model's own output is not finite ({at})")
            return
        if not np.isfinite(candidate).all():
            self.faults.append(f"{np.count_nonzero(~np.isfinite(candidate))} values are not finite ({at})")
            return
        rows = zip(reference, baseline, candidate, strict=True) if batched else [(reference, baseline, candidate)]
        for index, (expected, base, actual) in enumerate(rows):
            wide = np.asarray(expected, np.float64)
            sample = f"sample {index} of {at}" if batched else at
            self.samples += 1
            self.elements += wide.size
            self.centered.setdefault(wide.shape, RunningMean()).add(wide)
            self.baseline.add(np.asarray(base, np.float64) - wide, sample)
            self.candidate.add(np.asarray(actual, np.float64) - wide, sample)

    @property
    def signal(self) -> float:
        """Root mean square of the reference minus its mean over samples; 0 where nothing varies."""
        squares = sum(group.squares for group in self.centered.values() if group.count > 1)
        count = sum(group.count * np.size(group.mean) for group in self.centered.values() if group.count > 1)
        return math.sqrt(max(squares, 0.0) / count) if count else 0.0

    def ratio(self, noise: Noise, signal: float | None = None) -> float:
        """Return the noise-to-signal ratio over all samples; ``signal`` replaces that of this group."""
        overall = math.sqrt(noise.squares / self.elements) if self.elements else 0.0
        return _ratio(overall, self.signal if signal is None else signal)

    def worst_ratio(self, noise: Noise, signal: float | None = None) -> float:
        """Return the noise-to-signal ratio of the worst sample."""
        return _ratio(math.sqrt(noise.worst), self.signal if signal is None else signal)


def _ratio(noise: float, signal: float) -> float:
    if signal > 0.0:
        return noise / signal
    return 0.0 if noise == 0.0 else math.inf
