"""Export trained PyTorch models and prove the files equal to them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.models.request import ModelRequest
    from deploy.workflows.bench import measure_speed
    from deploy.workflows.bench_compare import compare_speed
    from deploy.workflows.build import BuildRequest, build_engine
    from deploy.workflows.check import check
    from deploy.workflows.evaluate import evaluate_models
    from deploy.workflows.export import export_model
    from deploy.workflows.package import package_models
    from deploy.workflows.quantize import quantize
    from deploy.workflows.report import write_report
    from deploy.workflows.report_compare import compare_reports
    from deploy.workflows.serve import serve
    from deploy.workflows.sweep import run_sweep
    from deploy.workflows.train import train_model

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
    "BuildRequest": "deploy.workflows.build",
    "ModelRequest": "deploy.models.request",
    "build_engine": "deploy.workflows.build",
    "check": "deploy.workflows.check",
    "compare_reports": "deploy.workflows.report_compare",
    "compare_speed": "deploy.workflows.bench_compare",
    "evaluate_models": "deploy.workflows.evaluate",
    "export_model": "deploy.workflows.export",
    "measure_speed": "deploy.workflows.bench",
    "package_models": "deploy.workflows.package",
    "quantize": "deploy.workflows.quantize",
    "run_sweep": "deploy.workflows.sweep",
    "serve": "deploy.workflows.serve",
    "train_model": "deploy.workflows.train",
    "write_report": "deploy.workflows.report",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import deploy`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
