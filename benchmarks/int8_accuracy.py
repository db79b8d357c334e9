"""Measure the accuracy loss of INT8: the zoo trained on digits, every calibration method, every target.

    python -m benchmarks.int8_accuracy [--only PATTERN] [--work DIR]

``deploy`` trains and exports each network (kept in DIR, so that an interrupted run resumes), calibrates it with 128
training images by each method, quantizes it for each target, and evaluates it on the 359 held-out images, of which one
is 0.28 percentage points. Files for TensorRT are simulated by ONNX Runtime without fusion. Writes
results/int8_accuracy.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import deploy_or_exit, load, write
from deploy.core import registry

RECIPES = {
    "lenet5": "--epochs 40",
    "lenet": "--epochs 40",
    "lenet_bn": "--epochs 40",
    "inception_small": "--epochs 40",
    "resnet18_digits": "--epochs 30",
    "plain18_digits": "--epochs 30",
    "vgg11_small": "--epochs 3 --batch-size 16 --optimizer adamw --lr 0.0005",
    "googlenet_gray": "--epochs 6 --batch-size 32 --optimizer adamw --lr 0.001",
    "densenet_gray": "--epochs 10",
}
"""Options of ``deploy train`` for the networks that learn the digits within minutes."""


def main() -> None:
    """Measure the networks without a result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--work", type=Path, help="Folder to keep the artifacts in.")
    arguments = parser.parse_args()
    rows: dict[str, Any] = load("int8_accuracy").get("rows", {})
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        for name in fnmatch.filter(RECIPES, arguments.only):
            if name not in rows:
                rows[name] = _measure(name, work)
                print(name, {key: row["drop"] for key, row in rows[name]["int8"].items()}, flush=True)
                write("int8_accuracy", {"rows": rows})


def _measure(name: str, work: Path) -> dict[str, Any]:
    where = ("-q", "--artifacts", str(work))
    if not (work / name / f"{name}.fp32.onnx").exists():
        deploy_or_exit(*where, "train", f"zoo/{name}", "--data", "digits", *shlex.split(RECIPES[name]))
        deploy_or_exit(*where, "export", f"zoo/{name}")
    row: dict[str, Any] = {"recipe": RECIPES[name], "int8": {}}
    for method in registry.names("calibration.statistics"):
        for target in registry.names("calibration.targets"):
            command = (*where, "quantize", name, "--calib", "digits", "--method", method, "--target", target)
            document = deploy_or_exit(*command)
            evidence = document["evidence"]
            row["float_top1"] = evidence["float_accuracy"]["top1"]
            row["int8"][f"{method} {target}"] = {
                "top1": evidence["accuracy"]["top1"],
                "drop": -100 * evidence["comparison"]["difference"],
                "drop_interval": [-100 * end for end in reversed(evidence["comparison"]["difference_interval"])],
                "agreement": evidence["outputs"][0]["agreement"],
                "confidence_shift": evidence["comparison"]["confidence_shift"],
                "sqnr_db": evidence["outputs"][0]["sqnr_db"],
                "runtime": evidence["runtime"],
                "bytes": document["bytes"],
            }
    return row


if __name__ == "__main__":
    main()
