"""From signal and noise to a verdict: pass, fail or inconclusive, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deploy.core.plain import to_plain
from deploy.core.tensors import SizeRange
from deploy.parity.metric import Accumulator

Verdict = Literal["pass", "fail", "inconclusive"]

ENVELOPE = 4.0
"""How many times the rounding error of PyTorch's own run a candidate may have."""

CONSTANT_ENVELOPE = 32.0
"""The same for inputs that are constant. Every position then has the same rounding error, which sums over positions do
not average out, so two correct implementations differ by more (7.5 times on regnet_y_128gf at 384²)."""

FLOOR = {"fp32": 2.0**-24, "fp16": 2.0**-11}
"""Half a unit in the last place: the smallest noise-to-signal ratio (NSR) that can be expected of the precision."""

CHAOTIC = {"fp32": 1e-2, "fp16": 1e-1}
"""NSR of PyTorch's own run above which a comparison is inconclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputParity:
    """One output over one group of probes. Ratios are noise over signal (NSR), without unit.

    Attributes:
        group: see `deploy.parity.probes.Probe`.
        reason: why the verdict is not ``pass``.
        signal: root mean square of the float64 output minus its mean over samples.
        torch, candidate: NSR of PyTorch's own run in the artifact's precision, and of the artifact.
        torch_worst, candidate_worst: the same for the worst sample.
        peak: largest absolute difference of the artifact from float64, in the unit of the output.
        envelope: limit of the artifact's NSR, as a multiple of PyTorch's.
    """

    output: str
    group: str
    verdict: Verdict
    reason: str
    signal: float
    torch: float
    candidate: float
    torch_worst: float
    candidate_worst: float
    worst_at: str
    peak: float
    samples: int
    envelope: float = ENVELOPE

    @property
    def margin(self) -> float:
        """By what factor the noise, overall or of the worst sample, could grow before the verdict changes."""
        pairs = ((self.torch, self.candidate), (self.torch_worst, self.candidate_worst))
        return min(self.envelope * own / noise if noise > 0 else math.inf for own, noise in pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """The verdict on an artifact, with its evidence.

    Attributes:
        reasons: why the verdict is not ``pass``.
        precision: precision of the artifact and of the PyTorch run it is compared with.
        outputs: every output over every group of probes.
        dynamic: sizes that were run, by dynamic dimension.
        ranges: sizes that the verdict is claimed for, of dimensions that do not take every size.
        refused: sizes at which the model itself raises an error, by dynamic dimension.
        weights: how each weight of the model was found in the graph (see `deploy.parity.weights`).
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
    notes: tuple[str, ...] = ()
    digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        document = {**to_plain(self), "margin": self.margin, "envelope": ENVELOPE}
        return {key: _finite(value) for key, value in document.items()}

    @property
    def margin(self) -> float:
        """The smallest margin of the outputs that were judged; NaN without any."""
        return min((item.margin for item in self.outputs if item.verdict != "inconclusive"), default=math.nan)

    def worst(self) -> OutputParity | None:
        """Return the output with the smallest margin, of the group ``unit`` if there is one; None without outputs."""
        return min(self.outputs, key=lambda item: (item.group != "unit", item.margin), default=None)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def judge(
    output: str, group: str, accumulated: Accumulator, precision: str, *, unit: Accumulator | None = None
) -> OutputParity:
    """Judge one output over one group of probes.

    Noise alone never fails the group ``large``: far outside the range it was trained on, a gated network can amplify
    rounding by any factor (correct exports of EfficientNets: NSR of PyTorch's own run 7e-6, of ONNX Runtime 1.5).
    Constant inputs have no signal, so that of the same output over the group ``unit`` is used.
    """
    constant = group == "constant" and unit is not None
    signal = unit.signal if constant and unit is not None else accumulated.signal
    envelope = CONSTANT_ENVELOPE if constant else ENVELOPE
    baseline, candidate = accumulated.baseline, accumulated.candidate
    own = accumulated.ratio(baseline, signal), accumulated.worst_ratio(baseline, signal)
    given = accumulated.ratio(candidate, signal), accumulated.worst_ratio(candidate, signal)
    verdict, reason = _decide(accumulated, precision, signal, own, given, envelope, group != "large")
    return OutputParity(
        output=output,
        group=group,
        verdict=verdict,
        reason=reason,
        signal=signal,
        torch=max(own[0], FLOOR[precision]),
        candidate=given[0],
        torch_worst=max(own[1], FLOOR[precision]),
        candidate_worst=given[1],
        worst_at=candidate.worst_at,
        peak=candidate.peak,
        samples=accumulated.samples,
        envelope=envelope,
    )


def _decide(
    accumulated: Accumulator,
    precision: str,
    signal: float,
    torch: tuple[float, float],
    candidate: tuple[float, float],
    envelope: float,
    decisive: bool,
) -> tuple[Verdict, str]:
    if accumulated.faults:
        return "fail", accumulated.faults[0]
    if accumulated.unusable:
        return "inconclusive", accumulated.unusable[0]
    if not accumulated.samples:
        return _decide_integers(accumulated)
    if signal == 0.0:
        return "inconclusive", "the output does not depend on the input, so nothing can be compared"
    if torch[0] > CHAOTIC[precision]:
        return (
            "inconclusive",
            f"PyTorch's own run differs from float64 by {torch[0]:.1e} of the signal, so rounding decides the output",
        )
    for noise, rounding, scope in zip(candidate, torch, ("overall", "in the worst sample"), strict=True):
        allowed = max(rounding, FLOOR[precision])
        if noise > envelope * allowed:
            reason = f"noise is {noise:.1e} of the signal {scope}, in PyTorch's own run {allowed:.1e}"
            return ("fail", reason) if decisive else ("inconclusive", f"outside the trained range, {reason}")
    return "pass", ""


def _decide_integers(accumulated: Accumulator) -> tuple[Verdict, str]:
    wrong, own = accumulated.mismatched["candidate"], accumulated.mismatched["baseline"]
    if wrong == 0:
        return "pass", f"{accumulated.elements} integers are equal"
    if own:
        return "inconclusive", f"PyTorch's own run differs from float64 in {own} of {accumulated.elements} integers"
    return "fail", f"{wrong} of {accumulated.elements} integers differ"


def combine(judged: Sequence[OutputParity], faults: Sequence[str]) -> tuple[Verdict, tuple[str, ...]]:
    """Combine verdicts, and faults that belong to no single output, into one verdict with its reasons.

    Any failure fails. Otherwise the result is inconclusive if an output is so in the group ``unit``; in other groups
    it does not matter.
    """
    failed = [f"{item.output} ({item.group}): {item.reason}" for item in judged if item.verdict == "fail"]
    if faults or failed:
        return "fail", (*faults, *failed)
    blind = [item for item in judged if item.group in ("unit", "real") and item.verdict == "inconclusive"]
    if blind or not judged:
        return "inconclusive", tuple(f"{item.output}: {item.reason}" for item in blind) or ("nothing was compared",)
    return "pass", ()
