"""A quantized model as a PyTorch module, for a training loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from deploy.core.progress import SILENT, Progress
from deploy.quantization.fake_quantization import FakeQuantized
from deploy.quantization.quantize import quantize

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike


def prepare_qat(
    model: ModelLike,
    *,
    calib: str | Path,
    target: str = "onnxruntime",
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> FakeQuantized:
    """Quantize a model for a target, and return the Q/DQ graph as a module to train.

    Train ``module.trained()``, then write the file with ``module.save(path)`` and judge it with ``deploy evaluate``.
    The INT8 file before the training is published as by `deploy.quantize`. ``deploy train --qat`` does all of this,
    with the float model as the teacher.

    Args:
        model: as `deploy.quantize` takes it.
        calib: calibration data, see `deploy.quantize`.
        target: ``onnxruntime``, ``openvino``, ``tensorrt``, or the name of a plug-in.
        inputs: of a module in memory that has to be exported first.
        name: name of the folder and the files; default: that of the export.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Raises:
        ModelError: an operator cannot be evaluated in PyTorch.
        DeployError: as `deploy.quantize`.
    """
    report = quantize(
        model, inputs=inputs, name=name, calib=calib, target=target, artifacts=artifacts, progress=progress
    )
    floats = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(report.source).graph.initializer}
    return FakeQuantized(report.artifact.path, floats)
