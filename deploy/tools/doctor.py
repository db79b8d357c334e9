"""``deploy doctor``: check what works on this machine."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from deploy.core.cpu import this_cpu
from deploy.core.environment import cpu_features, machine, usable_cores, version, versions
from deploy.core.plain import to_plain

DISTRIBUTION = "deploy-toolkit"
TIMEOUT_S = 120
FREE_BYTES = 1e9
"""Free disk space that temporary files need at least."""
_SESSION = """
import numpy as np, onnx, onnxruntime as ort, sys
node = onnx.helper.make_node("Add", ["a", "a"], ["b"])
value = lambda n: onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4])
graph = onnx.helper.make_graph([node], "g", [value("a")], [value("b")])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
ort.set_default_logger_severity(4)
if sys.argv[1] != "CPUExecutionProvider" and hasattr(ort, "preload_dlls"):
    ort.preload_dlls()  # CUDA's libraries from Python wheels, as the backend does
session = ort.InferenceSession(model.SerializeToString(), providers=[sys.argv[1]])
assert session.get_providers()[0] == sys.argv[1], "ONNX Runtime used " + session.get_providers()[0]
assert session.run(None, {"a": np.ones(4, np.float32)})[0].tolist() == [2.0] * 4
"""
"""Runs a small model with one execution provider."""


EXTRAS = (
    ("timm models", "timm", "timm", "timm"),
    ("the digits data set", "sklearn", "data", "scikit-learn"),
    ("OpenVINO", "openvino", "openvino", "openvino"),
    ("the report", "plotly", "report", "plotly"),
    ("a sweep in a file", "yaml", "sweep", "pyyaml"),
    ("a sweep on a cluster", "ray", "ray", "ray"),
    ("the server", "uvicorn", "serve", "uvicorn"),
    ("signatures", "model_signing", "sign", "model-signing"),
    ("the MLPerf load generator", "mlperf_loadgen", "loadgen", "mlcommons-loadgen"),
)
"""Optional features: name, module, extra that installs it, and package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        state: ``works``, ``unavailable`` (optional, and not installed, outdated or without hardware) or ``broken``.
        detail: version, or why it does not work.
        fix: a command that fixes it; empty where there is none.
    """

    name: str
    state: str
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """The results of all checks."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Whether something required does not work."""
        return any(finding.state == "broken" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: ``findings``, ``versions`` and ``machine``."""
        return {"findings": to_plain(self.findings), "versions": versions(), "machine": machine()}


def doctor(artifacts: Path) -> DoctorReport:
    """Check everything; checks that could crash run in child processes.

    Args:
        artifacts: the artifacts directory.
    """
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _cpu,
        lambda: _module("torch", "torch", "import torch; torch.zeros(2) + 1"),
        lambda: _module(
            "torchvision",
            "torchvision",
            "import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.ones(1), 0.5)",
        ),
        lambda: _module("onnx", "onnx", "import onnx, onnxscript"),
        lambda: _provider("ONNX Runtime on CPU", "CPUExecutionProvider", required=True),
        _one_onnxruntime,
        _required_versions,
        _gpu,
        lambda: _provider("ONNX Runtime on CUDA", "CUDAExecutionProvider", required=False),
        _tensorrt,
        *(functools.partial(_optional, *extra) for extra in EXTRAS),
        lambda: _artifacts(artifacts),
        _disk,
    )
    return DoctorReport(findings=tuple(check() for check in checks))


def _run(code: str, *arguments: str) -> str:
    """Run Python code in a child process; return an empty string, or the last line of its error output."""
    try:
        same_modules = f"import sys; sys.path[:] = {sys.path!r}\n"  # not those in the working directory
        command = [sys.executable, "-W", "ignore", "-c", same_modules + code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"no response within {TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1][:300] if lines else f"exited with status {done.returncode}"


def _python() -> Finding:
    works = sys.version_info >= (3, 10)
    detail = f"{sys.version.split()[0]}, {usable_cores()} cores usable"
    fix = "" if works else "install Python 3.10 or later"
    return Finding(name="Python", state="works" if works else "broken", detail=detail, fix=fix)


def _cpu() -> Finding:
    why = "it has no VNNI" if cpu_features() else "its features are not reported"
    bits = f"seven bits: {why}" if this_cpu() == "avx2" else "eight bits: it has VNNI or its like"
    detail = f"weights for ONNX Runtime and OpenVINO take {bits}"
    return Finding(name="INT8 on this CPU", state="works", detail=detail)


def _module(name: str, package: str, code: str) -> Finding:
    problem = _run(code)
    if not problem:
        return Finding(name=name, state="works", detail=version(package) or "")
    return Finding(name=name, state="broken", detail=problem, fix=f"pip install --force-reinstall {package}")


def _provider(name: str, provider: str, *, required: bool) -> Finding:
    package = "onnxruntime-gpu" if version("onnxruntime-gpu") else "onnxruntime"
    problem = _run(_SESSION, provider)
    if not problem:
        return Finding(name=name, state="works", detail=f"{package} {version(package)}")
    if required:
        return Finding(name=name, state="broken", detail=problem, fix=f"pip install --force-reinstall {package}")
    fix = "" if version("onnxruntime-gpu") else "pip install onnxruntime-gpu"
    return Finding(name=name, state="unavailable", detail=f"a session with this provider failed: {problem}", fix=fix)


def _one_onnxruntime() -> Finding:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if version(name)]
    if len(installed) == 2:
        return Finding(
            name="one ONNX Runtime",
            state="broken",
            detail="onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            fix="pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    return Finding(name="one ONNX Runtime", state="works", detail=", ".join(installed))


def _required_versions() -> Finding:
    try:
        unmet = _unmet()
    except metadata.PackageNotFoundError:
        return Finding(name="required versions", state="unavailable", detail=f"{DISTRIBUTION} itself is not installed")
    if not unmet:
        return Finding(name="required versions", state="works", detail="all requirements are met")
    fix = "pip install " + " ".join(f"'{item.name}{item.specifier}'" for item in unmet)
    return Finding(name="required versions", state="broken", detail=_needs(unmet), fix=fix)


def _needs(unmet: list[Requirement]) -> str:
    return "; ".join(f"{item.name}{item.specifier} is required, {version(item.name)} is installed" for item in unmet)


def _unmet(extra: str = "") -> list[Requirement]:
    """Return the requirements, of an extra or of the package itself, whose installed version does not meet them."""
    requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    needed = [item for item in requirements if _applies(item, extra) and not (extra and _applies(item, ""))]
    return [
        item
        for item in needed
        if (installed := version(item.name)) and not item.specifier.contains(installed, prereleases=True)
    ]


def _applies(item: Requirement, extra: str) -> bool:
    return item.marker is None or item.marker.evaluate({"extra": extra})


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(name="NVIDIA GPU", state="unavailable", detail="no driver found (nvidia-smi)")
    query = [tool, "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return Finding(name="NVIDIA GPU", state="broken", detail=(done.stderr or done.stdout).strip()[:300])
    problem = _run("import torch; (torch.zeros(2, device='cuda') + 1).cpu()")
    if problem:
        detail = f"{done.stdout.strip()}; PyTorch cannot use it: {problem}"
        return Finding(name="NVIDIA GPU", state="broken", detail=detail)
    return Finding(name="NVIDIA GPU", state="works", detail=done.stdout.strip())


def _tensorrt() -> Finding:
    for package, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        if importlib.util.find_spec(module) is not None:
            problem = _run(f"import {module} as t; t.Builder(t.Logger(t.Logger.ERROR))")
            state = "broken" if problem else "works"
            return Finding(name="TensorRT", state=state, detail=problem or f"{package} {version(package)}")
    return Finding(
        name="TensorRT",
        state="unavailable",
        detail="neither tensorrt nor tensorrt-rtx is installed",
        fix="pip install tensorrt-rtx   (the libraries of tensorrt come from NVIDIA's own index)",
    )


def _optional(name: str, module: str, extra: str, package: str) -> Finding:
    fix = f"pip install '{DISTRIBUTION}[{extra}]'"
    if importlib.util.find_spec(module) is None:
        return Finding(name=name, state="unavailable", detail=f"{package} is not installed", fix=fix)
    try:
        unmet = _unmet(extra)
    except metadata.PackageNotFoundError:
        unmet = []
    if unmet:
        return Finding(name=name, state="unavailable", detail=_needs(unmet), fix=fix)
    return Finding(name=name, state="works", detail=f"{package} {version(package)}")


def _artifacts(artifacts: Path) -> Finding:
    folders = (artifacts.resolve(), *artifacts.resolve().parents)
    nearest = next((folder for folder in folders if folder.is_dir()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Finding(name="artifacts", state="works", detail=f"{artifacts} is writable")
    except OSError as exc:
        fix = "deploy --artifacts DIR …, or set DEPLOY_ARTIFACTS"
        return Finding(name="artifacts", state="broken", detail=f"{artifacts}: {exc.strerror}", fix=fix)


def _disk() -> Finding:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    state = "works" if free > FREE_BYTES else "broken"
    return Finding(name="disk", state=state, detail=f"{free / 1e9:.1f} GB free for temporary files")
