"""``deploy convert``: put an ONNX file in half precision, and check the result against the file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.core.artifact import Artifact
from deploy.core.brief import brief, margin_text
from deploy.core.errors import UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.names import REJECTED
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.exporting.half_options import half_options
from deploy.exporting.halve import halve, held
from deploy.exporting.prove import ProofOptions, prove
from deploy.models.onnx_model import build_graph
from deploy.models.request import ModelRequest
from deploy.parity.probes import Level, check_level
from deploy.parity.verdict import ParityReport, Verdict
from deploy.precision.plan import PrecisionPlan, payloads
from deploy.quantization.source import open_source

if TYPE_CHECKING:
    from deploy.exporting.samples import ProbeSamples


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class HalfReport:
    """The result of `convert_precision`.

    Attributes:
        source: the float32 file.
        artifact: the file in half precision and its manifest; in the folder ``rejected`` if the parity check failed.
        plan: which nodes stay in float32, and why.
        parity: the parity check against the source, evaluated in float64.
        notes: what the search could not do.
        seconds: duration of the call.
    """

    source: Path
    artifact: Artifact
    plan: PrecisionPlan
    parity: ParityReport
    notes: tuple[str, ...]
    seconds: float

    def __repr__(self) -> str:
        return brief(self, self.verdict, self.artifact.path, margin_text(self.parity.margin))

    @property
    def verdict(self) -> Verdict:
        """Verdict of the parity check: ``pass``, ``fail`` or ``inconclusive``."""
        return self.parity.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "source": str(self.source),
            **self.artifact.facts(),
            "plan": self.plan.to_dict(),
            "parity": self.parity.to_dict(),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def convert_precision(
    file: Path | str | Artifact,
    precision: Literal["fp16", "bf16", "mixed"] = "fp16",
    *,
    min_sqnr: float | None = None,
    keep_float: Sequence[str] = (),
    only_half: Sequence[str] = (),
    plan: str | Path | None = None,
    name: str | None = None,
    artifacts: str | Path | None = None,
    samples: ProbeSamples | None = None,
    probes: Level = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    progress: Progress = SILENT,
) -> HalfReport:
    """Write a float32 ONNX file in half precision, and check it against the file, evaluated in float64.

    Args:
        file: the file, or a model whose newest float32 export is taken; it stays as it is.
        precision: as `deploy.export_model` takes it.
        min_sqnr: signal over noise in dB that half precision is held to; for this and the next three see
            `deploy.exporting.half_options.HalfOptions`.
        keep_float: patterns of nodes that stay in float32.
        only_half: patterns of nodes that do not.
        plan: a plan to use in place of a search.
        name: name of the folder and files; default: those of the file.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        samples: real samples, probed in addition, see `deploy.export_model`.
        probes: how many probes are run, see `deploy.export_model`.
        min_coverage: coverage in percent below which the verdict is inconclusive.
        accept_unreached: accept branches of the graph that no probe took.
        progress: receives progress messages.

    Returns:
        The report; a verdict other than ``pass`` raises no error.

    Raises:
        UsageError: an option that does not fit the precision or the graph.
        ArtifactError: the file does not exist, is damaged, or is not a float32 file.
        ModelError: an operator cannot be evaluated in PyTorch, so the file has no reference.
        DeployError: any other error of `deploy.core.errors`.
    """
    began = time.perf_counter()
    half = half_options(precision, min_sqnr, keep_float, only_half, plan)
    if half is None:
        raise UsageError(f"precision {precision!r} is not one of fp16, bf16, mixed.")
    check_level(probes, samples is not None)
    store = Store.at(artifacts)
    source = open_source(str(file.path if isinstance(file, Artifact) else file), store, (), progress, name=name)
    with IsolatedRunner("onnxruntime") as candidate:
        with progress.stage("building the model"):
            model = build_graph(ModelRequest(name=str(source.path)))
            known = {name: size for name, size in source.traced_sizes.items() if name in model.sizes}
            model = model.replace(sizes={**model.sizes, **known})
        with store.transaction(source.slug) as transaction:
            path = transaction.path(f"{source.slug}.{half.precision}.onnx")

            def attempt(safety: float) -> tuple[PrecisionPlan, tuple[str, ...]]:
                with progress.stage(f"searching for a plan ({half.precision})"):
                    return halve(source.path, path, model, model.inputs, half, safety=safety, progress=progress)

            def check() -> ParityReport:
                with progress.stage("checking parity"):
                    return prove(
                        model,
                        path,
                        candidate,
                        precision=half.precision,
                        seed=0,
                        samples=samples,
                        negated=source.manifest is None,
                        ranges=[item for spec in source.inputs for item in spec.ranges],
                        options=ProofOptions(
                            probes=probes,
                            min_coverage=min_coverage,
                            accept_unreached=accept_unreached,
                            min_sqnr=half.min_sqnr,
                        ),
                        progress=progress,
                    )

            found, notes, parity = held(attempt, check)
            manifest = source.derived_manifest(
                format="onnx",
                precision=half.precision,
                files=payloads(path, found),
                options=half.recorded(found),
                parity=parity.to_dict(),
            )
            artifact = transaction.publish(manifest, REJECTED if parity.verdict == "fail" else "")
    return HalfReport(
        source=source.path,
        artifact=artifact,
        plan=found,
        parity=parity,
        notes=notes,
        seconds=time.perf_counter() - began,
    )
