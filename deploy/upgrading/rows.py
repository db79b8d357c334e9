"""What is known of one file before and after an upgrade, and what counts as a regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bench.sequential import Guard, Verdict
from deploy.bench.statistics import Interval, plain_interval
from deploy.core.artifact import Artifact

GOOD = ("pass", "measured", "unproven", "built")
"""Verdicts with which a file is of use."""

LOST_DB = 1.0
"""Loss of the SQNR of INT8, in dB, that is a regression."""

LOST_POINTS = 0.5
"""Loss of top-1 accuracy, mAP or mIoU of INT8 on the same samples, in points, that is a regression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """A file in one environment.

    Attributes:
        verdict: of its parity check, or ``error`` if it could not be made or run.
        reasons: why the verdict is not a pass.
        digest: SHA-256 of the file; empty if there is none.
        sqnr_db: of INT8 or FP8 against the float file, the worst output; else None.
        accuracy: top-1, mAP or mIoU of INT8 or FP8, a share; else None.
        samples: digest of the samples of the two.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    digest: str = ""
    sqnr_db: float | None = None
    accuracy: float | None = None
    samples: str = ""

    @classmethod
    def of(cls, artifact: Artifact) -> FileState:
        """Return what the manifest of a file says."""
        manifest, proof = artifact.manifest, artifact.manifest.parity or {}
        ratios = [item["sqnr_db"] for item in proof.get("outputs", ()) if item.get("sqnr_db") is not None]
        accuracy = proof.get("accuracy") or {}
        return cls(
            verdict=str(proof.get("verdict", "built")),
            reasons=tuple(map(str, proof.get("reasons", ()))),
            digest=manifest.files[0].sha256,
            sqnr_db=min(map(float, ratios), default=None),
            accuracy=accuracy.get("top1", accuracy.get("value")),
            samples=str((proof.get("samples") or {}).get("digest", "")) if accuracy else "",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UpgradedFile:
    """A file before and after.

    Attributes:
        path: the file that is there.
        backend: what runs it; empty for an engine, which is only built.
        after: None if it cannot be made again; ``note`` has the reason.
        ratio: latency after over before, with an interval that stays valid under early stopping; None: not timed.
        speed: verdict on the latency after.
        guard: whether it is slower by more than allowed.
        note: why something is missing.
    """

    path: Path
    model: str
    precision: str
    backend: str
    before: FileState
    after: FileState | None
    ratio: Interval | None = None
    speed: Verdict | None = None
    guard: Guard | None = None
    note: str = ""

    @property
    def regressions(self) -> tuple[str, ...]:
        """What is worse after the upgrade."""
        before, after = self.before, self.after
        if after is None:
            return ()
        found = []
        if before.verdict in GOOD and after.verdict not in GOOD:
            found.append(f"{before.verdict}, then {after.verdict}: {'; '.join(after.reasons[:2])}".rstrip(": "))
        if before.sqnr_db is not None and after.sqnr_db is not None and after.sqnr_db < before.sqnr_db - LOST_DB:
            found.append(f"SQNR {before.sqnr_db:.1f} dB, then {after.sqnr_db:.1f} dB")
        known = before.accuracy is not None and after.accuracy is not None and before.samples == after.samples
        if known and 100 * (before.accuracy - after.accuracy) > LOST_POINTS:  # type: ignore[operator]
            found.append(f"accuracy {before.accuracy:.2%}, then {after.accuracy:.2%}")
        if self.guard == "fail" and self.ratio is not None:
            found.append(f"{self.ratio.value - 1:.1%} slower")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""

        def plain(state: FileState | None) -> Mapping[str, Any] | None:
            if state is None:
                return None
            names = ("verdict", "reasons", "digest", "sqnr_db", "accuracy", "samples")
            return {name: getattr(state, name) for name in names}

        return {
            "file": str(self.path),
            "model": self.model,
            "precision": self.precision,
            "backend": self.backend,
            "before": plain(self.before),
            "after": plain(self.after),
            "ratio": None if self.ratio is None else plain_interval(self.ratio),
            "speed": self.speed,
            "guard": self.guard,
            "note": self.note,
            "regressions": list(self.regressions),
        }
