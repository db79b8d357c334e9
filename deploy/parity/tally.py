"""Compare the outputs of a candidate probe by probe, and conclude with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.core.runner import Fetches
from deploy.parity.matching import as_rows, match_rows
from deploy.parity.metric import Accumulator
from deploy.parity.probes import Probe
from deploy.parity.verdict import ENVELOPE, OutputParity, Verdict, combine, judge

MANY_ROWS = 100
"""From this number of decisions on, one more is allowed to differ: that PyTorch's own run shows none does not mean that
none is expected."""

MIN_MATCHED = 3
"""Minimum number of matched rows for the verdict ``pass``, where some rows are unmatched."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Results of the probes so far.

    A model that makes discrete decisions may decide differently because of rounding alone. Such decisions (unmatched
    rows, see `deploy.parity.matching`) are limited like noise: to ENVELOPE times as many as in PyTorch's own run.

    Attributes:
        accumulated: statistics by output and group of probes.
        errors: the candidate's errors, by the sizes of the probe.
        rows: decisions of the reference.
        own_unmatched: rows that PyTorch's own run and the reference do not share.
        unmatched: rows that the candidate and the reference do not share.
        matched: rows that all three share.
    """

    precision: str
    accumulated: dict[tuple[str, str], Accumulator] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ran: bool = False
    errors: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    own_unmatched: int = 0
    unmatched: int = 0
    matched: int = 0

    def add(self, probe: Probe, expected: Fetches, own: Fetches, outputs: Fetches) -> None:
        """Compare the outputs for one probe."""
        self.ran = True
        given = self._by_model_names(expected, outputs)
        if any(not np.issubdtype(value.dtype, np.floating) for value in expected.values()):
            if set(given) >= set(expected):
                self._add_rows(probe, expected, own, given)
            return
        size = probe.samples
        for name, value in given.items():
            batched = size is not None and value.ndim > 0 and expected[name].shape[:1] == (size,)
            if not batched or not value.shape == own[name].shape == expected[name].shape:
                self._at(name, probe.groups[0]).add(expected[name], own[name], value, batched=False, at=probe.label)
                continue
            for group in dict.fromkeys(probe.groups):
                rows = [index for index, other in enumerate(probe.groups) if other == group]
                accumulator = self._at(name, group)
                accumulator.add(expected[name][rows], own[name][rows], value[rows], batched=True, at=probe.label)

    def _add_rows(self, probe: Probe, expected: Fetches, own: Fetches, given: Fetches) -> None:
        """Compare the rows that all three runs share, and count the others."""
        reference, ours, theirs = as_rows(expected), as_rows(own), as_rows({name: given[name] for name in expected})
        count = len(next(iter(reference.values())))
        ordered = count == probe.samples or reference is not expected
        own_index, own_unmatched = match_rows(reference, ours, self.precision, ordered=ordered)
        index, unmatched = match_rows(reference, theirs, self.precision, ordered=ordered)
        shared = np.flatnonzero((own_index >= 0) & (index >= 0))
        self.rows += count
        self.own_unmatched += own_unmatched
        self.unmatched += unmatched
        self.matched += len(shared)
        sampled = ordered and reference is expected
        for group in dict.fromkeys(probe.groups if sampled else probe.groups[:1]):
            rows = [row for row in shared if not sampled or probe.groups[row] == group]
            for name, value in reference.items():
                base, candidate = ours[name][own_index[rows]], theirs[name][index[rows]]
                self._at(name, group).add(value[rows], base, candidate, batched=True, at=probe.label)

    def _at(self, name: str, group: str) -> Accumulator:
        return self.accumulated.setdefault((name, group), Accumulator())

    def _by_model_names(self, expected: Fetches, given: Fetches) -> Fetches:
        """Return the candidate's outputs under the model's names: matched by name, else by position with a note."""
        if set(expected) == set(given):
            return given
        if len(expected) == len(given) and not set(expected) & set(given):
            pairs = ", ".join(f"{theirs} as {ours}" for ours, theirs in zip(expected, given, strict=True))
            self.notes.append(f"output names differ, so outputs were compared by position: {pairs}")
            return dict(zip(expected, given.values(), strict=True))
        missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
        if missing:
            self.faults.append(f"missing outputs: {', '.join(missing)}")
        if extra:
            self.faults.append(f"outputs that the model does not have: {', '.join(extra)}")
        return {name: value for name, value in given.items() if name in expected}

    def _failed_runs(self, probes: Sequence[Probe]) -> list[str]:
        """Return faults from probes on which the candidate raised an error.

        Where it ran at other sizes, the error means that a dimension declared dynamic was exported as a constant.
        """
        if not self.errors:
            return []
        where, message = "; ".join(self.errors), next(iter(self.errors.values()))
        if self.ran and probes[0].sizes:
            named = " or ".join(map(repr, probes[0].sizes))
            return [f"dimension {named} is declared dynamic, but the graph does not run at {where}: {message}"]
        return [f"the file does not run at {where}: {message}"]

    def conclude(self, probes: Sequence[Probe]) -> tuple[Verdict, tuple[str, ...], tuple[OutputParity, ...]]:
        """Return the verdict, its reasons, and every output over every group of probes."""
        judged = tuple(
            judge(name, group, item, self.precision, unit=self.accumulated.get((name, "unit")))
            for (name, group), item in self.accumulated.items()
        )
        return (*self._decide(judged, probes), judged)

    def _decide(self, judged: Sequence[OutputParity], probes: Sequence[Probe]) -> tuple[Verdict, tuple[str, ...]]:
        self.faults.extend(self._failed_runs(probes))
        if self.unmatched > ENVELOPE * (self.own_unmatched + int(self.rows >= MANY_ROWS)):
            self.faults.append(
                f"{self.unmatched} of {self.rows} discrete decisions differ from float64, "
                f"in PyTorch's own run {self.own_unmatched}"
            )
        verdict, reasons = combine(judged, list(dict.fromkeys(self.faults)))
        if self.own_unmatched or self.unmatched:
            self.notes.append(
                f"the model makes discrete decisions: of {self.rows}, {self.own_unmatched} differ from float64 in "
                f"PyTorch's own run and {self.unmatched} in the file; {self.matched} were compared"
            )
            if verdict == "pass" and self.matched < MIN_MATCHED:
                reason = f"rounding decides all but {self.matched} of {self.rows} discrete decisions"
                return "inconclusive", (reason,)
        return verdict, reasons
