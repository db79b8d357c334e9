"""ONNX to ORT, the format that ONNX Runtime reads without its ONNX parser: for phones and for minimal builds."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

SUFFIX = ".ort"
"""Ending of what it writes: ``resnet18.fp32.ort``."""

BACKEND = "onnxruntime"
"""What runs such a file: with it the file is held against the model before it is published."""


def convert(source: Path, path: Path) -> None:
    """Write ``path`` from the ONNX file ``source``; what is raised becomes an error that names both."""
    settings = ort.SessionOptions()
    # basic: what ONNX Runtime adds on higher levels is for the processor of this machine, and the file is for another
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(path)
    settings.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
