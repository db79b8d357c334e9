"""Run the probes through reference, baseline and candidate, and judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import symbols
from deploy.parity.metric import Accumulator
from deploy.parity.probes import Probe
from deploy.parity.verdict import ParityReport, combine, judge


class Candidate(Protocol):
    """A runner that works while the reference is computed (`deploy.backends._isolated.IsolatedRunner`)."""

    inputs: Sequence[Any]
    outputs: Sequence[Any]

    def submit(self, feeds: Feeds) -> None: ...  # noqa: D102
    def result(self) -> Fetches: ...  # noqa: D102


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
    found: dict[tuple[str, str], Accumulator] = {}
    faults: list[str] = []
    notes: list[str] = []
    names = rename or {}
    for index, probe in enumerate(probes):
        candidate.submit({names.get(name, name): value for name, value in probe.feeds.items()})
        expected = reference.run(probe.feeds)
        own = baseline.run(probe.feeds)
        try:
            given = candidate.result()
        except BackendCrashedError:
            raise
        except BackendError as exc:
            faults.append(f"it does not run on {probe.label}: {exc.message}")
            continue
        finally:
            advance(index + 1, len(probes), probe.label)
        matched = _match(expected, given, faults, notes)
        batched = batch in probe.sizes
        size = probe.sizes.get(batch)
        for name, value in matched.items():
            whole = batched and value.ndim > 0 and expected[name].ndim > 0 and expected[name].shape[0] == size
            accumulator = found.setdefault((name, probe.group), Accumulator())
            accumulator.add(expected[name], own[name], value, batched=whole, at=probe.label)
    judged = [judge(name, group, item, precision) for (name, group), item in found.items()]
    verdict, reasons = combine(judged, list(dict.fromkeys(faults)))
    dynamic = symbols([spec for spec in candidate.inputs])
    return ParityReport(
        verdict=verdict,
        reasons=reasons,
        precision=precision,
        outputs=tuple(judged),
        dynamic={name: tuple(sorted({probe.sizes[name] for probe in probes if name in probe.sizes})) for name in dynamic},
        probes=len(probes),
        samples=sum(item.samples for (_, group), item in found.items()) // max(len({name for name, _ in found}), 1),
        seed=seed,
        notes=tuple(dict.fromkeys(notes)),
    )


def _match(expected: Fetches, given: Fetches, faults: list[str], notes: list[str]) -> Fetches:
    """The candidate's outputs under the model's names: by name where they agree, else by position, saying so."""
    if set(expected) == set(given):
        return given
    if len(expected) == len(given) and not set(expected) & set(given):
        pairs = ", ".join(f"{theirs} as {ours}" for ours, theirs in zip(expected, given, strict=True))
        notes.append(f"outputs are named differently and were compared by position: {pairs}")
        return dict(zip(expected, given.values(), strict=True))
    missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing:
        faults.append(f"outputs missing: {', '.join(missing)}")
    if extra:
        faults.append(f"outputs the model does not have: {', '.join(extra)}")
    return {name: value for name, value in given.items() if name in expected}
