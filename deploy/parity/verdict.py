"""From signal and noise to a verdict: pass, fail, or inconclusive, each with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.parity.metric import Accumulator

Verdict = Literal["pass", "fail", "inconclusive"]

ENVELOPE = 4.0
"""K: how many times PyTorch's own rounding a candidate may commit."""

CONSTANT_ENVELOPE = 32.0
"""K for inputs that are the same everywhere: every position then commits the same rounding error, which sums over
positions do not average out, so two right implementations differ by more (7.5 times on regnet_y_128gf at 384²)."""

FLOOR = {"fp32": 2.0**-24, "fp16": 2.0**-11}
"""Half a unit in the last place: less noise than this cannot be asked of the precision."""

CHAOTIC = {"fp32": 1e-2, "fp16": 1e-1}
"""Where PyTorch's own run is this far from float64, no comparison could tell anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputParity:
    """One output over one group of probes; ratios are noise over signal (NSR), without unit.

    Attributes:
        torch, candidate: NSR of PyTorch's own run in this precision, and of the artifact.
        torch_worst, candidate_worst: the same of the worst sample.
        peak: largest absolute difference of the artifact from float64, in the output's own unit.
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
        """How many times the noise (overall, or the worst sample's) could grow before the verdict turned."""
        pairs = ((self.torch, self.candidate), (self.torch_worst, self.candidate_worst))
        return min(self.envelope * own / found if found > 0 else math.inf for own, found in pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """The verdict on an artifact, with everything it rests on.

    Attributes:
        precision: what the artifact computes in; the baseline is PyTorch's run in the same.
        dynamic: each dynamic dimension with the sizes that were run.
        weights: how every weight of the model was found in the graph (see `deploy.parity.weights`).
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    precision: str
    outputs: tuple[OutputParity, ...]
    dynamic: Mapping[str, tuple[int, ...]]
    probes: int
    samples: int
    seed: int
    weights: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a ratio that is infinite is None."""
        return {
            **{key: _plain(value) for key, value in dataclasses.asdict(self).items()},
            "margin": _plain(self.margin),
            "envelope": ENVELOPE,
        }

    @property
    def margin(self) -> float:
        """The smallest margin of any output that was judged."""
        return min((item.margin for item in self.outputs if item.verdict != "inconclusive"), default=math.nan)

    def worst(self) -> OutputParity | None:
        """The output with the smallest margin."""
        return min(self.outputs, key=lambda item: (item.group != "unit", item.margin), default=None)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def judge(
    output: str, group: str, found: Accumulator, precision: str, *, unit: Accumulator | None = None
) -> OutputParity:
    """The verdict on one output over one group of probes.

    Noise alone never fails the group ``large``: far outside the range a network is trained on, gated networks amplify
    rounding by any factor (right exports of EfficientNets: PyTorch's own noise 7e-6, ONNX Runtime's 1.5).

    Args:
        output: its name.
        group: of the probes.
        found: what the probes showed.
        precision: ``fp32`` or ``fp16``.
        unit: the group ``unit`` of the same output: constant inputs have no signal of their own and take its.
    """
    constant = group == "constant" and unit is not None
    signal = unit.signal if constant and unit is not None else found.signal
    envelope = CONSTANT_ENVELOPE if constant else ENVELOPE
    own = found.ratio(found.baseline, signal), found.worst_ratio(found.baseline, signal)
    given = found.ratio(found.candidate, signal), found.worst_ratio(found.candidate, signal)
    verdict, reason = _decide(found, precision, signal, own, given, envelope, group != "large")
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
        worst_at=found.candidate.worst_at,
        peak=found.candidate.peak,
        samples=found.samples,
        envelope=envelope,
    )


def _decide(
    found: Accumulator,
    precision: str,
    signal: float,
    torch: tuple[float, float],
    candidate: tuple[float, float],
    envelope: float,
    decisive: bool,
) -> tuple[Verdict, str]:
    if found.faults:
        return "fail", found.faults[0]
    if found.unusable:
        return "inconclusive", found.unusable[0]
    if not found.samples:
        wrong, own = found.mismatched["candidate"], found.mismatched["baseline"]
        if wrong == 0:
            return "pass", f"{found.elements} integers equal"
        if own:
            return (
                "inconclusive",
                f"PyTorch's own run differs from float64 in {own} of {found.elements} integers",
            )
        return "fail", f"{wrong} of {found.elements} integers differ"
    if signal == 0.0:
        return "inconclusive", "the output does not depend on the input: no comparison could tell"
    if torch[0] > CHAOTIC[precision]:
        return (
            "inconclusive",
            f"PyTorch's own run is {torch[0]:.1e} of the signal away from float64: rounding decides",
        )
    floor = FLOOR[precision]
    for value, rounding, what in zip(candidate, torch, ("overall", "in the worst sample"), strict=True):
        allowed = max(rounding, floor)
        if value > envelope * allowed:
            reason = f"noise is {value:.1e} of the signal {what}, PyTorch's own is {allowed:.1e}"
            return ("fail", reason) if decisive else ("inconclusive", f"beyond the trained range, {reason}")
    return "pass", ""


def combine(judged: Sequence[OutputParity], faults: Sequence[str]) -> tuple[Verdict, tuple[str, ...]]:
    """One verdict of many: any failure fails; a group of probes that tells nothing matters only where all do."""
    failed = [f"{item.output} ({item.group}): {item.reason}" for item in judged if item.verdict == "fail"]
    if faults or failed:
        return "fail", (*faults, *failed)
    blind = [item for item in judged if item.group == "unit" and item.verdict == "inconclusive"]
    if blind or not judged:
        return "inconclusive", tuple(f"{item.output}: {item.reason}" for item in blind) or ("nothing was compared",)
    return "pass", ()
