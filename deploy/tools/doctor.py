"""``deploy doctor``: what works on this machine, what does not, why, and what mends it."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.core.advisories import ADVISORIES, unsafe
from deploy.core.environment import machine, usable_cores, version, versions

GB = 1e9
_TRIAL = """
import numpy as np, onnx, onnxruntime as ort, sys
node = onnx.helper.make_node("Add", ["a", "a"], ["b"])
value = lambda n: onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4])
graph = onnx.helper.make_graph([node], "g", [value("a")], [value("b")])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
ort.set_default_logger_severity(4)
session = ort.InferenceSession(model.SerializeToString(), providers=[sys.argv[1]])
assert session.get_providers()[0] == sys.argv[1], "fell back to " + session.get_providers()[0]
assert session.run(None, {"a": np.ones(4, np.float32)})[0].tolist() == [2.0] * 4
"""


EXTRAS = (
    ("timm models", "timm", "timm"),
    ("the digits data set", "sklearn", "data", "scikit-learn"),
    ("OpenVINO", "openvino", "openvino"),
    ("the report", "plotly", "report"),
    ("a sweep in a file", "yaml", "sweep", "pyyaml"),
    ("a sweep on a cluster", "ray", "ray"),
    ("the server", "uvicorn", "serve"),
    ("signatures", "model_signing", "sign", "model-signing"),
    ("MLPerf's load generator", "mlperf_loadgen", "loadgen", "mlcommons-loadgen"),
)
"""What is there for, its module, the extra that brings it, and the package where that has another name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        state: ``works``, ``absent`` (optional, not installed or no hardware) or ``broken``.
        detail: what was found, or why it does not work.
        fix: the command that mends it, where there is one.
    """

    name: str
    state: str
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """Everything that was tried, the versions and the machine."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Whether something that must work does not."""
        return any(finding.state == "broken" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return {"findings": findings, "versions": versions(), "machine": machine()}


def doctor(artifacts: Path) -> DoctorReport:
    """Try everything; each trial that could take the process down runs in one of its own."""
    trials: tuple[Callable[[], Finding], ...] = (
        _python,
        lambda: _imports("torch", "torch", "import torch; torch.zeros(2) + 1"),
        lambda: _imports(
            "torchvision",
            "torchvision",
            "import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.ones(1), 0.5)",
        ),
        lambda: _imports("onnx", "onnx", "import onnx, onnxscript"),
        lambda: _provider("ONNX Runtime on CPU", "CPUExecutionProvider", required=True),
        _onnxruntime_twice,
        _safe_versions,
        _gpu,
        lambda: _provider("ONNX Runtime on CUDA", "CUDAExecutionProvider", required=False),
        _tensorrt,
        *(functools.partial(_optional, *extra) for extra in EXTRAS),
        lambda: _store(artifacts),
        _space,
    )
    return DoctorReport(findings=tuple(trial() for trial in trials))


def _run(code: str, *arguments: str) -> str:
    """Run a snippet; the empty string where it works, else the last line of what it said."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return "no answer within 120 s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1][:300] if lines else f"ended with status {done.returncode}"


def _python() -> Finding:
    fits = sys.version_info >= (3, 10)
    detail = f"{sys.version.split()[0]}, {usable_cores()} cores usable"
    return Finding(
        name="Python",
        state="works" if fits else "broken",
        detail=detail,
        fix="" if fits else "Python 3.10 or newer",
    )


def _imports(name: str, package: str, code: str) -> Finding:
    problem = _run(code)
    if not problem:
        return Finding(name=name, state="works", detail=version(package) or "")
    return Finding(name=name, state="broken", detail=problem, fix=f"pip install --force-reinstall {package}")


def _provider(name: str, provider: str, *, required: bool) -> Finding:
    package = "onnxruntime-gpu" if version("onnxruntime-gpu") else "onnxruntime"
    problem = _run(_TRIAL, provider)
    if not problem:
        return Finding(name=name, state="works", detail=f"{package} {version(package)}")
    if required:
        return Finding(name=name, state="broken", detail=problem, fix=f"pip install --force-reinstall {package}")
    fix = "" if version("onnxruntime-gpu") else "pip install onnxruntime-gpu"
    return Finding(name=name, state="absent", detail=f"a session asked for it was not given it: {problem}", fix=fix)


def _onnxruntime_twice() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if version(name)]
    if len(both) == 2:
        return Finding(
            name="one ONNX Runtime",
            state="broken",
            detail="onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            fix="pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    return Finding(name="one ONNX Runtime", state="works", detail=", ".join(both))


def _safe_versions() -> Finding:
    found = unsafe()
    if not found:
        packages = ", ".join(dict.fromkeys(item.package for item in ADVISORIES))
        return Finding(name="known holes", state="works", detail=f"none in {packages}, of those that are looked for")
    return Finding(
        name="known holes",
        state="broken",
        detail=" ".join(advisory.told(have) for advisory, have in found),
        fix=" && ".join(advisory.fix for advisory, _ in found),
    )


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(name="NVIDIA GPU", state="absent", detail="no driver on this machine (nvidia-smi is not there)")
    query = [tool, "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return Finding(name="NVIDIA GPU", state="broken", detail=(done.stderr or done.stdout).strip()[:300])
    problem = _run("import torch; (torch.zeros(2, device='cuda') + 1).cpu()")
    if problem:
        return Finding(
            name="NVIDIA GPU",
            state="broken",
            detail=f"{done.stdout.strip()}; PyTorch cannot use it: {problem}",
        )
    return Finding(name="NVIDIA GPU", state="works", detail=done.stdout.strip())


def _tensorrt() -> Finding:
    for package, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        if importlib.util.find_spec(module) is not None:
            problem = _run(f"import {module} as t; t.Builder(t.Logger(t.Logger.ERROR))")
            state = "broken" if problem else "works"
            return Finding(name="TensorRT", state=state, detail=problem or f"{package} {version(package)}")
    return Finding(
        name="TensorRT",
        state="absent",
        detail="neither tensorrt nor tensorrt-rtx is installed",
        fix="pip install tensorrt-rtx   (or tensorrt, whose libraries come from NVIDIA's own index)",
    )


def _optional(name: str, module: str, extra: str, package: str | None = None) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding(name=name, state="works", detail=f"{package or module} {version(package or module)}")
    return Finding(
        name=name,
        state="absent",
        detail=f"{package or module} is not installed",
        fix=f"pip install 'deploy-toolkit[{extra}]'",
    )


def _store(artifacts: Path) -> Finding:
    nearest = next(
        (folder for folder in (artifacts.resolve(), *artifacts.resolve().parents) if folder.is_dir()),
        Path("/"),
    )
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Finding(name="artifacts", state="works", detail=f"{artifacts} can be written")
    except OSError as exc:
        return Finding(
            name="artifacts",
            state="broken",
            detail=f"{artifacts}: {exc.strerror}",
            fix="deploy --artifacts DIR …, or set DEPLOY_ARTIFACTS",
        )


def _space() -> Finding:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    state = "works" if free > GB else "broken"
    return Finding(name="disk", state=state, detail=f"{free / GB:.1f} GB free for temporary files")
