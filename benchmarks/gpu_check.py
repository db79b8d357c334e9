"""Check and time everything that needs an NVIDIA GPU.

    python -m benchmarks.gpu_check [MODEL ...] [--batch 1] [--rounds 7] [--jobs 1] [--out DIR] [--only BACKEND ...]

Exports each model and runs it with every installed backend (PyTorch, torch.compile, ONNX Runtime, TensorRT and TensorRT
for RTX) in float32, FP16 and INT8, with and without CUDA graphs. Checks each configuration against the model in float64
and times the ones that pass, interleaved in rounds. Configurations that do not run are listed with the reason.

Each model is run in a process of its own, and DIR/GPU.json (default benchmarks/results/gpu) is written after the checks
and after each model is timed: a process that dies loses no other model, and keeps its finished checks. Other models in
the file are kept where GPU, machine and versions are the same. ``--jobs N`` checks N models at a time; they are timed
one after another, when all N are checked. Packages that are missing skip what needs them; nothing is installed, and no
network is used. ``--device cpu`` rehearses all this without a GPU.

Exit code 3: a parity check failed; 2: the process of a model ended early; 1: there is no GPU, and nothing was written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import RESULTS
from benchmarks.gpu_process import TF32_OFF, Child, Row, checked_file
from deploy.bench.clock import sample, warm_up
from deploy.bench.statistics import geometric
from deploy.core.environment import machine, versions
from deploy.core.errors import DeployError
from deploy.core.progress import SILENT
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.support.cuda_driver import gpus

if TYPE_CHECKING:
    from deploy.core.model import Model
    from deploy.engines.build import BuildReport
    from deploy.models.request import ModelRequest
    from exporters.onnx_to_tensorrt import Profile

MODELS = (
    "zoo/lenet5",
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/mobilenet_v2",
    "torchvision/vit_b_16",
)
BACKENDS = ("torch", "torch.compile", "onnxruntime", "tensorrt", "tensorrt-rtx")
ROUND_NS = 200_000_000
CALIBRATION_SAMPLES = 16
DEVICE_RUNS = 10
"""Runs in each round whose time on the GPU is measured."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """How to open the runner of a configuration, and the shape ranges that it accepts."""

    name: str
    precision: str
    open: Callable[[], Runner]
    profiles: tuple[Profile, ...] = ()


class Direct:
    """Calls a runner in this process as it is timed, through the interface of the parity check."""

    def __init__(self, runner: Runner, names: Sequence[str]) -> None:
        self.inputs, self.outputs, self._runner, self._names = runner.inputs, runner.outputs, runner, names

    def submit(self, feeds: Feeds) -> None:
        """Run the inputs."""
        self._runner.bind(feeds)
        self._runner.launch()
        self._runner.synchronize()
        self._outputs = self._runner.fetch()

    def result(self) -> Fetches:
        """Return the outputs under the names of the model's outputs."""
        named = set(self._outputs) == set(self._names)
        return self._outputs if named else dict(zip(self._names, self._outputs.values(), strict=True))


class Remembered(Runner):
    """Runs every input once, for all configurations that are compared with it."""

    def __init__(self, inner: Runner) -> None:
        self.inner, self.inputs, self.outputs = inner, inner.inputs, inner.outputs
        self._fetches: dict[str, Fetches] = {}

    def run(self, feeds: Feeds) -> Fetches:
        """Return the outputs, looked up by the content of the inputs."""
        digest = hashlib.sha256()
        for name, value in feeds.items():
            array = np.asarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        key = digest.hexdigest()
        if key not in self._fetches:
            self._fetches[key] = self.inner.run(feeds)
        return self._fetches[key]


