"""Exports modules of a source text and judges the files against the modules in float64, apart from deploy's check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from deploy import ExportReport, ModelRequest, export_model

Call = Callable[[Any, Mapping[str, torch.Tensor]], Any]
BATCH = 5


def export(folder: Path, source: str, name: str, inputs: tuple[str, ...], **options: Any) -> ExportReport:
    """Export ``name`` of a source text."""
    path = folder / "nets.py"
    path.write_text(source)
    request = ModelRequest(name=f"{path}:{name}", inputs=inputs)
    return export_model(request, artifacts=folder / "artifacts", **options)


def feeds(report: ExportReport) -> dict[str, np.ndarray[Any, Any]]:
    """Return random inputs of a file at a batch size with which it was not exported."""
    generator = np.random.default_rng(11)
    shapes = {
        spec.name: [BATCH if isinstance(dim, str) else dim for dim in spec.shape]
        for spec in report.artifact.manifest.inputs
    }
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def run(report: ExportReport, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run a file; the outputs by name."""
    session = ort.InferenceSession(str(report.artifact.path), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == list(values)
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(values)), strict=True))


def judge(report: ExportReport, module: torch.nn.Module, call: Call, tolerance: float = 1e-5) -> dict[str, Any]:
    """Compare a file with the list of tensors or numbers that ``call`` returns in float64; return the outputs."""
    values = feeds(report)
    outputs = run(report, values)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value).double() for name, value in values.items()}
        module.eval()
        expected = call(module.double(), tensors)
    assert len(outputs) == len(expected)
    for (name, actual), value in zip(outputs.items(), expected, strict=True):
        wanted = np.asarray(value, dtype=np.float64)
        assert actual.shape == wanted.shape, name
        assert np.abs(actual - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max()), name
    return outputs
