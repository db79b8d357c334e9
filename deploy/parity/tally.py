"""Compare the outputs of a candidate probe by probe, and conclude with a verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.core.model import HALVES
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.parity.choices import Chooser, Settled, nearer
from deploy.parity.groups import UNIT, policy
from deploy.parity.matching import match_rows
from deploy.parity.metric import Accumulator
from deploy.parity.probes import Probe
from deploy.parity.verdict import MANY, OutputParity, Verdict, combine, judge

Array = NDArray[Any]

MIN_MATCHED = 3
"""Minimum number of matched rows for the verdict ``pass``, where some rows are unmatched."""


def _nearer(reference: Array, other: Array | None, *runs: Array) -> tuple[Array, ...]:
    """Return runs with their errors to the nearer of two references; see `nearer`."""
    return runs if other is None else tuple(nearer(reference, other, run) for run in runs)


@dataclass(slots=True)
class _Selected:
    """Rows that a model selects, over some probes.

    Attributes:
        rows: rows of the reference that were matched or could not be.
        own_unmatched, unmatched: of those, rows that PyTorch's own run and the candidate do not share.
        matched: rows that all three share.
    """

    rows: int = 0
    own_unmatched: int = 0
    unmatched: int = 0
    matched: int = 0

    def add(self, rows: int, own_unmatched: int, unmatched: int, matched: int) -> None:
        """Add the rows of a probe."""
        self.rows += rows
        self.own_unmatched += own_unmatched
        self.unmatched += unmatched
        self.matched += matched


@dataclass(frozen=True, slots=True)
class _Rows:
    """Outputs of one probe whose number of rows may depend on the data; they are compared at the end."""

    probe: Probe
    expected: Fetches
    own: Fetches
    given: Fetches
    other: Fetches
    selects: bool


class Original(Protocol):
    """The file that is the reference, in the candidate's runtime."""

    def run(self, feeds: Feeds) -> Fetches | None:
        """Return its outputs for inputs by the model's names; None where it does not run."""


SOME = 2
"""Rounding is not expected to decide so many integers of one call otherwise, if they are most of its integers."""