def main() -> None:
    """Check and time all models, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu")
    parser.add_argument("--only", action="append", choices=BACKENDS)
    parser.add_argument("--input", action="append", help="of models that declare none, as in deploy export")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--no-tf32", dest="tf32", action="store_false", help="leave out ONNX Runtime with TF32")
    parser.add_argument("--warm", type=float, default=3.0, help="seconds to warm up each configuration")
    parser.add_argument("--jobs", type=int, default=1, help="models that are checked at the same time")
    parser.add_argument(
        "--limit", type=float, default=1800.0, help="seconds for the checks of --jobs models, and for timing each"
    )
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # of one model: the mode of its process
    arguments = parser.parse_args()
    if arguments.rows:
        _check_model(arguments)
        return
    devices = gpus()
    if arguments.device == "cuda" and not devices:
        print("no NVIDIA GPU with a driver found; nothing was checked or written")
        sys.exit(1)
    name = devices[0].name if devices else "cpu"
    print(", ".join(f"{gpu.name}, compute capability {gpu.capability}, CUDA {gpu.cuda}" for gpu in devices) or name)
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    document: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "gpu": asdict(devices[0]) if devices else None,
        "doctor": _doctor() if arguments.device == "cuda" else [],
        "batch": arguments.batch,
        "models": {},
        "ended": {},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{slug}.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if all(before[name] == document[name] for name in ("machine", "versions", "gpu", "batch")):
            document["models"], document["ended"] = before["models"], before["ended"]
    for start in range(0, len(arguments.models), arguments.jobs):
        for model, rows, ended in _check_together(arguments.models[start : start + arguments.jobs], arguments):
            document["models"][model] = [asdict(row) for row in rows]
            document["ended"].pop(model, None)
            if ended:
                document["ended"][model] = ended
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            if ended or any(row.medians_ms for row in rows):
                print("\n".join(_table(model, rows)), ended, sep="\n", flush=True)
    print(f"wrote {path}")
    rows = [Row(**row) for model in arguments.models for row in document["models"][model]]
    failed = any(row.verdict == "fail" and row.precision != "tf32" for row in rows)
    sys.exit(3 if failed else 2 if any(model in document["ended"] for model in arguments.models) else 0)


def _check_together(models: Sequence[str], arguments: argparse.Namespace) -> Iterator[tuple[str, list[Row], str]]:
    """Check models at the same time and time them in turn.

    Yields each model twice, after all checks and after it was timed, with its rows and how a process ended too early.
    """
    with_tf32 = arguments.tf32 and arguments.device == "cuda" and "onnxruntime" in (arguments.only or BACKENDS)
    environments: list[Mapping[str, str]] = [TF32_OFF, {}] if with_tf32 else [TF32_OFF]
    with ExitStack() as stack:
        children = {
            model: [stack.enter_context(Child(model, arguments, environment)) for environment in environments]
            for model in models
        }
        for child in (child for of_model in children.values() for child in of_model):
            child.wait_until_checked()
        for model, of_model in children.items():
            yield model, [row for child in of_model for row in child.rows()], ""
        for model, of_model in children.items():
            for child in of_model:
                child.time()
            ended = next(filter(None, (child.ended for child in of_model)), "")
            yield model, [row for child in of_model for row in child.rows()], ended


def _doctor() -> list[dict[str, Any]]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = import_module("deploy.tools.doctor").doctor(Path(folder))
    except ImportError as exc:
        print(f"doctor was not run: {exc}")
        return []
    for finding in report.findings:
        print(f"{finding.state:12} {finding.name}: {finding.detail}  {finding.fix}", flush=True)
    return [asdict(finding) for finding in report.findings if finding.name != "artifacts"]  # a temporary folder


def _check_model(arguments: argparse.Namespace) -> None:
    """Check all configurations of a model, then time them; write all rows after each step."""
    import torch

    from deploy.backends.torch.reference import PyTorchRunner
    from deploy.models.request import ModelRequest
    from deploy.models.resolve import resolve

    torch.backends.cudnn.allow_tf32 = False  # full float32, as in the other backends
    request = ModelRequest(name=arguments.models[0], weights="none", inputs=tuple(arguments.input or ()))
    model = resolve(request, SILENT)
    feeds = _feeds(model, arguments.batch)
    with torch.inference_mode():
        expected = PyTorchRunner(model, "fp64").run(feeds)
    own = cache(lambda precision: Remembered(PyTorchRunner(model, precision)))
    rows: list[Row] = []
    checked: list[tuple[Row, Runner]] = []

    def write() -> None:
        """Replace the file at once, so that a process that dies leaves a complete one."""
        beside = arguments.rows.with_suffix(".part")
        beside.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
        beside.replace(arguments.rows)

    with tempfile.TemporaryDirectory() as folder:
        for configuration, skipped in _configurations(request, model, Path(folder), arguments):
            row = Row(backend=configuration.name, precision=configuration.precision, skipped=skipped)
            rows.append(row)
            runner = None if skipped else _attempt(row, configuration.open)
            if runner is not None:
                row.nodes = dict(runner.nodes)
                if configuration.precision == "int8":
                    judge = partial(_measure_int8, runner, expected, feeds, row)
                else:
                    judge = partial(_verdict, model, runner, expected, configuration, own, row)
                began = monotonic()
                row.verdict = _attempt(row, judge)
                row.seconds = round(monotonic() - began, 1)
                if row.verdict in ("pass", "measured", "inconclusive") or row.precision == "tf32":
                    checked.append((row, runner))
                else:
                    runner.close()
            write()
            said = " ".join(filter(None, (row.verdict, row.skipped or row.reasons)))
            print(f"{model.name} {row.backend} {row.precision}: {said}", flush=True)
        checked_file(arguments.rows).touch()
        sys.stdin.readline()  # other models are checked or timed meanwhile
        _time(checked, feeds, arguments, write)
        for _, runner in checked:
            runner.close()


def _verdict(
    model: Model,
    runner: Runner,
    expected: Fetches,
    configuration: Configuration,
    own: Callable[[str], Runner],
    row: Row,
) -> str:
    from deploy.engines.proof import check_engine

    precision = "fp32" if configuration.precision == "tf32" else configuration.precision
    candidate = Direct(runner, list(expected))
    report = check_engine(model, candidate, configuration.profiles, precision, SILENT, own)
    row.reasons = "; ".join(report.reasons)
    return str(report.verdict)


def _measure_int8(runner: Runner, expected: Fetches, feeds: Feeds, row: Row) -> str:
    """Run INT8 once and compare it with float64; there is no bound, but values must be finite."""
    candidate = Direct(runner, list(expected))
    candidate.submit(dict(zip([spec.name for spec in runner.inputs], feeds.values(), strict=True)))
    pairs = [(expected[name], value) for name, value in candidate.result().items()]
    if not all(np.isfinite(value).all() for _, value in pairs):
        return "fail"
    signal = sum(float(np.square(want).sum()) for want, _ in pairs)
    noise = sum(float(np.square(want - got).sum()) for want, got in pairs)
    row.sqnr_db = 10 * math.log10(signal / noise) if signal and noise else None
    return "measured"


def _attempt(row: Row, work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, or None with the reason of the failure in the row."""
    try:
        return work()
    except DeployError as exc:
        text = exc.message + (f" ({exc.hint})" if exc.hint else "")
        row.skipped = re.sub(r"/\S*/tmp[^/\s]+/", "", text)  # without the paths of temporary folders
    except Exception as exc:
        row.skipped = f"{type(exc).__name__}: {next(iter(str(exc).splitlines()), '')}"[:300]
    return None


