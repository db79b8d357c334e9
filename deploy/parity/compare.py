"""Run the probes through reference, baseline and candidate, and judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.choices import as_rows, pair
from deploy.parity.metric import Accumulator
from deploy.parity.probes import Probe
from deploy.parity.verdict import ENVELOPE, OutputParity, ParityReport, Verdict, combine, judge

MANY = 100
"""From so many choices on one more is granted to PyTorch's own run than it made: none seen is not none to expect."""

FEWEST = 3
"""Choices that must have been compared for a verdict."""


class Candidate(Protocol):
    """A runner that works while the reference is computed (`deploy.core.isolated.IsolatedRunner`)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def submit(self, feeds: Feeds) -> None: ...  # noqa: D102
    def result(self) -> Fetches: ...  # noqa: D102


@dataclass(slots=True)
class _Tally:
    """What the probes showed so far.

    A model that chooses may choose otherwise from rounding alone: such choices (rows without a partner, see
    `deploy.parity.choices`) are allowed as noise is, ENVELOPE times as many as PyTorch's own run has.
    """

    found: dict[tuple[str, str], Accumulator] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ran: set[tuple[int, ...]] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    chosen: int = 0
    own_otherwise: int = 0
    otherwise: int = 0
    compared: int = 0


def compare(
    reference: Runner,
    baseline: Runner,
    candidate: Candidate,
    probes: Sequence[Probe],
    *,
    precision: str = "fp32",
    seed: int = 0,
    rename: Mapping[str, str] | None = None,
    batch: str = "batch",
    advance: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> ParityReport:
    """Judge a candidate.

    Args:
        reference: the model in float64.
        baseline: the model in the candidate's own precision, by PyTorch.
        candidate: the artifact.
        probes: what to feed, by the model's input names.
        precision: ``fp32`` or ``fp16``.
        seed: what the probes were drawn with, for the report.
        rename: the candidate's input names by the model's, where they differ.
        batch: the symbol that counts samples.
        advance: told after every probe.

    Raises:
        BackendError: the model itself cannot be run.
        BackendCrashedError: the candidate's process died.
    """
    tally = _Tally()
    names = rename or {}
    for index, probe in enumerate(probes):
        candidate.submit({names.get(name, name): value for name, value in probe.feeds.items()})
        expected, own = reference.run(probe.feeds), baseline.run(probe.feeds)
        _take(tally, probe, expected, own, candidate, batch, precision)
        advance(index + 1, len(probes), probe.label)
    tally.faults.extend(_refusals(tally, probes))
    judged = [
        judge(name, group, item, precision, unit=tally.found.get((name, "unit")))
        for (name, group), item in tally.found.items()
    ]
    verdict, reasons = _conclude(tally, judged)
    return ParityReport(
        verdict=verdict,
        reasons=reasons,
        precision=precision,
        outputs=tuple(judged),
        dynamic=_sizes_run(probes),
        probes=len(probes),
        samples=max((item.samples for item in tally.found.values()), default=0),
        seed=seed,
        notes=tuple(dict.fromkeys(tally.notes)),
    )


def _take(
    tally: _Tally, probe: Probe, expected: Fetches, own: Fetches, candidate: Candidate, batch: str, precision: str
) -> None:
    """Add the candidate's answer to a probe, or that it refused."""
    try:
        given = candidate.result()
    except BackendCrashedError:
        raise
    except BackendError as exc:
        tally.refused[_at(probe)] = exc.message
        return
    tally.ran.add(tuple(probe.sizes.values()))
    _add(tally, probe, expected, own, _match(expected, given, tally), batch, precision)


def _sizes_run(probes: Sequence[Probe]) -> dict[str, tuple[int, ...]]:
    names = probes[0].sizes if probes else ()
    return {name: tuple(sorted({probe.sizes[name] for probe in probes})) for name in names}


def _at(probe: Probe) -> str:
    return ", ".join(f"{name} {size}" for name, size in probe.sizes.items()) or probe.label


def _refusals(tally: _Tally, probes: Sequence[Probe]) -> list[str]:
    """Faults from probes the candidate refused; where it ran at other sizes, the dimension was baked."""
    if not tally.refused:
        return []
    where = "; ".join(tally.refused)
    message = next(iter(tally.refused.values()))
    dims = list(probes[0].sizes) if probes else []
    if dims and tally.ran:
        named = " or ".join(map(repr, dims))
        return [f"dimension {named} claims to be dynamic, but the graph does not run at {where}: {message}"]
    return [f"it does not run at {where}: {message}"]


