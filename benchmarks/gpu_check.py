"""Check and time everything that needs an NVIDIA GPU.

    python -m benchmarks.gpu_check [MODEL ...] [--batch 1] [--rounds 7]

Exports each model and runs it with every installed backend (PyTorch, torch.compile, ONNX Runtime, TensorRT and TensorRT
for RTX) in float32, FP16 and INT8, with and without CUDA graphs. Checks each configuration against the model in float64
and times the ones that pass, interleaved in rounds. Configurations that do not run are listed with the reason. Writes
results/gpu/GPU.json. Exit code 3: a parity check failed; 1: there is no GPU, and nothing was written.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import write
from deploy.backends.onnxruntime import runner as onnxruntime
from deploy.backends.tensorrt import runner as tensorrt
from deploy.backends.torch import runner as torch_eager
from deploy.backends.torch.reference import PyTorchRunner
from deploy.backends.torch_compile import runner as torch_compile
from deploy.bench.clock import sample, warm_up
from deploy.bench.statistics import geometric
from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.core.progress import SILENT
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.engines.build import BuildReport, BuildRequest, build_engine
from deploy.engines.proof import check_engine
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.support.cuda_driver import gpus
from deploy.support.tensorrt_library import RUNTIMES
from deploy.tools.doctor import doctor
from exporters.onnx_to_tensorrt import Profile, ShapeRange

MODELS = ("zoo/lenet5", "torchvision/resnet18", "torchvision/mobilenet_v2", "torchvision/vit_b_16")
ROUND_NS = 200_000_000
WARM_NS = 3_000_000_000
CALIBRATION_SAMPLES = 16


@dataclass(slots=True)
class Row:
    """The result of a configuration.

    Attributes:
        backend: backend and its options.
        precision: ``fp32``, ``fp16`` or ``int8``.
        verdict: verdict of the parity check; ``measured`` for INT8; None if it was not checked.
        skipped: why it did not run; empty if it ran.
        medians_ms: median latency of each round, from launch to the end of synchronize.
        device_ms: median time on the GPU, if the backend measures it.
    """

    backend: str
    precision: str
    verdict: str | None = None
    skipped: str = ""
    medians_ms: list[float] = field(default_factory=list)
    device_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """How to open the runner of a configuration, and the shape ranges that it accepts."""

    name: str
    precision: str
    open: Callable[[], Runner]
    profiles: tuple[Profile, ...] = ()


class Direct:
    """Calls a runner in this process through the interface of the parity check."""

    def __init__(self, runner: Runner, names: Sequence[str]) -> None:
        self.inputs, self.outputs, self._runner, self._names = runner.inputs, runner.outputs, runner, names

    def submit(self, feeds: Feeds) -> None:
        """Run the inputs."""
        self._outputs = self._runner.run(feeds)

    def result(self) -> Fetches:
        """Return the outputs under the names of the model's outputs."""
        named = set(self._outputs) == set(self._names)
        return self._outputs if named else dict(zip(self._names, self._outputs.values(), strict=True))


def main() -> None:
    """Check and time all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    devices = gpus()
    if not devices:
        print("no NVIDIA GPU with a driver found; nothing was checked or written")
        sys.exit(1)
    print(f"{devices[0].name}, compute capability {devices[0].capability}, driver for CUDA {devices[0].cuda}")
    torch.backends.cudnn.allow_tf32 = False  # full float32, as in the other backends
    with tempfile.TemporaryDirectory() as folder:
        report = doctor(Path(folder))
        for finding in report.findings:
            print(f"{finding.state:8} {finding.name}: {finding.detail}  {finding.fix}")
        models = {name: _model(name, Path(folder), arguments.batch, arguments.rounds) for name in arguments.models}
    slug = re.sub(r"[^a-z0-9]+", "_", devices[0].name.lower()).strip("_")
    write(
        f"gpu/{slug}",
        {
            "gpu": asdict(devices[0]),
            "doctor": [asdict(finding) for finding in report.findings],
            "batch": arguments.batch,
            "models": {name: [asdict(row) for row in rows] for name, rows in models.items()},
        },
    )
    print(_table(models))
    sys.exit(3 if any(row.verdict == "fail" for rows in models.values() for row in rows) else 0)


def _model(name: str, folder: Path, batch: int, rounds: int) -> list[Row]:
    """Check all configurations of a model, then time them."""
    request = ModelRequest(name=name, weights="none")
    model = resolve(request, SILENT)
    feeds = _feeds(model, batch)
    with torch.inference_mode():
        names = list(PyTorchRunner(model).run(feeds))
    rows: list[Row] = []
    checked: list[tuple[Row, Runner]] = []
    for configuration, skipped in _configurations(request, model, folder, batch):
        row = Row(backend=configuration.name, precision=configuration.precision, skipped=skipped)
        rows.append(row)
        runner = None if skipped else _attempt(row, configuration.open)
        if runner is None:
            continue
        if configuration.precision == "int8":
            row.verdict = "measured"
        else:
            row.verdict = _attempt(row, partial(_verdict, model, runner, names, configuration))
        print(f"{name} {row.backend} {row.precision}: {row.verdict or row.skipped}", flush=True)
        if row.verdict in ("pass", "measured", "inconclusive"):
            checked.append((row, runner))
        else:
            runner.close()
    _time(checked, feeds, rounds)
    for _, runner in checked:
        runner.close()
    return rows


def _verdict(model: Model, runner: Runner, names: Sequence[str], configuration: Configuration) -> str:
    return check_engine(model, Direct(runner, names), configuration.profiles, configuration.precision, SILENT).verdict


def _attempt(row: Row, work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, or None with the reason of the failure in the row."""
    try:
        return work()
    except DeployError as exc:
        row.skipped = exc.message + (f" ({exc.hint})" if exc.hint else "")
    except Exception as exc:
        row.skipped = f"{type(exc).__name__}: {next(iter(str(exc).splitlines()), '')}"[:300]
    return None


