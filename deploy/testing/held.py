"""Write a committed export: an ONNX file at a path of the user's choice, with its manifest beside it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.core.artifact import Artifact
    from deploy.exporting.export import Precision, Strategy
    from deploy.models.in_memory import ExampleInputs, ModelLike


def write_export(
    path: str | Path,
    model: ModelLike,
    example_inputs: ExampleInputs | None = None,
    *,
    dynamic: Sequence[str] | Mapping[str, Mapping[int, str]] | None = None,
    opset: int | None = None,
    precision: Precision = "fp32",
    strategy: Strategy = "auto",
) -> Artifact:
    """Export a model, and write the file to a path if it passes the parity check.

    External data keeps the name that the ONNX file contains for it.

    Args:
        path: the ONNX file; the manifest is written beside it, with ``.json`` appended.
        model: see `deploy.export`, also for the other arguments.
        example_inputs: of a module in memory.
        dynamic: dynamic dimensions.
        opset: ONNX operator set.
        precision: ``fp32`` or ``fp16``.
        strategy: ``auto``, ``export`` or ``trace``.

    Raises:
        AssertionError: the verdict is not ``pass``; nothing was written.
        DeployError: the model cannot be exported, or the file cannot be written.
    """
    from deploy.core.artifact import Artifact, manifest_path
    from deploy.core.progress import SILENT
    from deploy.core.store import write_file
    from deploy.exporting.export import export
    from deploy.testing.equal import verdict_text

    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="deploy-export-") as scratch:
        report = export(
            model,
            example_inputs,
            dynamic=dynamic,
            artifacts=Path(scratch),
            opset=opset,
            precision=precision,
            strategy=strategy,
            progress=SILENT,
        )
        if report.verdict != "pass":
            raise AssertionError(verdict_text(f"{path} is not written", report.verdict, report.parity.reasons))
        made = report.artifact
        first, *others = made.manifest.files
        manifest = dataclasses.replace(made.manifest, files=(dataclasses.replace(first, file=path.name), *others))
        names = [(path.name, first.file), *((item.file, item.file) for item in others)]
        for name, source in reversed(names):  # the ONNX file after its data, the manifest last
            write_file(path.with_name(name), made.path.with_name(source).read_bytes())
        write_file(manifest_path(path), manifest.to_json().encode())
    return Artifact(path=path, manifest=manifest)