def _runner(name: str) -> Any:
    """Import the runner of a backend."""
    return import_module(f"deploy.backends.{name}.runner")


def _configurations(
    request: ModelRequest, model: Model, folder: Path, arguments: argparse.Namespace
) -> Iterator[tuple[Configuration, str]]:
    """Yield every configuration, with the reason if it cannot be made."""
    only = arguments.only or BACKENDS
    if "NVIDIA_TF32_OVERRIDE" not in os.environ:  # the process that shows what TF32 would do
        yield from _of_onnxruntime(request, model, folder, arguments, "fp32", {"cuda": {"use_tf32": "1"}}, "tf32")
        return
    sizes, fixed = _sizes(model, arguments.batch), _sizes(model, arguments.batch, fixed=True)
    for precision in ("fp32", "fp16"):
        of_torch = partial(_lazily, request=request, arguments=arguments, precision=precision)
        for graph in (False, True):
            label = " graph" * graph
            if "torch" in only:
                yield Configuration(f"torch{label}", precision, of_torch("torch", graph=graph), sizes), ""
                if precision == "fp16":
                    opened = of_torch("torch", graph=graph, channels_last=True)
                    yield Configuration(f"torch channels-last{label}", precision, opened, sizes), ""
            if "torch.compile" in only:
                opened = of_torch("torch_compile", graph=graph)
                yield Configuration(f"torch.compile{label}", precision, opened, fixed), ""
        if "onnxruntime" in only:
            options: dict[str, dict[str, str]] = {"cpu": {}}
            if arguments.device == "cuda":
                options = {"cuda": {}, "tensorrt": _profile_options(sizes)}
            yield from _of_onnxruntime(request, model, folder, arguments, precision, options)
    calib = folder / f"{model.slug}.npy"
    np.save(calib, np.concatenate([next(iter(_feeds(model, 1, seed).values())) for seed in range(CALIBRATION_SAMPLES)]))
    for runtime in ("tensorrt", "tensorrt-rtx"):
        for precision in ("fp32", "fp16", "int8"):
            if runtime in only:
                yield from _engine(request.name, runtime, precision, calib, folder, arguments.batch)