UNUSUAL = 2.0
"""How many times the noise of PyTorch's own run the candidate's must be for the original file to be run, too."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Results of the probes so far.

    Outputs are compared in place. Only where rows are selected, or their number depends on the data, and the choices
    behind it are not known, rows are matched (see `deploy.parity.matching`); unmatched ones are limited like noise: to
    as many times more than in PyTorch's own run as the noise of their probes may be.

    Attributes:
        chooser: compares the choices behind the outputs; None if only the outputs are known.
        perturbed: PyTorch's own run with other roundings.
        original: where the reference is a file, its own run in the candidate's runtime.
        in_place: rows are not matched, since all runs were given the same choices.
        accumulated: statistics by output, or scores behind a choice, and group of probes.
        errors: the candidate's errors, by the sizes of the probe.
        selected: rows that were matched or could not be, by the envelope of their group of probes.
        decisions: choices that were compared; see `deploy.parity.choices.Settled`.
        ties: near ties in choices that cannot be read from the file.
    """

    precision: str
    chooser: Chooser | None = None
    perturbed: Runner | None = None
    original: Original | None = None
    in_place: bool = False
    accumulated: dict[tuple[str, str], Accumulator] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ran: bool = False
    errors: dict[str, str] = field(default_factory=dict)
    selected: dict[float, _Selected] = field(default_factory=dict)
    decisions: int = 0
    own_flips: int = 0
    flips: int = 0
    ties: int = 0
    _pending: list[_Rows] = field(default_factory=list)
    _equal: dict[str, bool] = field(default_factory=dict)
    _known: dict[str, bool] = field(default_factory=dict)

    def add(self, probe: Probe, expected: Fetches, own: Fetches, outputs: Fetches) -> None:
        """Compare the outputs for one probe; ``own`` tells the dtypes that the model has."""
        self.ran = True
        given = self._typed(own, self._by_model_names(expected, outputs))
        whole = set(given) == set(expected)
        settled = self.chooser.settle(probe, expected, own, given) if self.chooser and whole else None
        settled = self._unsteady(probe, settled or Settled(expected=expected, own=own), given)
        self._add_choices(probe, settled)
        pending = []
        for name, value in given.items():
            reference, ours, theirs = _real(settled.expected[name]), _real(settled.own[name]), _real(value)
            equal, known = name in settled.equal, name in settled.known
            self._equal[name] = self._equal.get(name, True) and equal
            self._known[name] = self._known.get(name, True) and known
            if not equal and reference.ndim and reference.shape[0] != probe.samples:
                pending.append(name)
            else:
                other = None if settled.other is None else _real(settled.other[name])
                self._add(name, probe, reference, *_nearer(reference, other, ours, theirs))
        if pending:
            expected, own, outputs, others = (
                {name: _real(run[name]) for name in pending}
                for run in (settled.expected, settled.own, given, settled.other or settled.expected)
            )
            self._pending.append(_Rows(probe, expected, own, outputs, others, settled.selects))

    def _unsteady(self, probe: Probe, settled: Settled, given: Fetches) -> Settled:
        """Take another run as PyTorch's own where the candidate is far off although PyTorch's first run is not.

        That of the original file, if there is one: optimizations of a runtime may round more than PyTorch does. Then
        one with other roundings, only for samples of groups in which correct runs may be far apart; then the other run
        is, too.
        """
        floats = [name for name in given if settled.expected[name].dtype.kind == "f"]

        def far(run: Fetches, envelope: float) -> list[str]:
            return [name for name in floats if _far(settled.expected[name], settled.own[name], run.get(name), envelope)]

        if self.original is not None and far(given, UNUSUAL):
            run = self.original.run(probe.feeds) or {}
            settled = replace(settled, own={**settled.own, **{name: run[name] for name in far(run, 1.0)}})
        if self.perturbed is None or not any(
            _far(settled.expected[name][rows], settled.own[name][rows], given[name][rows], policy(group).envelope)
            for name in floats
            for group, rows in _parts(probe, settled.expected[name], settled.own[name], given[name]).items()
            if policy(group).steady < 1.0
        ):
            return settled
        own = dict(settled.own)
        for name, value in self.perturbed.run(probe.feeds).items():
            for group, rows in _parts(probe, value, own[name]).items():
                if policy(group).steady < 1.0:
                    own[name] = np.where(_mask(rows, value), value, own[name]) if rows is not ... else value
        return replace(settled, own=own)

    def _add(self, name: str, probe: Probe, reference: Array, own: Array, given: Array) -> None:
        """Compare an output in place, by sample where its first axis counts samples."""
        for group, rows in _parts(probe, reference, own, given).items():
            found, runs = self._at(name, group), (reference[rows], own[rows], given[rows])
            found.add(*runs, batched=rows is not ..., at=probe.label)
            if policy(group).decides and self.precision not in HALVES and _mostly_wrong(*runs):
                found.faults.append(f"most integers differ, in PyTorch's own run none ({probe.label})")

    def _add_choices(self, probe: Probe, settled: Settled) -> None:
        for name, (reference, own, given) in settled.scores.items():
            self._add(name, probe, reference, own, given)
        for name, fault in settled.faults.items():
            group = next((item for item in probe.groups if not policy(item).lenient), probe.groups[0])
            found = self._at(name, group)
            (found.unusable if policy(group).lenient else found.faults).append(f"{fault} ({probe.label})")
        self.ties += settled.ties
        self.decisions += settled.decisions
        self.own_flips += settled.own_flips
        self.flips += settled.flips

    def _add_rows(self) -> None:
        """Compare the outputs whose number of rows may depend on the data: in place unless it does.

        Where boxes are selected, it may be the same for all probes: the largest number that a detector returns.
        """
        counts: dict[str, dict[tuple[tuple[str, int], ...], set[int]]] = defaultdict(lambda: defaultdict(set))
        for item in self._pending:
            for name, value in item.expected.items():
                counts[name][tuple(item.probe.sizes.items())].update((len(value), len(item.own[name])))
        depends = {name for name, found in counts.items() if any(len(sizes) > 1 for sizes in found.values())}
        depends |= {name for item in self._pending if item.selects for name in item.expected}
        if self.in_place:
            depends.clear()
        for item in self._pending:
            varying: dict[int, list[str]] = defaultdict(list)
            for name, value in item.expected.items():
                if name in depends and item.own[name].ndim and item.given[name].ndim:
                    varying[len(value)].append(name)
                else:
                    runs = _nearer(value, item.other[name], item.own[name], item.given[name])
                    self._add(name, item.probe, value, *runs)
            for names in varying.values():
                self._match(item, names)

    def _match(self, item: _Rows, names: Sequence[str]) -> None:
        """Compare the rows that all three runs share, and count the others."""
        reference, ours, theirs = (
            {name: source[name] for name in names} for source in (item.expected, item.own, item.given)
        )
        if any(len({len(value) for value in run.values()}) > 1 for run in (ours, theirs)):
            self._at(names[0], item.probe.groups[0]).faults.append(f"outputs of different lengths ({item.probe.label})")
            return
        own_index, own_unmatched = match_rows(reference, ours, self.precision)
        index, unmatched = match_rows(reference, theirs, self.precision)
        shared = np.flatnonzero((own_index >= 0) & (index >= 0))
        selected = self.selected.setdefault(policy(item.probe.groups[0]).envelope, _Selected())
        selected.add(len(index), own_unmatched, unmatched, len(shared))
        for name in names:
            rows = reference[name][shared]
            other = item.other[name][shared] if item.other[name].shape == reference[name].shape else None
            runs = _nearer(rows, other, ours[name][own_index[shared]], theirs[name][index[shared]])
            self._at(name, item.probe.groups[0]).add(rows, *runs, batched=True, at=item.probe.label)
            self._known[name] = True

    def _at(self, name: str, group: str) -> Accumulator:
        return self.accumulated.setdefault((name, group), Accumulator(self.precision))

    def _typed(self, own: Fetches, given: Fetches) -> Fetches:
        """Report outputs of another dtype than the model's; those that cannot be compared are left out.

        An FP16 file may keep float32 outputs; complex numbers are pairs of floats.
        """
        usable = {}
        for name, value in given.items():
            wanted = {own[name].dtype}
            if own[name].dtype.kind == "c":
                wanted.add(own[name].real.dtype)
            if self.precision == "fp16":
                wanted |= {np.dtype(np.float32) for dtype in wanted if dtype == np.float16}
            if value.dtype not in wanted:
                self.faults.append(f"output {name} is {value.dtype}, in the model {own[name].dtype}")
            if value.dtype.kind in "biufc":
                usable[name] = value
        return usable

    def _by_model_names(self, expected: Fetches, given: Fetches) -> Fetches:
        """Return the candidate's outputs under the model's names: matched by name, else by position with a note."""
        if set(expected) == set(given):
            return {name: given[name] for name in expected}
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

    def so_far(self, probes: Sequence[Probe]) -> tuple[Verdict, tuple[str, ...], tuple[OutputParity, ...]]:
        """Conclude from the probes so far; more may follow."""
        copied = replace(
            self,
            accumulated=deepcopy(self.accumulated),
            selected=deepcopy(self.selected),
            faults=[*self.faults],
            notes=[*self.notes],
            _known={**self._known},
        )
        return copied.conclude(probes)

    def conclude(self, probes: Sequence[Probe]) -> tuple[Verdict, tuple[str, ...], tuple[OutputParity, ...]]:
        """Return the verdict, its reasons, and every output over every group of probes."""
        self._add_rows()
        judged = tuple(
            judge(
                name,
                group,
                item,
                self.precision,
                unit=self.accumulated.get((name, UNIT)),
                equal=self._equal.get(name, False),
                known=self._known.get(name, False),
            )
            for (name, group), item in self.accumulated.items()
        )
        return (*self._decide(judged, probes), judged)

    def _decide(self, judged: Sequence[OutputParity], probes: Sequence[Probe]) -> tuple[Verdict, tuple[str, ...]]:
        self.faults.extend(self._failed_runs(probes))
        for envelope, item in self.selected.items():
            if item.unmatched > envelope * (item.own_unmatched + int(item.rows >= MANY)):
                self.faults.append(
                    f"{item.unmatched} of {item.rows} rows differ from float64, in PyTorch's own run "
                    f"{item.own_unmatched}"
                )
        verdict, reasons = combine(judged, list(dict.fromkeys(self.faults)))
        self.notes.extend(
            f"{item.output}: rounding decides {item.undecided}, which are left out"
            for item in judged
            if item.undecided and policy(item.group).decides
        )
        if self.decisions:
            self.notes.append(
                f"the model makes discrete choices: of {self.decisions}, {self.own_flips} are otherwise in PyTorch's "
                f"own run than in float64, and {self.flips} in the file"
            )
        if self.ties:
            self.notes.append(
                f"{self.ties} choices inside of loops or branches, which cannot be read from the file, are within "
                "rounding of a tie; results of either are taken as right"
            )
        whole = _Selected()
        for item in self.selected.values():
            whole.add(item.rows, item.own_unmatched, item.unmatched, item.matched)
        if whole.own_unmatched or whole.unmatched:
            self.notes.append(
                f"the model selects rows: of {whole.rows}, {whole.own_unmatched} differ from float64 in PyTorch's own "
                f"run and {whole.unmatched} in the file; {whole.matched} were compared"
            )
            if verdict == "pass" and whole.matched < MIN_MATCHED:
                return "inconclusive", (f"rounding decides all but {whole.matched} of {whole.rows} rows",)
        return verdict, reasons


