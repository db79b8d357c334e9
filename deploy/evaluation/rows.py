"""The result of an evaluation: one row for each runner of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.core.brief import brief
from deploy.core.plain import to_plain
from deploy.evaluation.accuracy import Accuracy, AccuracyComparison
from deploy.evaluation.score import Score, ScoreComparison
from deploy.tasks.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyRow:
    """Accuracy of one runner of a model.

    Attributes:
        task: see `deploy.tasks.task`.
        digest: SHA-256 of the file; for PyTorch, the identity of the weights.
        file: the artifact; None for PyTorch with weights that are not an artifact.
        comparison: comparison with PyTorch; None for PyTorch itself, or if ``note`` gives a reason.
        verdict: ``reference``, ``pass``, ``fail`` or ``inconclusive``; ``unproven`` if the file's model is not known.
        samples: SHA-256 of the prepared images that the model was fed.
    """

    model: str
    slug: str
    digest: str | tuple[Any, ...]
    file: Path | None
    runtime: str
    precision: str
    target: str | None
    accuracy: Accuracy | Score
    comparison: AccuracyComparison | ScoreComparison | None
    verdict: str
    note: str = ""
    samples: str = ""
    task: Task = "classification"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values: dict[str, Any] = to_plain({**fields, "accuracy": self.accuracy.to_dict()})
        del values["slug"]
        return values


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class EvaluationReport:
    """The result of `evaluate_models`.

    Attributes:
        rows: for each model PyTorch first, then its artifacts.
        max_drop: allowed loss of top-1 accuracy, mAP or mIoU, in percentage points.
    """

    data: Mapping[str, Any]
    rows: tuple[AccuracyRow, ...]
    max_drop: float
    seconds: float

    def __repr__(self) -> str:
        return brief(self, self.verdict, f"{len(self.rows)} rows", f"on {self.data['name']}")

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive", "unproven"]:
        """``fail`` if a row failed, else ``inconclusive`` if a row could not be compared, else ``pass``.

        ``unproven`` if nothing failed and the model of a file is not known.
        """
        verdicts = {row.verdict for row in self.rows}
        words: tuple[Literal["fail", "inconclusive", "unproven"], ...] = ("fail", "inconclusive", "unproven")
        return next((word for word in words if word in verdicts), "pass")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "verdict": self.verdict,
            "data": dict(self.data),
            "max_drop": self.max_drop,
            "rows": [row.to_dict() for row in self.rows],
            "seconds": round(self.seconds, 3),
        }
