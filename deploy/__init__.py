"""Export trained PyTorch models, check the files against the models, and deploy them.

Every command of ``deploy`` is a function here, with its options and its report. Functions raise `DeployError`; a
verdict other than ``pass`` is part of the report and not an error.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.bench.compare import SpeedComparison as SpeedComparison
    from deploy.bench.compare import compare_speed as compare_speed
    from deploy.bench.measure import BenchmarkReport as BenchmarkReport
    from deploy.bench.measure import measure_speed as measure_speed
    from deploy.bench.profile import ProfiledCell as ProfiledCell
    from deploy.bench.profile import profile_model as profile_model
    from deploy.bench.repetition import Budget as Budget
    from deploy.bench.rows import LatencyRow as LatencyRow
    from deploy.bench.saturation import SaturationReport as SaturationReport
    from deploy.bench.saturation import saturate as saturate
    from deploy.core.artifact import Artifact as Artifact
    from deploy.core.errors import ArtifactError as ArtifactError
    from deploy.core.errors import BackendCrashedError as BackendCrashedError
    from deploy.core.errors import BackendError as BackendError
    from deploy.core.errors import BackendMemoryError as BackendMemoryError
    from deploy.core.errors import DataError as DataError
    from deploy.core.errors import DeployError as DeployError
    from deploy.core.errors import DigestError as DigestError
    from deploy.core.errors import ExportError as ExportError
    from deploy.core.errors import InputSpecError as InputSpecError
    from deploy.core.errors import MissingPackageError as MissingPackageError
    from deploy.core.errors import ModelError as ModelError
    from deploy.core.errors import ParityError as ParityError
    from deploy.core.errors import StorageError as StorageError
    from deploy.core.errors import UnknownNameError as UnknownNameError
    from deploy.core.errors import UnsafePickleError as UnsafePickleError
    from deploy.core.errors import UsageError as UsageError
    from deploy.core.errors import WeightsError as WeightsError
    from deploy.core.progress import Progress as Progress
    from deploy.data.dataset import Dataset as Dataset
    from deploy.engines.build import BuildReport as BuildReport
    from deploy.engines.build import TrtexecReport as TrtexecReport
    from deploy.engines.build import build_engine as build_engine
    from deploy.engines.build import trtexec_line as trtexec_line
    from deploy.engines.convert import ConvertReport as ConvertReport
    from deploy.engines.convert import convert as convert
    from deploy.engines.inspect import EngineReport as EngineReport
    from deploy.engines.inspect import inspect_engine as inspect_engine
    from deploy.engines.preflight import PreflightReport as PreflightReport
    from deploy.engines.preflight import preflight_engine as preflight_engine
    from deploy.engines.request import BuildRequest as BuildRequest
    from deploy.evaluation.evaluate import evaluate_models as evaluate_models
    from deploy.evaluation.rows import EvaluationReport as EvaluationReport
    from deploy.exporting.check import CheckReport as CheckReport
    from deploy.exporting.check import check as check
    from deploy.exporting.edit import Change as Change
    from deploy.exporting.edit import EditReport as EditReport
    from deploy.exporting.edit import edit as edit
    from deploy.exporting.export import ExportReport as ExportReport
    from deploy.exporting.export import export as export
    from deploy.exporting.export import export_model as export_model
    from deploy.exporting.samples import ProbeSamples as ProbeSamples
    from deploy.exporting.samples import load_samples as load_samples
    from deploy.models.catalog import list_models as list_models
    from deploy.models.in_memory import ExampleInputs as ExampleInputs
    from deploy.models.in_memory import ModelLike as ModelLike
    from deploy.models.in_memory import WeightsLike as WeightsLike
    from deploy.models.in_memory import module_request as module_request
    from deploy.models.known import ModelLine as ModelLine
    from deploy.models.layers import LayerSummary as LayerSummary
    from deploy.models.layers import layers as layers
    from deploy.models.request import ModelRequest as ModelRequest
    from deploy.models.request import ModuleRequest as ModuleRequest
    from deploy.optimizing.bounds import DeploymentBounds as DeploymentBounds
    from deploy.optimizing.candidates import LeftOut as LeftOut
    from deploy.optimizing.optimize import CandidateResult as CandidateResult
    from deploy.optimizing.optimize import OptimizeReport as OptimizeReport
    from deploy.optimizing.optimize import optimize as optimize
    from deploy.packaging.package import PackageReport as PackageReport
    from deploy.packaging.package import package_models as package_models
    from deploy.packaging.target import PackageOptions as PackageOptions
    from deploy.quantization.fake_quantization import FakeQuantized as FakeQuantized
    from deploy.quantization.fine_tuning import FineTuning as FineTuning
    from deploy.quantization.half import HalfReport as HalfReport
    from deploy.quantization.half import convert_precision as convert_precision
    from deploy.quantization.prepare_qat import prepare_qat as prepare_qat
    from deploy.quantization.quantize import QuantizeReport as QuantizeReport
    from deploy.quantization.quantize import quantize as quantize
    from deploy.report.compare import ReportComparison as ReportComparison
    from deploy.report.compare import compare_reports as compare_reports
    from deploy.report.write import Report as Report
    from deploy.report.write import write_report as write_report
    from deploy.serving.serve import ServeOptions as ServeOptions
    from deploy.serving.serve import ServeReport as ServeReport
    from deploy.serving.serve import ServerInfo as ServerInfo
    from deploy.serving.serve import serve as serve
    from deploy.support.provenance import Stale as Stale
    from deploy.sweeps.spec import SweepSpec as SweepSpec
    from deploy.sweeps.spec import parse_spec as parse_spec
    from deploy.sweeps.spec import read_spec as read_spec
    from deploy.sweeps.sweep import DryRun as DryRun
    from deploy.sweeps.sweep import SweepReport as SweepReport
    from deploy.sweeps.sweep import dry_run as dry_run
    from deploy.sweeps.sweep import run_sweep as run_sweep
    from deploy.sweeps.task import Task as Task
    from deploy.tasks.pipeline import GraphPipeline as GraphPipeline
    from deploy.tasks.postprocessing import Postprocessing as Postprocessing
    from deploy.tools.adopt import AdoptReport as AdoptReport
    from deploy.tools.adopt import adopt as adopt
    from deploy.tools.doctor import DoctorReport as DoctorReport
    from deploy.tools.doctor import doctor as doctor
    from deploy.tools.inspect import InspectReport as InspectReport
    from deploy.tools.inspect import inspect as inspect
    from deploy.tools.sign import SignReport as SignReport
    from deploy.tools.sign import sign as sign
    from deploy.tools.sign import verify_signature as verify_signature
    from deploy.tools.verify import VerifyReport as VerifyReport
    from deploy.tools.verify import verify as verify
    from deploy.training.train import TrainReport as TrainReport
    from deploy.training.train import train_model as train_model
    from deploy.upgrading.rows import FileState as FileState
    from deploy.upgrading.rows import UpgradedFile as UpgradedFile
    from deploy.upgrading.upgrade import UpgradeReport as UpgradeReport
    from deploy.upgrading.upgrade import upgrade_check as upgrade_check

__version__ = "0.1.0"

_EXPORTS = {
    "deploy.bench.compare": ("SpeedComparison", "compare_speed"),
    "deploy.bench.measure": ("BenchmarkReport", "measure_speed"),
    "deploy.bench.profile": ("ProfiledCell", "profile_model"),
    "deploy.bench.repetition": ("Budget",),
    "deploy.bench.rows": ("LatencyRow",),
    "deploy.bench.saturation": ("SaturationReport", "saturate"),
    "deploy.core.artifact": ("Artifact",),
    "deploy.core.errors": (
        "ArtifactError",
        "BackendCrashedError",
        "BackendMemoryError",
        "BackendError",
        "DataError",
        "DeployError",
        "DigestError",
        "ExportError",
        "InputSpecError",
        "MissingPackageError",
        "ModelError",
        "ParityError",
        "StorageError",
        "UnknownNameError",
        "UnsafePickleError",
        "UsageError",
        "WeightsError",
    ),
    "deploy.core.progress": ("Progress",),
    "deploy.data.dataset": ("Dataset",),
    "deploy.engines.build": ("BuildReport", "TrtexecReport", "build_engine", "trtexec_line"),
    "deploy.engines.convert": ("ConvertReport", "convert"),
    "deploy.engines.inspect": ("EngineReport", "inspect_engine"),
    "deploy.engines.preflight": ("PreflightReport", "preflight_engine"),
    "deploy.engines.request": ("BuildRequest",),
    "deploy.evaluation.evaluate": ("evaluate_models",),
    "deploy.evaluation.rows": ("EvaluationReport",),
    "deploy.exporting.check": ("CheckReport", "check"),
    "deploy.exporting.edit": ("Change", "EditReport", "edit"),
    "deploy.exporting.export": ("ExportReport", "export", "export_model"),
    "deploy.exporting.samples": ("ProbeSamples", "load_samples"),
    "deploy.models.catalog": ("list_models",),
    "deploy.models.known": ("ModelLine",),
    "deploy.models.layers": ("LayerSummary", "layers"),
    "deploy.models.in_memory": ("ExampleInputs", "ModelLike", "WeightsLike", "module_request"),
    "deploy.models.request": ("ModelRequest", "ModuleRequest"),
    "deploy.optimizing.bounds": ("DeploymentBounds",),
    "deploy.optimizing.candidates": ("LeftOut",),
    "deploy.optimizing.optimize": ("CandidateResult", "OptimizeReport", "optimize"),
    "deploy.packaging.package": ("PackageReport", "package_models"),
    "deploy.packaging.target": ("PackageOptions",),
    "deploy.quantization.half": ("HalfReport", "convert_precision"),
    "deploy.quantization.fake_quantization": ("FakeQuantized",),
    "deploy.quantization.fine_tuning": ("FineTuning",),
    "deploy.quantization.prepare_qat": ("prepare_qat",),
    "deploy.quantization.quantize": ("QuantizeReport", "quantize"),
    "deploy.report.compare": ("ReportComparison", "compare_reports"),
    "deploy.report.write": ("Report", "write_report"),
    "deploy.serving.serve": ("ServeOptions", "ServeReport", "ServerInfo", "serve"),
    "deploy.sweeps.spec": ("SweepSpec", "parse_spec", "read_spec"),
    "deploy.sweeps.sweep": ("DryRun", "SweepReport", "dry_run", "run_sweep"),
    "deploy.sweeps.task": ("Task",),
    "deploy.tasks.pipeline": ("GraphPipeline",),
    "deploy.tasks.postprocessing": ("Postprocessing",),
    "deploy.tools.adopt": ("AdoptReport", "adopt"),
    "deploy.support.provenance": ("Stale",),
    "deploy.tools.doctor": ("DoctorReport", "doctor"),
    "deploy.tools.inspect": ("InspectReport", "inspect"),
    "deploy.tools.sign": ("SignReport", "sign", "verify_signature"),
    "deploy.tools.verify": ("VerifyReport", "verify"),
    "deploy.training.train": ("TrainReport", "train_model"),
    "deploy.upgrading.rows": ("FileState", "UpgradedFile"),
    "deploy.upgrading.upgrade": ("UpgradeReport", "upgrade_check"),
}
"""Public names by module; the same as above, where type checkers read them."""

_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import deploy`` costs nothing."""
    if name == "testing":  # so that ``deploy.testing`` needs no import of its own
        return importlib.import_module("deploy.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return sorted({*globals(), *__all__, "testing"})
