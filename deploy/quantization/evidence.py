"""What eight bits cost: the quantized graph beside the float graph on the same samples."""

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
from deploy.core.progress import Progress
from deploy.core.runner import Fetches
from deploy.evaluation.accuracy import Accuracy, AccuracyComparison
from deploy.evaluation.predictions import Predictions
from deploy.parity.fidelity import Fidelity, OutputFidelity
from deploy.quantization.data import CalibrationSamples
from deploy.support.runtime import Runtime, runtime_of, simulated


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What was measured on one quantized graph.

    Attributes:
        outputs: each float output's fidelity.
        accuracy: of the quantized graph, where there are labels; ``comparison`` with the float graph's answers.
        float_accuracy: of the float graph.
        runtime: what ran the quantized graph, in words.
    """

    outputs: tuple[OutputFidelity, ...]
    accuracy: Accuracy | None
    float_accuracy: Accuracy | None
    comparison: AccuracyComparison | None
    runtime: str

    @property
    def sqnr_db(self) -> float | None:
        """Of the worst output; None where no output varies."""
        told = [item.sqnr_db for item in self.outputs if item.sqnr_db is not None]
        return min(told, default=None)

    @property
    def drop(self) -> float | None:
        """Points of top-1 lost; None without labels."""
        return None if self.comparison is None else 0.0 - 100.0 * self.comparison.difference

    @property
    def finite(self) -> bool:
        """Whether every value was."""
        return not any(item.not_finite for item in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "runtime": self.runtime,
            "outputs": [item.to_dict() for item in self.outputs],
            "accuracy": self.accuracy.to_dict() if self.accuracy else None,
            "float_accuracy": self.float_accuracy.to_dict() if self.float_accuracy else None,
            "comparison": self.comparison.to_dict() if self.comparison else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityBounds:
    """What a quantized graph must hold, where somebody said so.

    Attributes:
        min_sqnr: of the worst output, in dB.
        max_drop: points of top-1.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.min_sqnr is not None or self.max_drop is not None

    def hold(self, evidence: Evidence) -> bool:
        """Whether they hold."""
        return not self.broken(evidence)

    def broken(self, evidence: Evidence) -> list[str]:
        """What does not hold, in words."""
        found = []
        sqnr, drop = evidence.sqnr_db, evidence.drop
        if not evidence.finite:
            found.append("values are not finite")
        if self.min_sqnr is not None and (sqnr is None or sqnr < self.min_sqnr):
            told = "no output varies" if sqnr is None else f"SQNR {sqnr:.1f} dB"
            found.append(f"{told}; at least {self.min_sqnr:g} dB were asked for")
        if self.max_drop is not None and (drop is None or drop > self.max_drop):
            told = "there are no labels" if drop is None else f"{drop:.2f} points of top-1 are lost"
            found.append(f"{told}; at most {self.max_drop:g} may be")
        return found


class Judge:
    """Runs the float graph once, and quantized graphs after it, on the same samples.

    Args:
        runner: a started worker of ONNX Runtime; the caller closes it.
        source: the float graph's file.
        samples: to judge on.
        size: samples in a batch.
        whole: the graphs' batch is fixed to that size.
        target: what the quantized graphs are for; decides what runs them.

    Raises:
        DataError: fewer samples than one fixed batch.
        BackendError: the float graph cannot be run.
    """

    def __init__(
        self, runner: IsolatedRunner, source: Path, samples: CalibrationSamples, *, size: int, whole: bool, target: str
    ) -> None:
        self._runner, self._samples, self._size, self._whole = runner, samples, size, whole
        self._target = target
        runner.open(source, **runner.backend.options(RunSettings(shared_cores=True)))
        self._float = list(self._run(runner, None))
        if not self._float:
            raise DataError(f"{samples.count} samples are fewer than the batch of {size} that {source} fixes.")

    def _run(self, runner: IsolatedRunner, progress: Progress | None) -> Iterator[Fetches]:
        done = 0
        for batch in self._samples.batches(self._size, whole=self._whole):
            yield runner.run(batch)
            done += len(next(iter(batch.values())))
            if progress is not None:
                progress.advance(done, self._samples.count)

    def measure(self, path: Path, progress: Progress, runtime: Runtime | None = None) -> Evidence:
        """Run a quantized graph, or an engine made of one.

        Args:
            path: the file.
            progress: told how far it is.
            runtime: what runs it; None for what the target's graphs run with here.

        Raises:
            BackendError: the runtime refuses it.
        """
        runtime = runtime or runtime_of(ONNX, self._target) or simulated()
        options = runtime.options(RunSettings(shared_cores=True))
        if runtime.backend == self._runner.backend:
            self._runner.open(path, **options)
            return self._compare(self._run(self._runner, progress), runtime.title)
        with IsolatedRunner(runtime.backend.name) as other:
            other.open(path, **options)
            return self._compare(self._run(other, progress), runtime.title)

    def _compare(self, found: Iterator[Fetches], words: str) -> Evidence:
        fidelity = Fidelity()
        answers: list[Fetches] = []
        for expected, given in zip(self._float, found, strict=True):
            fidelity.add(expected, given)
            answers.append(given)
        ours, theirs = self._answers(self._float), self._answers(answers)
        return Evidence(
            outputs=fidelity.outputs(),
            accuracy=Accuracy.of(theirs) if theirs else None,
            float_accuracy=Accuracy.of(ours) if ours else None,
            comparison=AccuracyComparison.of(ours, theirs) if ours and theirs else None,
            runtime=words,
        )

    def _answers(self, outputs: list[Fetches]) -> Predictions | None:
        labels = self._samples.labels
        name = next(iter(outputs[0]), "") if outputs else ""
        if labels is None or not name or outputs[0][name].ndim != 2:
            return None
        logits = np.concatenate([item[name] for item in outputs])
        labels = labels[: len(logits)]
        return Predictions.from_logits(logits, labels) if labels.max() < logits.shape[1] else None


def decibels(value: float | None) -> str:
    """A level for people."""
    return "nothing varies" if value is None else "identical" if value == math.inf else f"{value:.1f} dB"
