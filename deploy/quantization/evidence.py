"""Accuracy of a quantized graph: its outputs compared with the float graph's on the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.backend import ONNX, RunSettings
from deploy.core.errors import DataError
from deploy.core.isolated import IsolatedRunner
from deploy.core.plain import to_plain
from deploy.core.progress import Progress
from deploy.core.runner import Fetches
from deploy.evaluation.accuracy import Accuracy, AccuracyComparison
from deploy.evaluation.predictions import Predictions
from deploy.parity.fidelity import Fidelity, OutputFidelity
from deploy.quantization.data import CalibrationData, CalibrationSamples
from deploy.support import onnx_file
from deploy.support.runtime import Runtime, runtime_of, simulated

POOR_SQNR_DB = 10.0
"""SQNR below which an output is poor; a constant in place of the output has 0 dB."""

POOR_AGREEMENT = 0.9
"""Share of equal answers below which an output is poor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What was measured on one quantized graph; the accuracies and their comparison are None without labels."""

    outputs: tuple[OutputFidelity, ...]
    accuracy: Accuracy | None
    float_accuracy: Accuracy | None
    comparison: AccuracyComparison | None
    runtime: str

    @property
    def sqnr_db(self) -> float | None:
        """SQNR of the worst output in dB; None if every output is constant."""
        return min((item.sqnr_db for item in self.outputs if item.sqnr_db is not None), default=None)

    @property
    def worst_part_db(self) -> float:
        """SQNR of the worst channel of any output in dB; infinite if nothing varies."""
        return min((item.worst_part_db for item in self.outputs if item.worst_part_db is not None), default=math.inf)

    @property
    def drop(self) -> float | None:
        """Drop of top-1 accuracy in percentage points; None without labels."""
        return None if self.comparison is None else 0.0 - 100.0 * self.comparison.difference

    @property
    def finite(self) -> bool:
        """Whether every output value is finite."""
        return not any(item.not_finite for item in self.outputs)

    def weaknesses(self) -> list[str]:
        """Return one phrase for each way in which an output is too far from the float one to be of use."""
        found = []
        for item in self.outputs:
            if item.sqnr_db is not None and item.sqnr_db < POOR_SQNR_DB:
                found.append(f"{item.output}: SQNR is {format_sqnr(item.sqnr_db)}, below {POOR_SQNR_DB:g} dB")
            if item.agreement is not None and item.agreement < POOR_AGREEMENT:
                answers = f"{item.agreement:.1%} equal answers ({item.agreement_of})"
                found.append(f"{item.output}: {answers}, below {POOR_AGREEMENT:.0%}")
            if item.coarse:
                found.append(f"{item.output}: a handful of distinct values is left")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"runtime": self.runtime, **to_plain(self), "outputs": [item.to_dict() for item in self.outputs]}

    def parity(self, verdict: str, precision: str, data: CalibrationData, float_verdict: str) -> dict[str, Any]:
        """Return the ``parity`` entry of a manifest; ``float_verdict`` is the verdict of the float graph."""
        return {
            "verdict": verdict,
            "kind": precision,
            "reference": "the float graph it was made from",
            "reference_verdict": float_verdict,
            "samples": dict(data.evidence.summary),
            "apart": data.apart,
            **self.to_dict(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityBounds:
    """Bounds that a quantized graph must meet; None for no bound.

    Attributes:
        min_sqnr: lowest SQNR of the worst output, in dB.
        max_drop: largest drop of top-1 accuracy, in percentage points.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is a bound."""
        return self.min_sqnr is not None or self.max_drop is not None

    def violations(self, evidence: Evidence) -> list[str]:
        """Return one phrase for each bound that is not met, and one for values that are not finite."""
        reasons = []
        sqnr, drop = evidence.sqnr_db, evidence.drop
        if not evidence.finite:
            reasons.append("output values are not finite")
        if self.min_sqnr is not None and (sqnr is None or sqnr < self.min_sqnr):
            reasons.append(f"SQNR is {format_sqnr(sqnr)}; the minimum is {self.min_sqnr:g} dB")
        if self.max_drop is not None and (drop is None or drop > self.max_drop):
            measured = "is unknown without labels" if drop is None else f"dropped by {drop:.2f} points"
            reasons.append(f"top-1 accuracy {measured}; the maximum drop is {self.max_drop:g}")
        return reasons

    def shortfall(self, evidence: Evidence) -> float:
        """Return how far the evidence is from the bounds: missing dB plus missing points; infinite if not finite."""
        sqnr, drop = evidence.sqnr_db, evidence.drop
        if not evidence.finite:
            return math.inf
        missing = 0.0
        if self.min_sqnr is not None:
            missing += max(0.0, self.min_sqnr - (-math.inf if sqnr is None else sqnr))
        if self.max_drop is not None:
            missing += max(0.0, (math.inf if drop is None else drop) - self.max_drop)
        return missing


class Judge:
    """Compares quantized graphs with the float graph, which is run once, on the same samples.

    The caller closes ``runner``, a started ONNX Runtime worker. The target decides what runs the quantized graphs.
    """

    def __init__(
        self, runner: IsolatedRunner, source: Path, samples: CalibrationSamples, *, size: int, fixed: bool, target: str
    ) -> None:
        self._runner, self._samples, self._size, self._fixed = runner, samples, size, fixed
        self._target = target
        runner.open(source, **runner.backend.options(_settings(source)))
        self._float = list(self._run(runner, None))
        if not self._float:
            raise DataError(f"{source}: its batch size is {size}, and there are only {samples.count} samples.")

    def measure(self, path: Path, progress: Progress, runtime: Runtime | None = None) -> Evidence:
        """Run a quantized graph, or an engine built from one, and compare its outputs.

        ``runtime`` replaces what runs the target's graphs on this machine.
        """
        runtime = runtime or runtime_of(ONNX, self._target) or simulated()
        options = runtime.options(_settings(path))
        if runtime.backend == self._runner.backend:
            self._runner.open(path, **options)
            return self._compare(self._run(self._runner, progress), runtime.title)
        with IsolatedRunner(runtime.backend.name) as other:
            other.open(path, **options)
            return self._compare(self._run(other, progress), runtime.title)

    def _run(self, runner: IsolatedRunner, progress: Progress | None) -> Iterator[Fetches]:
        done = 0
        for batch in self._samples.batches(self._size, fixed=self._fixed):
            if done == 0 and not self._fixed:  # a runtime may fail at one size of the batch alone
                runner.run({name: values[:1] if values.ndim else values for name, values in batch.items()})
            yield runner.run(batch)
            done += len(next(iter(batch.values())))
            if progress is not None:
                progress.advance(done, self._samples.count)

    def _compare(self, outputs: Iterator[Fetches], runtime: str) -> Evidence:
        fidelity = Fidelity()
        quantized: list[Fetches] = []
        for expected, actual in zip(self._float, outputs, strict=True):
            fidelity.add(expected, actual)
            quantized.append(actual)
        reference, answers = self._answers(self._float), self._answers(quantized)
        return Evidence(
            outputs=fidelity.outputs(),
            accuracy=Accuracy.of(answers) if answers else None,
            float_accuracy=Accuracy.of(reference) if reference else None,
            comparison=AccuracyComparison.of(reference, answers) if reference and answers else None,
            runtime=runtime,
        )

    def _answers(self, outputs: list[Fetches]) -> Predictions | None:
        """Return the classifications by the first output; None if it is not logits or there are no labels."""
        labels = self._samples.labels
        name = next(iter(outputs[0]), "") if outputs else ""
        if labels is None or not name or outputs[0][name].ndim != 2:
            return None
        logits = np.concatenate([item[name] for item in outputs])
        labels = labels[: len(logits)]
        return Predictions.from_logits(logits, labels) if labels.max() < logits.shape[1] else None


def _settings(path: Path) -> RunSettings:
    return RunSettings(low_memory=onnx_file.is_large(path), shared_cores=True)


def format_sqnr(value: float | None) -> str:
    """Return an SQNR in dB as text; None means that every output is constant."""
    return "undefined (constant outputs)" if value is None else "infinite" if value == math.inf else f"{value:.1f} dB"
