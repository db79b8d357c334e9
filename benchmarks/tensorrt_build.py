"""Measure which architectures TensorRT builds, and the overhead of ``deploy trt build``.

    python -m benchmarks.tensorrt_build [--only PATTERN] [--again]
    python -m benchmarks.tensorrt_build --overhead [ROUNDS]

The first command exports every classification and segmentation network of torchvision and the zoo, and builds an engine
in FP16 and one in INT8 with ``deploy trt build`` and TensorRT for RTX, without a GPU. It shows only that the engines
are built: exports are not checked again (``benchmarks.coverage`` checks them, and determines strategy and dynamic
dimensions), and the INT8 ranges come from four seeded random samples. Writes results/tensorrt_build.json after every
network; an interrupted run resumes.

The second command compares ``deploy trt build FILE.onnx`` with a script that calls the builder on the same file. Whole
processes; each round runs all cases in seeded random order. The result is the median ratio over rounds.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import deploy_or_exit, interval, load, time_interleaved, write
from benchmarks.peak_memory import watched

NAME = "tensorrt_build"
TIMEOUT_S = 3600.0
SAMPLES = 4
OVERHEAD = {"resnet18": 9, "resnet50": 9, "vit_b_16": 5}
"""Networks of the second command, and their numbers of rounds."""
TARGET = 1.3
KINDS = {"fp16": ("--fp16",), "int8": ("--int8", "--calib")}

EXPORT = """
import json, sys
import numpy as np
from pathlib import Path
from deploy.core.progress import SILENT
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.exporting.export import choose_dynamic
from exporters.torch_to_onnx import ExportOptions, example, export
name, folder, strategy, dynamic, samples = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
request = ModelRequest(name=name, weights="none")
model = resolve(request, SILENT)
inputs = choose_dynamic(model, request, [item for item in dynamic.split(",") if item])
made = export(model, inputs, folder / "model.onnx", ExportOptions(), strategy=strategy)
rng = np.random.default_rng(0)
sizes = {**model.sizes, "batch": 1}
spec = model.inputs[0]
shape = (samples, *spec.concrete(sizes)[1:])
np.save(folder / "samples.npy", rng.standard_normal(shape).astype(spec.dtype))
print(json.dumps({"bytes": sum(item.stat().st_size for item in folder.glob("model.onnx*")), "opset": made.opset}))
"""

BARE = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
assert trt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
item = network.get_input(0)
shape = tuple(item.shape)[1:]
profile.set_shape(item.name, (1, *shape), (8, *shape), (32, *shape))
config.add_optimization_profile(profile)
open(sys.argv[2], "wb").write(memoryview(builder.build_serialized_network(network, config)))
"""


def main() -> None:
    """Measure the networks without a result, or the overhead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    parser.add_argument("--overhead", nargs="?", type=int, const=0, metavar="ROUNDS", help="Measure the overhead.")
    arguments = parser.parse_args()
    if arguments.overhead is not None:
        _overhead(arguments.only, arguments.overhead)
        return
    names = _names()
    for name in fnmatch.filter(names, arguments.only):
        if name in load(NAME).get("rows", {}) and not arguments.again:
            continue
        row = _measure(name)
        print(name, json.dumps(row), flush=True)
        stored = load(NAME)
        overhead = {key: value for key, value in stored.items() if key == "overhead"}
        rows = {**stored.get("rows", {}), name: row}
        write(NAME, {**overhead, "asked": len(names), "samples": SAMPLES, "rows": rows})


def _names() -> list[str]:
    import torchvision

    from deploy.core import registry

    zoo = registry.load("deploy.models.sources", "zoo").names()
    modules = (torchvision.models, torchvision.models.segmentation)
    published = [name for module in modules for name in torchvision.models.list_models(module=module)]
    return [f"torchvision/{name}" for name in published] + [f"zoo/{name}" for name in zoo]


def _measure(name: str) -> dict[str, Any]:
    """Export a network with the settings that the coverage run verified, and build both engines."""
    known = load("coverage").get("rows", {}).get(name, {})
    strategies = [known["strategy"]] if known.get("strategy") else ["export", "trace"]
    dynamic = ",".join(known.get("dynamic", ["batch"]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exported: dict[str, Any] = {}
        for strategy in strategies:
            exported = _export(name, folder, strategy, dynamic)
            if exported["exported"]:
                break
        row = {**exported, "dynamic": dynamic}
        if exported["exported"]:
            row |= {kind: _build(folder, kind) for kind in KINDS}
    return row


def _export(name: str, folder: Path, strategy: str, dynamic: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", EXPORT, name, str(folder), strategy, dynamic, str(SAMPLES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"exported": False, "reason": f"{strategy}: more than {TIMEOUT_S:.0f} s"}
    if done.returncode:
        last = next(iter(reversed(done.stderr.strip().splitlines())), f"status {done.returncode}")
        return {"exported": False, "reason": f"{strategy}: {last[:300]}"}
    return {"exported": True, "strategy": strategy, **json.loads(done.stdout.splitlines()[-1])}


def _build(folder: Path, kind: str) -> dict[str, Any]:
    options = [*KINDS[kind], *([str(folder / "samples.npy")] if kind == "int8" else [])]
    common = ("-q", "--artifacts", str(folder / kind), "trt", "build", str(folder / "model.onnx"))
    done = watched(*common, *options, "--runtime", "tensorrt-rtx", timeout_s=TIMEOUT_S)
    shutil.rmtree(folder / kind, ignore_errors=True)
    built = done.code == 0
    row: dict[str, Any] = {"built": built, "seconds": round(done.seconds, 1), "peak_bytes": done.peak_bytes}
    if not built:
        last = (done.err.strip().splitlines() or [f"status {done.code}"])[-1]
        return {**row, "reason": str(done.document.get("error", {}).get("message", last))[:400]}
    return {**row, **{key: done.document[key] for key in ("bytes", "weighted", "weight_bytes", "state")}}


def _overhead(pattern: str, rounds: int) -> None:
    for model in fnmatch.filter(OVERHEAD, pattern):
        row = _compare(model, rounds or OVERHEAD[model])
        print(model, {key: value for key, value in row.items() if key != "samples_s"}, flush=True)
        stored = load(NAME)
        write(NAME, {**stored, "overhead": {**stored.get("overhead", {}), model: row}})


def _compare(model: str, rounds: int) -> dict[str, Any]:
    """Compare the builder alone with ``deploy trt build`` on one export, with and without conversion to FP16."""
    with tempfile.TemporaryDirectory() as folder:
        options = ("-q", "--artifacts", folder)
        path = deploy_or_exit(*options, "export", f"torchvision/{model}", "--weights", "none")["file"]
        command = [str(Path(sys.executable).with_name("deploy")), *options, "trt", "build", path]
        cases = {
            "bare": [sys.executable, "-c", BARE, path, f"{folder}/bare.engine"],
            "deploy": [*command, "--runtime", "tensorrt-rtx"],
            "deploy --fp16": [*command, "--runtime", "tensorrt-rtx", "--fp16"],
        }
        times_s = time_interleaved(cases, rounds)
    ratios = {
        name: [mine / bare for mine, bare in zip(times, times_s["bare"], strict=True)]
        for name, times in times_s.items()
        if name != "bare"
    }
    return {
        "rounds": rounds,
        "median_s": {name: statistics.median(times) for name, times in times_s.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_interval": {name: interval(values) for name, values in ratios.items()},
        "target": TARGET,
        "samples_s": times_s,
    }


if __name__ == "__main__":
    main()
