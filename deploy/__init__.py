"""Export trained PyTorch models and prove the files equal to them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.bench.compare import compare_speed
    from deploy.bench.measure import measure_speed
    from deploy.engines.build import BuildRequest, build_engine
    from deploy.evaluation.evaluate import evaluate_models
    from deploy.exporting.check import check
    from deploy.exporting.export import export_model
    from deploy.models.request import ModelRequest
    from deploy.packaging.package import package_models
    from deploy.quantization.quantize import quantize
    from deploy.report.compare import compare_reports
    from deploy.report.write import write_report
    from deploy.serving.serve import serve
    from deploy.sweeps.sweep import run_sweep
    from deploy.training.train import train_model

__version__ = "0.1.0"
__all__ = [
    "BuildRequest",
    "ModelRequest",
    "__version__",
    "build_engine",
    "check",
    "compare_reports",
    "compare_speed",
    "evaluate_models",
    "export_model",
    "measure_speed",
    "package_models",
    "quantize",
    "run_sweep",
    "serve",
    "train_model",
    "write_report",
]

_HOMES = {
    "BuildRequest": "deploy.engines.build",
    "ModelRequest": "deploy.models.request",
    "build_engine": "deploy.engines.build",
    "check": "deploy.exporting.check",
    "compare_reports": "deploy.report.compare",
    "compare_speed": "deploy.bench.compare",
    "evaluate_models": "deploy.evaluation.evaluate",
    "export_model": "deploy.exporting.export",
    "measure_speed": "deploy.bench.measure",
    "package_models": "deploy.packaging.package",
    "quantize": "deploy.quantization.quantize",
    "run_sweep": "deploy.sweeps.sweep",
    "serve": "deploy.serving.serve",
    "train_model": "deploy.training.train",
    "write_report": "deploy.report.write",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import deploy`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
