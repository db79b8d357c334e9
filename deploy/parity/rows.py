"""Outputs of a model for many calls from one run of every distinct sample, where samples are independent."""

from __future__ import annotations

import numpy as np

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.parity.memory import RunMemory
from deploy.parity.probes import Probe, SamplePool

CHUNK = 4
"""Maximum number of samples that run at a time."""

CHUNK_SHARE = 0.5
"""Share of the memory limit that a chunk may take."""

EQUAL = 1e-9
"""Relative difference of two float64 runs of one sample that is rounding; samples that influence each other differ by
more."""


ROUNDED = 5e-2
"""The same for PyTorch's own runs, which round more."""

SUSPICIOUS = 4.0
"""How many times the largest rounding error of PyTorch's own run a call may have before its reference is run again."""


class SharedRows:
    """Looks up the outputs of a call among those of its samples.

    The middle sample of the first chunk is also run alone. The float64 outputs must be equal, or every call is run.

    Attributes:
        independent: whether the model treats the samples of a pool independently, by identity of the pool.
        memory: that of the reference's runs.
    """

    def __init__(self, reference: Runner, baseline: Runner) -> None:
        self.reference, self.baseline = reference, baseline
        self.independent: dict[int, bool] = {}
        self.memory = RunMemory()
        self._rows: dict[tuple[int, int], tuple[Fetches, Fetches]] = {}

    def fits(self, probe: Probe) -> bool:
        """Return whether a call fits in the memory limit.

        In float64, independent samples run in chunks, so that only the candidate runs the call, in half the memory.
        """
        chunked = probe.pool is not None and self.independent.get(id(probe.pool))
        return self.memory.allows(probe.values, 0.5 if chunked else 1.0)

    def shares(self, pool: SamplePool) -> bool:
        """Return whether the samples of a pool are independent, by running the first of them."""
        if id(pool) not in self.independent:
            try:
                self.independent[id(pool)] = self._verify(pool)
            except BackendError:  # the model refuses a batch of 1, for example
                self.independent[id(pool)] = False
        return self.independent[id(pool)]

    def recheck(self, probe: Probe, expected: Fetches, own: Fetches, outputs: Fetches) -> tuple[Fetches, Fetches]:
        """Return the outputs to compare a candidate's with, where it differs from those that were looked up.

        A call that differs is run itself, so that a small influence of samples on each other is not held against the
        candidate.
        """
        if probe.pool is None or not self.independent[id(probe.pool)] or not _differs(expected, own, outputs):
            return expected, own
        if len(probe.members) == 1 and probe.members[0] == min(1, probe.pool.count - 1):
            return expected, own  # it was run alone
        if not self.memory.allows(probe.values):
            return expected, own
        direct = self.direct(probe)
        if not all(close(value, direct[0][name]) for name, value in expected.items()):
            self.independent[id(probe.pool)] = False
        return direct

    def run(self, probe: Probe) -> tuple[Fetches, Fetches]:
        """Return the float64 outputs and PyTorch's own for a probe."""
        if probe.pool is not None and self.shares(probe.pool):
            return self._gather(probe.pool, probe.members)
        return self.direct(probe)

    def direct(self, probe: Probe) -> tuple[Fetches, Fetches]:
        """Run the call itself."""
        return self._refer(probe.feeds), self.baseline.run(probe.feeds)

    def _refer(self, feeds: Feeds) -> Fetches:
        with self.memory.measured(_values(feeds)):
            return self.reference.run(feeds)

    def _verify(self, pool: SamplePool) -> bool:
        middle = min(1, pool.count - 1)
        alone = self._refer(pool.chunk(middle, 1))
        size = min(3 if self._chunk_size(pool) >= 3 else 2, pool.count)
        together = self._refer(pool.chunk(0, size))
        own_alone, own = self.baseline.run(pool.chunk(middle, 1)), self.baseline.run(pool.chunk(0, size))
        if not _equal_row(alone, together, middle, size, EQUAL) or not _equal_row(
            own_alone, own, middle, size, ROUNDED
        ):
            return False
        self._keep(pool, 0, together, own)
        return True

    def _gather(self, pool: SamplePool, members: tuple[int, ...]) -> tuple[Fetches, Fetches]:
        step = self._chunk_size(pool)
        while any((id(pool), member) not in self._rows for member in members):
            start = next(index for index in range(pool.count) if (id(pool), index) not in self._rows)
            chunk = pool.chunk(start, step)
            self._keep(pool, start, self._refer(chunk), self.baseline.run(chunk))
        rows = [self._rows[id(pool), member] for member in members]
        expected, own = ({name: np.stack([row[run][name] for row in rows]) for name in rows[0][run]} for run in (0, 1))
        return expected, own

    def _keep(self, pool: SamplePool, start: int, expected: Fetches, own: Fetches) -> None:
        for offset in range(len(next(iter(expected.values())))):
            rows = tuple({name: value[offset] for name, value in outputs.items()} for outputs in (expected, own))
            self._rows[id(pool), start + offset] = rows[0], rows[1]

    def _chunk_size(self, pool: SamplePool) -> int:
        need = self.memory.needed(_values(pool.chunk(0, 1)))
        return CHUNK if not need else int(max(1, min(CHUNK, CHUNK_SHARE * self.memory.limit // need)))


def _values(feeds: Feeds) -> int:
    return sum(value.size for value in feeds.values())


def _differs(expected: Fetches, own: Fetches, outputs: Fetches) -> bool:
    """Whether outputs differ from the reference by much more than PyTorch's own do."""
    given = list(outputs.values())
    for place, (name, value) in enumerate(expected.items()):
        other = outputs.get(name, given[place] if place < len(given) else None)
        if other is None or other.shape != value.shape or own[name].shape != value.shape:
            return True
        if not np.issubdtype(value.dtype, np.floating):
            if not np.array_equal(other, value):
                return True
            continue
        wide = value.astype(np.float64)
        noise, rounding = (float(np.max(np.abs(item - wide), initial=0.0)) for item in (other, own[name]))
        if not noise <= SUSPICIOUS * max(rounding, 2.0**-24 * float(np.max(np.abs(wide), initial=0.0))):
            return True
    return False


def _equal_row(alone: Fetches, together: Fetches, row: int, count: int, tolerance: float) -> bool:
    for name, value in together.items():
        other = alone.get(name)
        if other is None or value.shape[:1] != (count,) or other.shape != (1, *value.shape[1:]):
            return False
        if np.issubdtype(value.dtype, np.floating) and not close(other[0], value[row], tolerance):
            return False
        if tolerance == EQUAL and not close(other[0], value[row]):
            return False
    return set(alone) == set(together)


def close(one: np.ndarray, other: np.ndarray, tolerance: float = EQUAL) -> bool:
    """Return whether two results differ by rounding only, in float64 by default; integers must be equal."""
    if one.shape != other.shape:
        return False
    if not np.issubdtype(one.dtype, np.floating):
        return bool(np.array_equal(one, other))
    finite = other[np.isfinite(other)]
    scale = float(np.max(np.abs(finite), initial=0.0))
    return bool(np.allclose(one, other, rtol=0, atol=tolerance * scale, equal_nan=True))
