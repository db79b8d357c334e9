"""Measure latencies of common architectures on every backend of this machine, and write their report.

    python -m benchmarks.latency [--only PATTERN] [--work DIR] [--threads 1] [--prepare]

The eleven torchvision architectures of ``benchmarks.int8_speed`` (seeded weights) and the zoo (trained on digits where
that takes minutes, see ``benchmarks.int8_accuracy``; else seeded weights). Each network is exported and checked,
quantized for ONNX Runtime and OpenVINO, evaluated if trained, and timed: in float32 with PyTorch, torch.compile, ONNX
Runtime and OpenVINO, in INT8 with the last two. Writes the report to results/latency/report/, and the records,
manifests and calibration tables that it links to results/latency/records.tar.gz, to be unpacked there. An interrupted
run resumes.
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

from benchmarks.common import RESULTS, deploy_or_exit
from benchmarks.int8_accuracy import RECIPES
from benchmarks.int8_speed import ARCHITECTURES
from deploy.core.names import LIMITS
from deploy.core.store import Store

TRAINED = tuple(RECIPES)
ZOO = ("nin", "alexnet_gray", "mobilenet_v1", "resnet18_gray", "plain18", "plain34", "vgg11_gray", "inception_block")
TARGETS = ("onnxruntime", "openvino")
BACKENDS = "torch,torch-compile,onnxruntime,openvino"
PUBLISHED = ("*.json", "*/*.json", "*.csv")
"""Files of a model's folder that are published: manifests, tables, curves, records of latency and accuracy."""
MAX_BYTES = 400_000
"""Maximum size of a published file; larger calibration tables are left out."""


def main() -> None:
    """Make the missing files, time them, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "deploy-latency")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prepare", action="store_true", help="Make the files only.")
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
    """Make the float export and both INT8 files, and evaluate a trained network."""
    where = ("-q", "--artifacts", str(work))
    full = name if name in ARCHITECTURES else f"zoo/{name}"
    files = Store(work).artifacts(name)
    made = {(item.manifest.precision, item.manifest.target) for item in files if item.manifest.format == "onnx"}
    if ("fp32", None) not in made:
        if name in TRAINED:
            deploy_or_exit(*where, "train", full, "--data", "digits", *shlex.split(RECIPES[name]))
        deploy_or_exit(*where, "export", full, *(() if name in TRAINED else ("--weights", "none")))
    for target in TARGETS:
        if ("int8", target) not in made:
            calib = "digits" if name in TRAINED else str(_samples(name, work))
            deploy_or_exit(*where, "quantize", full, "--calib", calib, "--target", target, "--samples", "64")
            print(name, target, flush=True)
    if name in TRAINED and not (work / name / "evaluation").is_dir():
        deploy_or_exit(*where, "evaluate", full, "--data", "digits")


def _samples(name: str, work: Path) -> Path:
    """Return a file with 64 seeded random inputs."""
    path = work / name / "samples.npy"
    if not path.exists():
        spec = next(item for item in Store(work).artifacts(name) if item.manifest.format == "onnx").manifest.inputs[0]
        shape = (64, *spec.concrete({"batch": 1})[1:])
        np.save(path, np.random.default_rng(0).standard_normal(shape, np.float32))
    return path


def _publish(work: Path) -> None:
    """Copy the records without the models, and write their report."""
    folder = RESULTS / "latency"
    shutil.rmtree(folder, ignore_errors=True)
    for model in sorted(path for path in work.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in (item for pattern in PUBLISHED for item in model.glob(pattern)):
            if path.stat().st_size <= MAX_BYTES:
                (folder / path.relative_to(work)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / path.relative_to(work))
    for hidden in (LIMITS, ".skipped"):
        if (work / hidden).is_dir():
            shutil.copytree(work / hidden, folder / hidden)
    subprocess.run([sys.executable, "-m", "deploy.cli.main", "--artifacts", str(folder), "report"], check=True)
    pack(folder)


def pack(folder: Path) -> None:
    """Move everything but the page and its Markdown into one archive, which has a fifth of the size."""
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
