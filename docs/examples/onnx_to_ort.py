"""ONNX to the ORT format, which minimal builds of ONNX Runtime, such as those for phones, read without a parser."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

SUFFIX = ".ort"
"""Suffix of the files it writes: ``resnet18.fp32.ort``."""

BACKEND = "onnxruntime"
"""Backend that runs the file; the parity check uses it before the file is published."""


def convert(source: Path, path: Path) -> None:
    """Convert an ONNX file. Any exception is reported as an error that names the file and this exporter.

    Args:
        source: the ONNX file.
        path: the file to write.
    """
    settings = ort.SessionOptions()
    # higher levels optimize for the CPU of this machine, but the file is for another one
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(path)
    settings.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
