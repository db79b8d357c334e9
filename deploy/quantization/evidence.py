"""What a quantized graph keeps: its outputs compared with the float graph's on the same samples."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.graph import heads
from deploy.core.backend import ONNX, RunSettings
from deploy.core.cpu import unfit
from deploy.core.errors import BackendError, DataError
from deploy.core.isolated import IsolatedRunner
from deploy.core.plain import to_plain
from deploy.core.progress import Progress
from deploy.core.runner import Fetches
from deploy.evaluation.accuracy import Accuracy, AccuracyComparison
from deploy.evaluation.predictions import Predictions
from deploy.evaluation.score import Score, ScoreComparison
from deploy.parity.fidelity import Fidelity, OutputFidelity
from deploy.quantization.data import CalibrationData, CalibrationSamples
from deploy.quantization.pictures import score_of
from deploy.quantization.source import Source
from deploy.support import onnx_file
from deploy.support.runtime import Runtime, runtime_of, simulated

POOR_SQNR_DB = 10.0
"""SQNR below which an output is poor; a constant in place of the output has 0 dB."""

POOR_AGREEMENT = 0.9
"""Share of equal answers below which an output is poor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What was measured on one quantized graph.

    Attributes:
        accuracy, float_accuracy: by labels; the score by boxes or masks; None without any of them.
        comparison: of the two, on the same samples.
        runtime: what ran the quantized graph.
    """

    outputs: tuple[OutputFidelity, ...]
    accuracy: Accuracy | Score | None
    float_accuracy: Accuracy | Score | None
    comparison: AccuracyComparison | ScoreComparison | None
    runtime: str

    @property
    def metric(self) -> str:
        """What `drop` is a drop of."""
        return self.accuracy.metric if isinstance(self.accuracy, Score) else "top-1"

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
        """Drop of top-1 accuracy, mAP or mIoU in percentage points; None without labels, boxes and masks."""
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
        return {
            "runtime": self.runtime,
            "outputs": [item.to_dict() for item in self.outputs],
            "accuracy": self.accuracy.to_dict() if self.accuracy else None,
            "float_accuracy": self.float_accuracy.to_dict() if self.float_accuracy else None,
            "comparison": to_plain(self.comparison),
        }

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
        max_drop: largest drop of top-1 accuracy, mAP or mIoU, in percentage points.
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
            name = "top-1 accuracy" if evidence.metric == "top-1" else evidence.metric
            measured = "is unknown" if drop is None else f"dropped by {drop:.2f} points"
            reasons.append(f"{name} {measured}; the maximum drop is {self.max_drop:g}")
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

    Where a graph chooses detections, they are scored, and what is compared value by value is what they are chosen from
    (see `calibration.graph.heads`). Outputs are compared where that cannot be shown: of engines, and of files that are
    opened with one copy of their weights (`onnx_file.is_large`).

    The caller closes ``runner``, a started ONNX Runtime worker. The target decides what runs the quantized graphs;
    those for a ``cpu`` whose sums this one cannot hold are simulated.
    """

    def __init__(
        self,
        runner: IsolatedRunner,
        source: Source,
        samples: CalibrationSamples,
        *,
        size: int,
        fixed: bool,
        target: str,
        cpu: str | None = None,
    ) -> None:
        self._runner, self._source, self._samples = runner, source, samples
        self._size, self._fixed, self._target, self._cpu = size, fixed, target, cpu
        self._heads = () if onnx_file.is_large(source.path) else tuple(heads(onnx_file.load(source.path)))
        with self._shown(source.path) as path:
            runner.open(path, **runner.backend.options(_settings(path)))
        self._float = list(self._run(runner, None))
        if not self._float:
            raise DataError(f"{source.path}: its batch size is {size}, and there are only {samples.count} samples.")

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of the values that are compared in place of the outputs; empty where outputs are compared."""
        return self._heads

    @property
    def sample_bytes(self) -> int:
        """Memory that the outputs of one sample take."""
        first = self._float[0].values()
        return sum(value.nbytes for value in first) // min(self._size, self._samples.count)

    @functools.cached_property
    def quality(self) -> Predictions | Score | None:
        """Predictions or score of the float graph; None if the samples have no labels, boxes or masks."""
        return self._quality(self._float)

    def measure(self, path: Path, progress: Progress, runtime: Runtime | None = None) -> Evidence:
        """Run a quantized graph, or an engine built from one, and compare its outputs.

        ``runtime`` replaces what runs the target's graphs on this machine.
        """
        runtime = runtime or (None if unfit(self._cpu) else runtime_of(ONNX, self._target)) or simulated()
        if runtime.backend == self._runner.backend:
            return self._measure(self._runner, path, progress, runtime)
        with IsolatedRunner(runtime.backend.name) as other:
            return self._measure(other, path, progress, runtime)

    def _measure(self, runner: IsolatedRunner, path: Path, progress: Progress, runtime: Runtime) -> Evidence:
        options = runtime.options(_settings(path))
        with self._shown(path) as shown:
            if shown != path:  # what is published has run itself
                runner.open(path, **options)
                next(self._run(runner, None))
            runner.open(shown, **options)
            return self._compare(self._run(runner, progress), runtime.title)

    @contextmanager
    def _shown(self, path: Path) -> Iterator[Path]:
        """Yield a copy of an ONNX file with the values that are compared as further outputs, or the file itself."""
        if not self._heads or path.suffix != ".onnx":
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="deploy-heads-") as folder:
            graph = onnx.load(path)
            known = {value.name for value in graph.graph.output}
            made = {name for node in graph.graph.node for name in node.output}
            graph.graph.output.extend(
                onnx.ValueInfoProto(name=name)  # the runtime finds the type, which may be half precision
                for name in self._heads
                if name in made - known
            )
            copy = Path(folder) / path.name
            onnx.save(graph, copy)
            try:
                yield copy
            except BackendError as exc:
                exc.message = exc.message.replace(str(copy), str(path))
                exc.args = (exc.message,)
                raise

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
            shown = self._heads and actual.keys() >= set(self._heads)  # an engine shows its outputs only
            names = self._heads if shown else [name for name in expected if name in actual]
            fidelity.add({name: expected[name] for name in names}, actual)
            quantized.append(actual)
        reference, quality = self.quality, self._quality(quantized)
        comparison: AccuracyComparison | ScoreComparison | None = None
        if isinstance(reference, Score) and isinstance(quality, Score):
            comparison = ScoreComparison.of(reference, quality)
        elif isinstance(reference, Predictions) and isinstance(quality, Predictions):
            comparison = AccuracyComparison.of(reference, quality)
        return Evidence(
            outputs=fidelity.outputs(),
            accuracy=_accuracy(quality),
            float_accuracy=_accuracy(reference),
            comparison=comparison,
            runtime=runtime,
        )

    def _quality(self, outputs: list[Fetches]) -> Predictions | Score | None:
        """Return the score by boxes or masks, or the classifications by the first output; None if it has no logits."""
        if self._samples.pictures is not None:
            return score_of(self._source, self._samples.pictures, outputs, self._size)
        labels = self._samples.labels
        name = next(iter(outputs[0]), "") if outputs else ""
        if labels is None or not name or outputs[0][name].ndim != 2:
            return None
        logits = np.concatenate([item[name] for item in outputs])
        labels = labels[: len(logits)]
        return Predictions.from_logits(logits, labels) if labels.max() < logits.shape[1] else None


def _accuracy(quality: Predictions | Score | None) -> Accuracy | Score | None:
    return Accuracy.of(quality) if isinstance(quality, Predictions) else quality


def _settings(path: Path) -> RunSettings:
    return RunSettings(low_memory=onnx_file.is_large(path), shared_cores=True)


def format_sqnr(value: float | None) -> str:
    """Return an SQNR in dB as text; None means that every output is constant."""
    return "undefined (constant outputs)" if value is None else "infinite" if value == math.inf else f"{value:.1f} dB"
