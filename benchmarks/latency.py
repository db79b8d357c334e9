"""Latencies across architectures: the classic networks on every backend of this machine, with the report of them.

    python -m benchmarks.latency [--only PATTERN] [--work DIR] [--threads 1] [--prepare]

The eleven torchvision architectures of ``benchmarks.int8_speed`` (seeded weights) and the zoo (trained on the digits
where that takes minutes, see ``benchmarks.int8_accuracy``; seeded weights otherwise): exported with proof, quantized
for ONNX Runtime and OpenVINO, the trained ones evaluated, all timed in float32 with PyTorch, torch.compile, ONNX
Runtime and OpenVINO and in INT8 with the last two. The report goes to results/latency/report/, the records, manifests
and calibration tables that it links to results/latency/records.tar.gz, to be unpacked there; a stopped run continues.
"""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._common import RESULTS, deploy
from benchmarks.int8_accuracy import RECIPES
from benchmarks.int8_speed import ARCHITECTURES
from deploy.core.store import LIMITS, Store

TRAINED = tuple(RECIPES)
ZOO = ("nin", "alexnet_gray", "mobilenet_v1", "resnet18_gray", "plain18", "plain34", "vgg11_gray", "inception_block")
ENGINES = ("onnxruntime", "openvino")
BACKENDS = "torch,torch-compile,onnxruntime,openvino"
KEPT = ("*.json", "*/*.json", "*.csv")
"""Of a model's folder: manifests, tables and curves; records of timings and accuracy."""
MOST_BYTES = 400_000
"""A calibration table larger than this is left out."""


def main() -> None:
    """Make what is missing, time it, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "deploy-latency")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    arguments = parser.parse_args()
    names = fnmatch.filter((*TRAINED, *ZOO, *ARCHITECTURES), arguments.only)
    for name in names:
        _prepare(name, arguments.work)
    if arguments.prepare:
        return
    command = [sys.executable, "-m", "deploy.cli.main", "--artifacts", str(arguments.work), "bench", *names]
    command += ["--backends", BACKENDS, "--precision", "fp32,int8", "--threads", str(arguments.threads), "--limits"]
    subprocess.run(command, check=True)
    _publish(arguments.work)


def _prepare(name: str, work: Path) -> None:
    """The float export, both INT8 files, and the accuracy where there is any."""
    where = ("-q", "--artifacts", str(work))
    full = name if name in ARCHITECTURES else f"zoo/{name}"
    files = Store(work).artifacts(name)
    made = {(item.manifest.precision, item.manifest.target) for item in files if item.manifest.format == "onnx"}
    if ("fp32", None) not in made:
        if name in TRAINED:
            _must("train", *where, "train", full, "--data", "digits", *shlex.split(RECIPES[name]))
        _must("export", *where, "export", full, *(() if name in TRAINED else ("--weights", "none")))
    for engine in ENGINES:
        if ("int8", engine) not in made:
            calib = "digits" if name in TRAINED else str(_samples(name, work))
            _must("quantize", *where, "quantize", full, "--calib", calib, "--target", engine, "--samples", "64")
            print(name, engine, flush=True)
    if name in TRAINED and not (work / name / "evaluation").is_dir():
        _must("evaluate", *where, "evaluate", full, "--data", "digits")


def _samples(name: str, work: Path) -> Path:
    """Sixty-four seeded random inputs."""
    path = work / name / "samples.npy"
    if not path.exists():
        spec = next(item for item in Store(work).artifacts(name) if item.manifest.format == "onnx").manifest.inputs[0]
        shape = (64, *spec.concrete({"batch": 1})[1:])
        np.save(path, np.random.default_rng(0).standard_normal(shape, np.float32))
    return path


def _must(what: str, *command: str) -> None:
    code, document, _ = deploy(*command)
    if code:
        raise SystemExit(f"{what}: exit {code}: {document}")


def _publish(work: Path) -> None:
    """What was measured, without the models, and the report of it."""
    folder = RESULTS / "latency"
    shutil.rmtree(folder, ignore_errors=True)
    for model in sorted(path for path in work.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in (item for pattern in KEPT for item in model.glob(pattern)):
            if path.stat().st_size <= MOST_BYTES:
                (folder / path.relative_to(work)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / path.relative_to(work))
    for hidden in (LIMITS, ".absent"):
        if (work / hidden).is_dir():
            shutil.copytree(work / hidden, folder / hidden)
    subprocess.run([sys.executable, "-m", "deploy.cli.main", "--artifacts", str(folder), "report"], check=True)
    pack(folder)


def pack(folder: Path) -> None:
    """All but the page and its Markdown into one archive: hundreds of small files, and a fifth of the size."""
    shown = {folder / "report" / name for name in ("index.html", "report.md")}
    rest = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in shown]
    with tarfile.open(folder / "records.tar.gz", "w:gz") as archive:
        for path in rest:
            archive.add(path, str(path.relative_to(folder)))
    for path in rest:
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


if __name__ == "__main__":
    main()
