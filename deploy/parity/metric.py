"""Signal, noise and their ratio, accumulated probe by probe in the memory of one sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(slots=True)
class Centerd:
    """Running mean over samples of one shape, and the sum of squares about it (Welford 1962)."""

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
    """Squared differences from the reference: in all, and of the worst sample."""

    squares: float = 0.0
    worst: float = 0.0
    worst_at: str = ""
    peak: float = 0.0

    def add(self, difference: Array, at: str) -> None:
        """Add one sample's difference."""
        total = float(np.sum(difference * difference))
        self.squares += total
        self.peak = max(self.peak, float(np.max(np.abs(difference), initial=0.0)))
        mean = total / max(difference.size, 1)
        if mean > self.worst:
            self.worst, self.worst_at = mean, at


@dataclass(slots=True)
class Accumulator:
    """One output over one group of probes.

    ``signal`` is the root mean square, over probes, of the float64 output less its mean over samples: how much
    the output answers to the input. The noise of a run is the root mean square of its difference from float64.
    """

    elements: int = 0
    samples: int = 0
    centered: dict[tuple[int, ...], Centerd] = field(default_factory=dict)
    baseline: Noise = field(default_factory=Noise)
    candidate: Noise = field(default_factory=Noise)
    faults: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    mismatched: dict[str, int] = field(default_factory=lambda: {"baseline": 0, "candidate": 0})

    def add(self, reference: Array, baseline: Array, candidate: Array, *, batched: bool, at: str) -> None:
        """Add one probe's output.

        Args:
            reference: the float64 run's output.
            baseline: PyTorch's own run in the artifact's precision.
            candidate: the artifact's.
            batched: the first axis counts samples.
            at: what was fed, for messages.
        """
        if baseline.shape != reference.shape:
            self.unusable.append(
                f"PyTorch's own run gives {list(baseline.shape)} where float64 gives {list(reference.shape)} ({at})"
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
        finite = np.isfinite(reference)
        if not finite.all() or not np.isfinite(baseline).all():
            self.unusable.append(f"the model's own output is not finite ({at})")
            return
        if not np.isfinite(candidate).all():
            self.faults.append(f"{np.count_nonzero(~np.isfinite(candidate))} values are not finite ({at})")
            return
        rows = zip(reference, baseline, candidate, strict=True) if batched else [(reference, baseline, candidate)]
        for index, (expected, base, found) in enumerate(rows):
            wide = np.asarray(expected, np.float64)
            where = f"sample {index} of {at}" if batched else at
            self.samples += 1
            self.elements += wide.size
            self.centered.setdefault(wide.shape, Centerd()).add(wide)
            self.baseline.add(np.asarray(base, np.float64) - wide, where)
            self.candidate.add(np.asarray(found, np.float64) - wide, where)

    @property
    def signal(self) -> float:
        """Root mean square of the reference about its mean over samples; 0 where nothing varied."""
        squares = sum(group.squares for group in self.centered.values() if group.count > 1)
        count = sum(group.count * np.size(group.mean) for group in self.centered.values() if group.count > 1)
        return math.sqrt(max(squares, 0.0) / count) if count else 0.0

    def ratio(self, noise: Noise, signal: float | None = None) -> float:
        """Noise over signal (this group's own where None), overall."""
        overall = math.sqrt(noise.squares / self.elements) if self.elements else 0.0
        return _ratio(overall, self.signal if signal is None else signal)

    def worst_ratio(self, noise: Noise, signal: float | None = None) -> float:
        """Noise over signal (this group's own where None), of the worst sample."""
        return _ratio(math.sqrt(noise.worst), self.signal if signal is None else signal)


def _ratio(noise: float, signal: float) -> float:
    if signal > 0.0:
        return noise / signal
    return 0.0 if noise == 0.0 else math.inf
