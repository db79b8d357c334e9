"""Successive elimination: find the fastest of many candidates without timing all of them to the end.

In every round, each candidate that is left is timed in a process of its own, beside a reference that all candidates of
the round share. At few looks, fixed in advance, a candidate leaves if it is shown to be slower than the leader: the
interval of the ratio of their times lies above 1. As in `deploy.bench.sequential`, the intervals are wide enough for
all looks together, and here for all candidates as well (Bonferroni's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from deploy.bench.sequential import verdict_of
from deploy.bench.statistics import Interval, geometric

LOOKS = (3, 4, 5, 8, 12, 18)
"""Numbers of rounds at which candidates may leave."""

KEEP_ROUNDS = 5
"""Rounds that a candidate stays which others are compared with, even if it is slower."""

ERROR = 0.05
"""Where the logarithms of the ratios are normal, all intervals against one candidate contain the true ratio with a
chance of at least 1 − ERROR, and the fastest candidate leaves wrongly with a chance of at most ERROR / 2."""


class Elimination:
    """What is known of the candidates so far; candidates are names, in order of preference among equals.

    Attributes:
        left: candidates that are still timed, in order of preference.
        dropped: the round after which a candidate left.
        rounds: number of rounds so far.
    """

    def __init__(
        self, names: Sequence[str], *, margin: float, keep: Iterable[str] = (), keep_rounds: int = KEEP_ROUNDS
    ) -> None:
        """Start with all candidates.

        Args:
            names: the candidates.
            margin: share below which a difference counts as none.
            keep: candidates that stay for ``keep_rounds`` rounds even if they are slower, for a narrower interval.
            keep_rounds: number of rounds that these stay.
        """
        self.left = list(names)
        self.dropped: dict[str, int] = {}
        self.rounds = 0
        self._order = list(names)
        self._margin, self._keep, self._keep_rounds = margin, set(keep), keep_rounds
        self._level = 1.0 - ERROR / (len(LOOKS) * max(len(names) - 1, 1))
        self._logs: dict[str, dict[int, float]] = {name: {} for name in names}

    def add(self, ratios: Mapping[str, float]) -> None:
        """Add a round: the time of every candidate over that of the reference of the round."""
        for name, ratio in ratios.items():
            self._logs[name][self.rounds] = math.log(ratio)
        self.rounds += 1

    def fail(self, name: str) -> None:
        """Take out a candidate that cannot be timed."""
        self.left.remove(name)

    def leader(self) -> str:
        """Return the candidate with the shortest time among those left."""
        shared = self._shared(self.left)
        return min(self.left, key=lambda name: math.fsum(self._logs[name][index] for index in shared))

    def ratio(self, name: str, base: str) -> Interval:
        """Return the time of a candidate over that of another one; the interval is (0, infinity) before two rounds."""
        shared = self._shared((name, base))
        if not shared:
            return Interval(value=math.nan, low=0.0, high=math.inf)
        return geometric([math.exp(self._logs[name][index] - self._logs[base][index]) for index in shared], self._level)

    def look(self) -> list[str]:
        """Drop the candidates that are shown to be slower than the leader, if this round is a look; return them."""
        if self.rounds not in LOOKS:
            return []
        leader = self.leader()
        slower = [
            name
            for name in self.left
            if name != leader
            and (name not in self._keep or self.rounds >= self._keep_rounds)
            and self.ratio(name, leader).low > 1.0
        ]
        for name in slower:
            self.left.remove(name)
            self.dropped[name] = self.rounds
        return slower

    @property
    def over(self) -> bool:
        """Whether more rounds would change nothing, or there are no more looks."""
        return not self.left or self.rounds >= LOOKS[-1] or self.decided()

    def decided(self) -> bool:
        """Return whether every candidate left is shown to be as fast as the leader, within the margin."""
        least = self._keep_rounds if self._keep else LOOKS[0]
        if self.rounds < least:
            return False
        leader = self.leader()
        return all(self.equal(name, leader) for name in self.left if name != leader)

    def equal(self, name: str, base: str) -> bool:
        """Return whether two candidates are shown to differ by no more than the margin."""
        return verdict_of(self.ratio(name, base), self._margin) == "no difference"

    def winner(self) -> str:
        """Return the first in order of preference of those shown to be as fast as the leader, and the leader itself."""
        leader = self.leader()
        return next(name for name in self._order if name in self.left and (name == leader or self.equal(name, leader)))

    def _shared(self, names: Iterable[str]) -> list[int]:
        """Return the rounds in which all of these were timed."""
        return sorted(set.intersection(*(set(self._logs[name]) for name in names)))
