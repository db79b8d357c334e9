"""ONNX Runtime on a copy of a graph that reports which sides of its choices a run takes."""

from __future__ import annotations

from pathlib import Path

from deploy.backends.onnxruntime.runner import OnnxRuntimeOptions, OnnxRuntimeRunner
from deploy.support import onnx_file
from deploy.support.onnx_decisions import watched


def open(path: Path, *, low_memory: bool = False) -> OnnxRuntimeRunner:
    """Open the copy of an ONNX file that has the output `deploy.support.onnx_decisions.RANGES`."""
    graph, _ = watched(onnx_file.load(path))
    return OnnxRuntimeRunner(path, OnnxRuntimeOptions(spinning=False, low_memory=low_memory), graph)