def _add(
    tally: _Tally, probe: Probe, expected: Fetches, own: Fetches, given: Fetches, batch: str, precision: str
) -> None:
    if any(not np.issubdtype(value.dtype, np.floating) for value in expected.values()):
        if set(given) >= set(expected):
            _add_choices(tally, probe, expected, own, given, batch, precision)
        return
    size = probe.sizes.get(batch)
    for name, value in given.items():
        first = expected[name].shape[:1]
        batched = size is not None and value.ndim > 0 and first == (size,)
        if not batched or not value.shape == own[name].shape == expected[name].shape:
            accumulator = tally.found.setdefault((name, probe.groups[0]), Accumulator())
            accumulator.add(expected[name], own[name], value, batched=False, at=probe.label)
            continue
        for group in dict.fromkeys(probe.groups):
            rows = [index for index, other in enumerate(probe.groups) if other == group]
            accumulator = tally.found.setdefault((name, group), Accumulator())
            accumulator.add(expected[name][rows], own[name][rows], value[rows], batched=True, at=probe.label)


def _add_choices(
    tally: _Tally, probe: Probe, expected: Fetches, own: Fetches, given: Fetches, batch: str, precision: str
) -> None:
    """Compare the rows that both runs chose as float64 does, and count the others."""
    reference, ours, theirs = as_rows(expected), as_rows(own), as_rows({name: given[name] for name in expected})
    count = len(next(iter(reference.values())))
    ordered = count == probe.sizes.get(batch) or reference is not expected
    first, second = (pair(reference, rows, precision, ordered=ordered) for rows in (ours, theirs))
    tally.chosen += count
    tally.own_otherwise += first.alone
    tally.otherwise += second.alone
    both = np.flatnonzero((first.partner >= 0) & (second.partner >= 0))
    tally.compared += len(both)
    sampled = ordered and reference is expected
    for group in dict.fromkeys(probe.groups if sampled else probe.groups[:1]):
        rows = [index for index in both if not sampled or probe.groups[index] == group]
        for name, value in reference.items():
            accumulator = tally.found.setdefault((name, group), Accumulator())
            mine, yours = ours[name][first.partner[rows]], theirs[name][second.partner[rows]]
            accumulator.add(value[rows], mine, yours, batched=True, at=probe.label)


def _conclude(tally: _Tally, judged: Sequence[OutputParity]) -> tuple[Verdict, tuple[str, ...]]:
    if tally.otherwise > ENVELOPE * (tally.own_otherwise + int(tally.chosen >= MANY)):
        tally.faults.append(
            f"of {tally.chosen} choices it makes {tally.otherwise} otherwise than float64, "
            f"PyTorch's own run {tally.own_otherwise}"
        )
    verdict, reasons = combine(judged, list(dict.fromkeys(tally.faults)))
    if tally.own_otherwise or tally.otherwise:
        tally.notes.append(
            f"the model chooses: of {tally.chosen} choices PyTorch's own run has {tally.own_otherwise} otherwise than "
            f"float64, the file {tally.otherwise}; {tally.compared} were compared"
        )
        if verdict == "pass" and tally.compared < FEWEST:
            return "inconclusive", (f"rounding decides all but {tally.compared} of {tally.chosen} choices",)
    return verdict, reasons


def _match(expected: Fetches, given: Fetches, tally: _Tally) -> Fetches:
    """The candidate's outputs under the model's names: by name where they agree, else by position, saying so."""
    if set(expected) == set(given):
        return given
    if len(expected) == len(given) and not set(expected) & set(given):
        pairs = ", ".join(f"{theirs} as {ours}" for ours, theirs in zip(expected, given, strict=True))
        tally.notes.append(f"outputs are named differently and were compared by position: {pairs}")
        return dict(zip(expected, given.values(), strict=True))
    missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing:
        tally.faults.append(f"outputs missing: {', '.join(missing)}")
    if extra:
        tally.faults.append(f"outputs the model does not have: {', '.join(extra)}")
    return {name: value for name, value in given.items() if name in expected}