def _of_onnxruntime(
    request: ModelRequest,
    model: Model,
    folder: Path,
    arguments: argparse.Namespace,
    precision: Any,
    options: Mapping[str, Mapping[str, str]],
    label: str = "",
) -> Iterator[tuple[Configuration, str]]:
    """Export the model and yield a configuration for each provider with its options."""

    def export() -> Any:
        from deploy.exporting.export import export_model

        return export_model(request, artifacts=folder, precision=precision)

    row = Row(backend="export", precision=precision)
    made = _attempt(row, export)
    for provider, given in options.items():

        def opened(provider: str = provider, given: Mapping[str, str] = given) -> Runner:
            path = made.artifact.path
            runner: Runner = _runner("onnxruntime").open(path, provider=provider, provider_options=given)
            return runner

        sizes = _sizes(model, arguments.batch)
        yield Configuration(f"onnxruntime {provider}", label or precision, opened, sizes), row.skipped


def _sizes(model: Model, batch: int, *, fixed: bool = False) -> tuple[Profile, ...]:
    """Return a profile: ``fixed``, of the timed size only, for a backend that compiles again for every size."""
    from exporters.onnx_to_tensorrt import ShapeRange

    least, most = (batch, batch) if fixed else (1, max(batch, 8))
    shapes = [{name: value.shape for name, value in _feeds(model, size).items()} for size in (least, batch, most)]
    return ({name: ShapeRange(min=shapes[0][name], opt=shapes[1][name], max=shapes[2][name]) for name in shapes[0]},)


def _profile_options(profiles: Sequence[Profile]) -> dict[str, str]:
    """Return the ranges as options of ONNX Runtime's TensorRT provider: without them, it builds for every new shape."""
    (profile,) = profiles

    def text(end: str) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, getattr(item, end)))}" for name, item in profile.items())

    return {f"trt_profile_{end}_shapes": text(end) for end in ("min", "opt", "max")}


def _lazily(backend: str, request: ModelRequest, arguments: argparse.Namespace, **options: Any) -> Callable[[], Runner]:
    """Return a function that opens a new model, since backends convert the module in place."""

    def opened() -> Runner:
        from deploy.models.resolve import resolve

        model = resolve(request, SILENT)
        runner: Runner = _runner(backend).from_model(model, device=arguments.device, **options)
        return runner

    return opened


