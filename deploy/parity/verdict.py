"""From signal and noise to a verdict: pass, fail or inconclusive, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deploy.core.model import HALVES
from deploy.core.plain import to_plain
from deploy.core.tensors import SizeRange
from deploy.parity.coverage import Coverage
from deploy.parity.groups import UNIT, policy
from deploy.parity.metric import Accumulator, Measured, Part

Verdict = Literal["pass", "fail", "inconclusive"]

ENVELOPE = policy(UNIT).envelope
"""How many times the rounding error of PyTorch's own run a candidate may have."""

FLOOR = {"fp64": 2.0**-53, "fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half a unit in the last place: the smallest noise-to-signal ratio (NSR) that can be expected of the precision."""

CHAOTIC = {"fp64": 1e-2, "fp32": 1e-2, "fp16": 1e-1, "bf16": 1e-1}
"""NSR of PyTorch's own run above which a comparison is inconclusive."""

FEW = 8.0
"""With n values that are not 0, the limit is (1 + FEW / n) times as wide: the root mean square of few values varies by
chance."""

PRIOR = 16.0
"""With n values in a group, PyTorch's noise in the group ``unit`` counts with the weight PRIOR / (n + PRIOR)."""

LEFT_OUT = 0.01
"""Share of channels up to which those that rounding decides are left out and named."""

ROUNDING_OF_ONE = ENVELOPE * 2.0**-24
"""Absolute noise up to which a channel that rounding decides is 0 but for rounding: of float32 at 1, and of float16 at
0."""

UNDECIDED = 0.25
"""Share of integers that differ in PyTorch's own run above which a comparison is inconclusive."""

MANY = 100
"""From this number of integers on, one more is allowed to differ: that PyTorch's own run shows none does not mean that
none is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputParity:
    """One output over one group of probes. Ratios are noise over signal (NSR), without unit.

    An output that mixes scales is judged in groups of channels; the figures are those of the group with the smallest
    margin. For integers, the ratios are shares of elements that differ.

    Attributes:
        group: group of probes, see `deploy.parity.groups`.
        reason: why the verdict is not ``pass``.
        channels: the channels that the figures are of; empty for all.
        signal: root mean square of the float64 output minus its mean over samples.
        torch, candidate: NSR of PyTorch's own run in the artifact's precision, and of the artifact.
        torch_worst, candidate_worst: the same for the worst sample.
        peak: largest absolute difference of the artifact from float64, in the unit of the output.
        envelope: limit of the artifact's NSR, as a multiple of PyTorch's.
        margin: by what factor the noise, overall or of the worst sample, could grow before the verdict changes; noise
            below a quarter of a rounding counts as that. NaN where nothing was compared.
        invariant: whether the output is the same for all samples.
        undecided: channels that rounding decides and that are left out; empty for none.
    """

    output: str
    group: str
    verdict: Verdict
    reason: str
    channels: str = ""
    signal: float = 0.0
    torch: float = 0.0
    candidate: float = 0.0
    torch_worst: float = 0.0
    candidate_worst: float = 0.0
    worst_at: str = ""
    peak: float = 0.0
    samples: int = 0
    envelope: float = ENVELOPE
    margin: float = math.nan
    invariant: bool = False
    undecided: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """The verdict on an artifact, with its evidence.

    Attributes:
        reasons: why the verdict is not ``pass``.
        precision: precision of the artifact and of the PyTorch run it is compared with.
        outputs: every output over every group of probes, and the scores behind discrete choices.
        dynamic: sizes that were run, by dynamic dimension.
        ranges: sizes that the verdict is claimed for, of dimensions that do not take every size.
        refused: sizes at which the model itself raises an error, by dynamic dimension.
        weights: how each weight of the model was found in the graph (see `deploy.parity.weights`).
        coverage: what the probes reached in the file; None if it was not measured.
        digest: SHA-256 of the file.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    precision: str
    outputs: tuple[OutputParity, ...] = ()
    dynamic: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ranges: tuple[SizeRange, ...] = ()
    refused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    probes: int = 0
    samples: int = 0
    seed: int
    weights: Mapping[str, Any] | None = None
    coverage: Coverage | None = None
    notes: tuple[str, ...] = ()
    digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        document = {**to_plain(self), "margin": self.margin, "envelope": ENVELOPE}
        document["coverage"] = self.coverage.to_dict() if self.coverage else None
        return {key: _finite(value) for key, value in document.items()}

    @property
    def margin(self) -> float:
        """The smallest margin of the outputs that were judged; NaN without any."""
        judged = (item.margin for item in self.outputs if item.verdict != "inconclusive")
        return min((margin for margin in judged if not math.isnan(margin)), default=math.nan)

    def worst(self) -> OutputParity | None:
        """Return the output with the smallest margin, of the group ``unit`` if there is one; None without outputs."""
        judged = [item for item in self.outputs if not math.isnan(item.margin)] or self.outputs
        return min(judged, key=lambda item: (item.group != UNIT, item.margin), default=None)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def judge(
    output: str,
    group: str,
    accumulated: Accumulator,
    precision: str,
    *,
    unit: Accumulator | None = None,
    equal: bool = False,
    known: bool = False,
) -> OutputParity:
    """Judge one output over one group of probes; ``unit`` has the same output over the group of that name.

    Integers must be ``equal`` where all choices behind them were judged, and may be the same for all samples where
    that is ``known`` to be right.
    """
    if accumulated.faults:
        expected = precision in HALVES and policy(group).lenient  # far outside the ordinary range it may overflow
        return OutputParity(
            output=output,
            group=group,
            verdict="inconclusive" if expected else "fail",
            reason=accumulated.faults[0],
            samples=accumulated.samples,
        )
    if accumulated.counted.elements:
        return _judge_integers(output, group, accumulated, unit, equal, known)
    reason = accumulated.unusable[0] if accumulated.unusable else ""
    if not reason and accumulated.empty and not accumulated.elements:
        reason = "the output has no row for any probe"
    if reason or not accumulated.elements:
        verdict: Verdict = "inconclusive" if reason else "pass"
        return OutputParity(output=output, group=group, verdict=verdict, reason=reason, invariant=True)
    parts = [part for part in (unit or accumulated).parts() if accumulated.measure(part).elements] or [Part()]
    judged = [_judge_part(output, group, accumulated, part, precision, unit) for part in parts]
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    worst = min(judged, key=lambda item: (order[item.verdict], item.margin))
    if worst.verdict == "fail":
        return worst
    noise = [accumulated.measure(part).candidate_worst for part in parts]
    return _where_rounding_decides(worst, list(zip(judged, parts, noise, strict=True)), precision)


def _where_rounding_decides(
    worst: OutputParity, judged: Sequence[tuple[OutputParity, Part, float]], precision: str
) -> OutputParity:
    """Return the judgement of an output some of whose channels say nothing, since PyTorch's own run is as far off.

    They are left out and named if they are few, or if they are 0 but for a rounding of 1, as scores of classes that an
    input does not show; else the output is not known. ``judged`` are groups of channels with the absolute noise of
    their worst sample.
    """
    blind = [item for item in judged if item[1].axis is not None and item[0].torch > CHAOTIC[precision]]
    if not blind:
        return worst
    total = sum(len(part.indices) for _, part, _ in judged)
    large = sum(len(part.indices) for _, part, noise in blind if noise > ROUNDING_OF_ONE)
    count = sum(len(part.indices) for _, part, _ in blind)
    seen = [item for item, part, _ in judged if all(part != other for _, other, _ in blind)]
    if seen and large <= LEFT_OUT * total:
        left_out = f"{', '.join(str(part) for _, part, _ in blind)}: {count} of {total}"
        return replace(min(seen, key=lambda item: item.margin), undecided=left_out)
    item, part, _ = max(blind, key=lambda found: found[0].torch)
    reason = (
        f"PyTorch's own run differs from float64 by {item.torch:.1e} of the signal of {part}, so rounding decides "
        f"{count} of {total} channels"
    )
    return replace(item, verdict="inconclusive", reason=reason)


def _judge_part(
    output: str, group: str, accumulated: Accumulator, part: Part, precision: str, unit: Accumulator | None
) -> OutputParity:
    rules = policy(group)
    found = accumulated.measure(part)
    ordinary = unit.measure(part) if unit is not None else found
    signal = max(found.signal, ordinary.signal)
    if signal == 0.0 or rules.magnitude:
        signal = max(signal, found.magnitude)
    own, own_worst, given, given_worst = (
        (value / signal if signal else math.inf if value else 0.0)
        for value in (found.baseline, found.baseline_worst, found.candidate, found.candidate_worst)
    )
    allowed, allowed_worst = _allowed(found, ordinary, signal, precision)
    floor = FLOOR[precision] / ENVELOPE
    margin = rules.envelope * min(allowed / max(given, floor), allowed_worst / max(given_worst, floor))
    verdict, reason = _decide(group, part, given, given_worst, allowed, allowed_worst, own, precision)
    return OutputParity(
        output=output,
        group=group,
        verdict=verdict,
        reason=reason,
        channels=str(part),
        signal=found.signal or signal,
        torch=max(own, FLOOR[precision]),
        candidate=given,
        torch_worst=max(own_worst, FLOOR[precision]),
        candidate_worst=given_worst,
        worst_at=found.worst_at,
        peak=accumulated.peak,
        samples=accumulated.samples,
        envelope=rules.envelope,
        margin=margin,
        invariant=accumulated.invariant,
    )


def _allowed(found: Measured, ordinary: Measured, signal: float, precision: str) -> tuple[float, float]:
    """Return the NSR that PyTorch's own run allows, overall and for the worst sample, before the envelope."""
    if signal == 0.0:
        return FLOOR[precision], FLOOR[precision]
    usual = ordinary.baseline / signal * math.sqrt(PRIOR / (found.elements + PRIOR))
    least = max(found.baseline / signal, usual, FLOOR[precision])
    few, few_worst = (1.0 + FEW * count / max(found.active, 1) for count in (1, found.samples))
    return least * few, max(found.baseline_worst / signal, least) * few_worst


def _decide(
    group: str,
    part: Part,
    given: float,
    given_worst: float,
    allowed: float,
    allowed_worst: float,
    own: float,
    precision: str,
) -> tuple[Verdict, str]:
    rules = policy(group)
    if own > CHAOTIC[precision] and part.axis is None:
        return (
            "inconclusive",
            f"PyTorch's own run differs from float64 by {own:.1e} of the signal, so rounding decides the output",
        )
    for noise, limit, scope in ((given, allowed, "overall"), (given_worst, allowed_worst, "in the worst sample")):
        if not noise <= rules.envelope * limit:
            where = f"{scope} ({part})" if part.axis is not None else scope
            reason = f"noise is {noise:.1e} of the signal {where}, in PyTorch's own run {limit:.1e}"
            if noise > rules.gross and own < rules.steady:
                return "fail", reason
            return "inconclusive", f"outside the ordinary range, {reason}"
    return "pass", ""


def _judge_integers(
    output: str, group: str, accumulated: Accumulator, unit: Accumulator | None, equal: bool, known: bool
) -> OutputParity:
    rules, found = policy(group), accumulated.counted
    varies = found.varies or (unit is not None and unit.counted.varies)
    many = 1 if found.elements >= MANY else 0
    allowed = 0.0 if equal else rules.envelope * (found.baseline + many)
    verdict: Verdict = "pass"
    reason = f"{found.elements} integers are equal" if not found.candidate else ""
    if accumulated.unusable:
        verdict, reason = "inconclusive", accumulated.unusable[0]
    elif found.candidate > allowed:
        verdict = "inconclusive" if rules.lenient else "fail"
        reason = f"{found.candidate} of {found.elements} integers differ, in PyTorch's own run {found.baseline}"
    elif found.baseline > UNDECIDED * found.elements and not equal:
        verdict, reason = "inconclusive", f"rounding decides {found.baseline} of {found.elements} integers"
    elif not (varies or known):
        verdict, reason = "inconclusive", "the output is the same for every probe, so a constant would pass"
    return OutputParity(
        output=output,
        group=group,
        verdict=verdict,
        reason=reason,
        torch=found.baseline / found.elements,
        candidate=found.candidate / found.elements,
        torch_worst=found.baseline / found.elements,
        candidate_worst=found.candidate / found.elements,
        envelope=rules.envelope,
        margin=max(allowed, 1.0) / found.candidate if found.candidate else rules.envelope,
        invariant=not varies,
    )


def combine(judged: Sequence[OutputParity], faults: Sequence[str]) -> tuple[Verdict, tuple[str, ...]]:
    """Combine verdicts, and faults that belong to no single output, into one verdict with its reasons.

    Any failure fails. Otherwise the result is inconclusive if an output is so in a group that decides, or if no output
    depends on the input; in other groups it does not matter.
    """
    failed = [f"{item.output} ({item.group}): {item.reason}" for item in judged if item.verdict == "fail"]
    if faults or failed:
        return "fail", (*faults, *failed)
    blind = [item for item in judged if policy(item.group).decides and item.verdict == "inconclusive"]
    if blind or not judged:
        return "inconclusive", tuple(f"{item.output}: {item.reason}" for item in blind) or ("nothing was compared",)
    if all(item.invariant for item in judged if policy(item.group).decides):
        return "inconclusive", ("no output depends on the input, so nothing can be compared",)
    return "pass", ()