def _parts(probe: Probe, *runs: Array) -> dict[str, Any]:
    """Return the rows of an output by group of their samples; all of them (``...``) where rows are not samples."""
    size, shapes = probe.samples, {run.shape for run in runs}
    if size is None or len(shapes) > 1 or runs[0].shape[:1] != (size,) or len(probe.groups) != size:
        return {probe.groups[0]: ...}
    return {
        group: [index for index, other in enumerate(probe.groups) if other == group]
        for group in dict.fromkeys(probe.groups)
    }


def _mostly_wrong(reference: Array, own: Array, given: Array) -> bool:
    """Return whether most integers of a call differ, and at least `SOME`, where none does in PyTorch's own run.

    Rounding decides single integers; a fault that depends on the size of a call makes all of a small one wrong.
    """
    if reference.dtype.kind not in "biu" or not reference.shape == own.shape == given.shape:
        return False
    wrong = np.count_nonzero(given != reference)
    return bool(wrong >= SOME and 2 * wrong > reference.size and np.array_equal(own, reference))


def _mask(rows: Sequence[int], like: Array) -> Array:
    """Return which rows of an array are named, in a shape that broadcasts to the array's."""
    return np.isin(np.arange(len(like)), rows).reshape(-1, *[1] * (like.ndim - 1))


def _far(reference: Array, own: Array, given: Array | None, envelope: float) -> bool:
    """Return whether a run is further from the reference than PyTorch's own, by more than a factor."""
    if given is None or not reference.shape == own.shape == given.shape:
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        noise, rounding = (np.linalg.norm(value.astype(np.float64) - reference) for value in (given, own))
        return bool(noise > envelope * rounding)


def _real(value: Array) -> Array:
    """Return complex numbers as pairs of floats, on a last axis of two."""
    return np.stack([value.real, value.imag], -1) if value.dtype.kind == "c" else value
