"""Train every network of the zoo on digits, export and check it, and evaluate both on held-out images.

    python -m benchmarks.zoo [--only PATTERN] [--again]

Runs ``deploy train``, ``deploy export`` and ``deploy evaluate`` in a temporary directory for each network. Writes
results/zoo.json after every network (an interrupted run resumes), docs/zoo.md, and the training curves of ResNet-18
with and without shortcuts to docs/plain_and_residual.png. A network that is not trained is exported with seeded
weights; the table gives the reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import resource
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import deploy, load, write
from benchmarks.tables.zoo import document, picture
from deploy.models.sources.zoo import entries

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 3600.0

RECIPES = {
    "lenet5": "--epochs 40",
    "lenet": "--epochs 40",
    "lenet_bn": "--epochs 40",
    "inception_small": "--epochs 40",
    "resnet18_digits": "--epochs 30",
    "plain18_digits": "--epochs 30",
    "densenet_gray": "--epochs 10",
    "googlenet_gray": "--epochs 6 --batch-size 32 --optimizer adamw --lr 0.001",
    "nin": "--epochs 5 --batch-size 16 --optimizer adamw --lr 0.0003",
    "vgg11_small": "--epochs 3 --batch-size 16 --optimizer adamw --lr 0.0005",
    "alexnet_gray": "--epochs 3 --batch-size 16 --optimizer adamw --lr 0.0005",
    "mobilenet_v1": "--epochs 2 --batch-size 16",
    "resnet18_gray": "--epochs 2 --batch-size 16",
    "plain18": "--epochs 1 --batch-size 16",
    "plain34": "--epochs 2 --batch-size 8 --lr 0.02",
    "vgg11_gray": "--epochs 1 --batch-size 8 --optimizer adamw --lr 0.0002",
}
"""Options of ``deploy train``, fast networks first; the slow ones have few epochs, since each takes minutes."""

NOT_TRAINED = {
    "inception_block": "not a classifier but a single block",
}
"""Networks that are not trained, and why."""

TWINS = ("resnet18_digits", "plain18_digits")
TWIN_SEEDS = (0, 1, 2)


def main() -> None:
    """Measure the networks without a result, then write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # results must not depend on the number of cores
    before = load("zoo")
    result: dict[str, Any] = {
        "asked": sorted(entries()),
        "rows": before.get("rows", {}),
        "twins": before.get("twins", {}),
    }
    for name in fnmatch.filter(TWINS, arguments.only):
        for seed in TWIN_SEEDS:
            key = f"{name} {seed}"
            if key not in result["twins"] or arguments.again:
                result["twins"][key] = _curve(name, seed)
                _save(result, key, result["twins"][key])
    for name in fnmatch.filter([*RECIPES, *NOT_TRAINED], arguments.only):
        if name not in result["rows"] or arguments.again:
            result["rows"][name] = _trained(name) if name in RECIPES else _untrained(name)
            _save(result, name, result["rows"][name])
    _pages(result)


def _save(result: dict[str, Any], name: str, row: dict[str, Any]) -> None:
    print(name, row, flush=True)
    write("zoo", result)
    _pages(result)


def _pages(result: dict[str, Any]) -> None:
    (ROOT / "docs" / "zoo.md").write_text(document(load("zoo")), encoding="utf-8")
    if result["twins"]:
        (ROOT / "docs" / "plain_and_residual.png").write_bytes(picture(result["twins"]))


def _trained(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        with _processor_time() as spent:
            code, trained, seconds = _train(folder, name, 0)
        if code:
            return {"trained": False, "reason": _message(trained) or f"exit {code}", **_size(name)}
        exported = _deploy(folder, "export", f"zoo/{name}")[1]
        evaluated = _deploy(folder, "evaluate", f"zoo/{name}", "--data", "digits")[1]
    return {
        "trained": True,
        **_size(name),
        "recipe": trained["recipe"],
        "epochs": trained["epochs"],
        "best_epoch": trained["best_epoch"],
        "last_top1": trained["history"][-1]["test_top1"],
        "train_seconds": round(seconds, 1),
        "train_processor_seconds": round(spent["seconds"], 1),
        **_parity(exported),
        **_accuracy(evaluated),
    }


def _untrained(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        exported = _deploy(folder, "export", f"zoo/{name}", "--weights", "none")[1]
    return {"trained": False, "reason": NOT_TRAINED[name], **_size(name), **_parity(exported)}


def _curve(name: str, seed: int) -> dict[str, Any]:
    """Train one of the twins; return its curves by epoch."""
    with tempfile.TemporaryDirectory() as folder:
        history = _train(folder, name, seed)[1]["history"]
    columns = ("train_loss", "test_loss", "train_top1", "test_top1")
    return {column: [round(row[column], 5) for row in history] for column in columns}


def _train(folder: str, name: str, seed: int) -> tuple[int, dict[str, Any], float]:
    return _deploy(folder, "train", f"zoo/{name}", "--data", "digits", "--seed", str(seed), *shlex.split(RECIPES[name]))


def _deploy(folder: str, *arguments: str) -> tuple[int, dict[str, Any], float]:
    return deploy("-q", "--artifacts", folder, *arguments, timeout=TIMEOUT_S)


def _size(name: str) -> dict[str, Any]:
    """Return the input shape and the numbers of parameters: as published, and with ten outputs."""
    entry = entries()[name]
    ten = {"num_classes": 10} if "num_classes" in entry.options else {}
    with torch.device("meta"):
        published, built = entry.build(), entry.build(**ten)
    count, count_built = (sum(item.numel() for item in module.parameters()) for module in (published, built))
    return {"input": entry.input_shape, "parameters": count, "parameters_here": count_built}


def _parity(document: dict[str, Any]) -> dict[str, Any]:
    if "parity" not in document:
        return {"verdict": f"not exported: {_message(document)}"}
    parity = document["parity"]
    outputs = [item for item in parity["outputs"] if item["group"] == "unit"]
    return {
        "verdict": parity["verdict"],
        "reasons": parity["reasons"][:2],
        "margin": parity["margin"],
        "torch_nsr": outputs[0]["torch"],
        "onnxruntime_nsr": outputs[0]["candidate"],
        "weights": parity["weights"]["counts"],
        "sizes_run": parity["dynamic"],
    }


def _accuracy(document: dict[str, Any]) -> dict[str, Any]:
    if "rows" not in document:
        return {"evaluation": f"failed: {_message(document)}"}
    ours, theirs = document["rows"]
    images = ours["accuracy"]["images"]
    return {
        "evaluation": document["verdict"],
        "images": images,
        "top1": ours["accuracy"]["top1"],
        "top1_interval": ours["accuracy"]["top1_interval"],
        "onnxruntime_top1": theirs["accuracy"]["top1"],
        "disagree": images - round(theirs["comparison"]["agreement"] * images),
        "confidence_shift": theirs["comparison"]["confidence_shift"],
    }


@contextmanager
def _processor_time() -> Iterator[dict[str, float]]:
    """Measure the CPU seconds of child processes that end in the block; competing load does not affect them."""
    spent = {"seconds": 0.0}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield spent
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent["seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _message(document: dict[str, Any]) -> str:
    return str(document.get("error", {}).get("message", ""))[:300]


if __name__ == "__main__":
    main()
