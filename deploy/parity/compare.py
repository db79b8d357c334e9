"""Run the probes through reference, baseline and candidate, and judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.metric import Accumulator
from deploy.parity.probes import Probe
from deploy.parity.verdict import CHAOTIC, ENVELOPE, OutputParity, ParityReport, Verdict, combine, judge


class Candidate(Protocol):
    """A runner that works while the reference is computed (`deploy.backends._isolated.IsolatedRunner`)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def submit(self, feeds: Feeds) -> None: ...  # noqa: D102
    def result(self) -> Fetches: ...  # noqa: D102


@dataclass(slots=True)
class _Tally:
    """What the probes showed so far.

    A model that chooses (a detector keeps the boxes above a score) may choose otherwise from rounding alone. A probe
    on which PyTorch's own run chooses otherwise than float64 is ``undecided`` and tells nothing; one on which only
    the candidate does is a ``flip``, and flips are allowed as noise is: ENVELOPE times PyTorch's own.
    """

    found: dict[tuple[str, str], Accumulator] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ran: set[tuple[int, ...]] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    undecided: int = 0
    flips: int = 0
    agreed: int = 0


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
    chooses = any(not np.issubdtype(value.dtype, np.floating) for value in expected.values())
    if chooses:
        if _chose_otherwise(expected, own, precision):
            tally.undecided += 1
            return
        if set(given) >= set(expected) and _chose_otherwise(expected, given, precision):
            tally.flips += 1
            return
        tally.agreed += 1
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


def _chose_otherwise(expected: Fetches, found: Fetches, precision: str) -> bool:
    for name, reference in expected.items():
        value = found[name]
        if value.shape != reference.shape:
            return True
        if not np.issubdtype(reference.dtype, np.floating):
            if not np.array_equal(value, reference):
                return True
        elif np.linalg.norm(value.astype(np.float64) - reference) > CHAOTIC[precision] * np.linalg.norm(reference):
            return True
    return False


def _conclude(tally: _Tally, judged: Sequence[OutputParity]) -> tuple[Verdict, tuple[str, ...]]:
    total = tally.undecided + tally.flips + tally.agreed
    if tally.flips > ENVELOPE * tally.undecided:
        tally.faults.append(
            f"it chooses otherwise than float64 in {tally.flips} of {total} probes, "
            f"PyTorch's own run in {tally.undecided}"
        )
    verdict, reasons = combine(judged, list(dict.fromkeys(tally.faults)))
    if tally.undecided or tally.flips:
        tally.notes.append(
            f"the model chooses: in {tally.undecided} of {total} probes rounding decided already in PyTorch's own run, "
            f"in {tally.flips} more in the file's; {tally.agreed} were compared"
        )
        if verdict == "pass" and tally.agreed < 3:
            return "inconclusive", (f"rounding decides the choice in {total - tally.agreed} of {total} probes",)
        if verdict == "inconclusive" and tally.agreed == 0:
            return verdict, (f"rounding decides the choice in all {total} probes",)
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