def _configurations(request: ModelRequest, model: Model, folder: Path, batch: int) -> list[tuple[Configuration, str]]:
    """Return every configuration, with the reason if it cannot be made."""
    configurations: list[tuple[Configuration, str]] = []
    for precision in ("fp32", "fp16"):
        for graph in (False, True):
            eager = _lazily(torch_eager.from_model, request, precision=precision, graph=graph)
            configurations.append((Configuration("torch" + " graph" * graph, precision, eager), ""))
        compiled = _lazily(torch_compile.from_model, request, precision=precision)
        configurations.append((Configuration("torch.compile", precision, compiled, _one_size(model, batch)), ""))
        row = Row(backend="export", precision=precision)
        made = _attempt(row, partial(export_model, request, artifacts=folder, precision=precision))
        for provider in ("cuda", "tensorrt"):
            opener = partial(onnxruntime.open, made.artifact.path if made else Path(), provider=provider)
            configurations.append((Configuration(f"onnxruntime {provider}", precision, opener), row.skipped))
    calib = folder / f"{model.slug}.npy"
    np.save(calib, np.concatenate([next(iter(_feeds(model, 1, seed).values())) for seed in range(CALIBRATION_SAMPLES)]))
    for runtime in RUNTIMES:
        for precision in ("fp32", "fp16", "int8"):
            configurations += _engine(request.name, runtime, precision, calib, folder, batch)
    return configurations


def _one_size(model: Model, batch: int) -> tuple[Profile, ...]:
    """Return a profile of the timed size only, for a backend that compiles again for every size."""
    shapes = {name: value.shape for name, value in _feeds(model, batch).items()}
    return ({name: ShapeRange(min=shape, opt=shape, max=shape) for name, shape in shapes.items()},)


def _lazily(opener: Callable[..., Runner], request: ModelRequest, **options: Any) -> Callable[[], Runner]:
    """Return a function that opens a new model, since backends convert the module in place."""
    return lambda: opener(resolve(request, SILENT), device="cuda", **options)


def _engine(
    name: str, runtime: str, precision: str, calib: Path, folder: Path, batch: int
) -> list[tuple[Configuration, str]]:
    """Build an engine; return its configurations with and without a CUDA graph."""
    request = BuildRequest(
        model=name,
        fp16=precision == "fp16",
        int8=precision == "int8",
        calib=calib if precision == "int8" else None,
        batch=f"1:{batch}:{max(batch, 8)}",
        runtime=runtime,
    )
    row = Row(backend=runtime, precision=precision)
    report: BuildReport | None = _attempt(row, partial(build_engine, request, artifacts=folder))
    configurations = []
    for graph in (False, True):
        opener = partial(tensorrt.open, report.artifact.path if report else Path(), graph=graph)
        profiles = report.profiles if report else ()
        configurations.append((Configuration(runtime + " graph" * graph, precision, opener, profiles), row.skipped))
    return configurations


def _feeds(model: Model, batch: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = {**model.sizes, "batch": batch}
    return {spec.name: rng.standard_normal(spec.concrete(sizes)).astype(spec.dtype) for spec in model.inputs}


def _time(checked: Sequence[tuple[Row, Runner]], feeds: Feeds, rounds: int) -> None:
    """Time all runners in every round, in seeded random order."""
    order = random.Random(0)
    for row, runner in checked:
        named = dict(zip([spec.name for spec in runner.inputs], feeds.values(), strict=True))
        _attempt(row, partial(_warm, runner, named))
    alive = [item for item in checked if not item[0].skipped]
    for _ in range(rounds):
        for row, runner in order.sample(alive, len(alive)):
            row.medians_ms.append(float(np.median(sample(runner, ROUND_NS))) / 1e6)
            if hasattr(runner, "device_ns"):
                row.device_ms = (runner.device_ns() or 0) / 1e6


def _warm(runner: Runner, feeds: Feeds) -> None:
    runner.bind(feeds)
    warm_up(runner, WARM_NS)


def _table(models: dict[str, list[Row]]) -> str:
    lines = [
        "| model | backend | precision | verdict | median ms (95 % interval over rounds) | speedup over torch fp32 |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in models.items():
        timed = [row for row in rows if row.medians_ms]
        base = next((geometric(row.medians_ms).value for row in timed if row.backend == "torch"), None)
        for row in rows:
            start = f"| {name} | {row.backend} | {row.precision} | {row.verdict or 'skipped'}"
            if not row.medians_ms:
                lines.append(f"{start} | {row.skipped} | |")
                continue
            median = geometric(row.medians_ms)
            speedup = f"{base / median.value:.2f} ×" if base else ""
            lines.append(f"{start} | {median.value:.3f} ({median.low:.3f} to {median.high:.3f}) | {speedup} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