def _engine(
    name: str, runtime: str, precision: str, calib: Path, folder: Path, batch: int
) -> Iterator[tuple[Configuration, str]]:
    """Build an engine; yield its configurations with and without a CUDA graph."""

    def build() -> BuildReport:
        from deploy.engines.build import build_engine
        from deploy.engines.request import BuildRequest

        request = BuildRequest(
            model=name,
            fp16=precision == "fp16",
            int8=precision == "int8",
            calib=calib if precision == "int8" else None,
            batch=f"1:{batch}:{max(batch, 8)}",
            runtime=runtime,
        )
        return build_engine(request, artifacts=folder)

    row = Row(backend=runtime, precision=precision)
    report: BuildReport | None = _attempt(row, build)
    for graph in (False, True):

        def opened(graph: bool = graph) -> Runner:
            path = report.artifact.path if report else Path()
            runner: Runner = _runner("tensorrt").open(path, graph=graph)
            return runner

        profiles = report.profiles if report else ()
        yield Configuration(runtime + " graph" * graph, precision, opened, profiles), row.skipped


def _feeds(model: Model, batch: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = {**model.sizes, "batch": batch}
    return {spec.name: rng.standard_normal(spec.concrete(sizes)).astype(spec.dtype) for spec in model.inputs}


def _time(
    checked: Sequence[tuple[Row, Runner]], feeds: Feeds, arguments: argparse.Namespace, write: Callable[[], None]
) -> None:
    """Time all runners in every round, in seeded random order; one that fails is left out from then on."""
    order = random.Random(0)
    for row, runner in checked:
        named = dict(zip([spec.name for spec in runner.inputs], feeds.values(), strict=True))
        _attempt(row, partial(_warm, runner, named, arguments.warm))
    device_ms: dict[int, list[float]] = {}
    for _ in range(arguments.rounds):
        alive = [item for item in checked if not item[0].skipped]
        for row, runner in order.sample(alive, len(alive)):
            samples = _attempt(row, partial(sample, runner, ROUND_NS))
            if samples is None:
                continue
            row.medians_ms.append(float(np.median(samples)) / 1e6)
            on_device = _attempt(row, partial(_device_ms, runner))
            if on_device is not None:
                device_ms.setdefault(id(row), []).append(on_device)
                row.device_ms = float(np.median(device_ms[id(row)]))
        write()


def _device_ms(runner: Runner) -> float | None:
    """Return the median time on the GPU of several runs; None if the backend does not measure it."""
    if not hasattr(runner, "device_ns"):
        return None
    times = [runner.device_ns() for _ in range(DEVICE_RUNS)]
    return None if None in times else float(np.median(times)) / 1e6


def _warm(runner: Runner, feeds: Feeds, seconds: float) -> None:
    runner.bind(feeds)
    warm_up(runner, int(seconds * 1e9))


def _table(model: str, rows: Sequence[Row]) -> Iterator[str]:
    yield "| model | backend | precision | verdict | median ms (95 % interval over rounds) | speedup over torch fp32 |"
    yield "|---|---|---|---|---|---|"
    timed = [row for row in rows if row.medians_ms]
    base = next((geometric(row.medians_ms).value for row in timed if row.backend == "torch"), None)
    for row in rows:
        start = f"| {model} | {row.backend} | {row.precision} | {row.verdict or 'skipped'}"
        if not row.medians_ms:
            yield f"{start} | {row.skipped} | |"
            continue
        median = geometric(row.medians_ms)
        speedup = f"{base / median.value:.2f} ×" if base else ""
        yield f"{start} | {median.value:.3f} ({median.low:.3f} to {median.high:.3f}) | {speedup} |"


if __name__ == "__main__":
    main()
