"""Measure half precision by a searched plan on 24 networks, beside conversion as a whole and NVIDIA's AutoCast.

    python -m benchmarks.mixed_precision [--only PATTERN] [--again]

Every network is exported in float32 and put in float16 three times: by ``deploy convert --precision mixed`` (held to 40
dB against float64), as a whole by the same converter, and by ``modelopt.onnx.autocast`` if ``nvidia-modelopt`` is
installed (``pip install nvidia-modelopt[onnx]``). All three files are judged by ``deploy check --against`` with the
same probes and the same bound. Six networks have **planted outlier channels**: one channel is scaled so that
activations reach 1.5e5 and its readers are scaled back, so the function stays the same. Then an engine is built of the
mixed graph by TensorRT for RTX. Results go to results/mixed_precision.json after every network; an interrupted run
resumes.

Weights are random and seeded, after batch normalizations have seen data and the last layers that start at zero have
been given values: what overflows, or adds up, is planted or is of the architecture.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.common import deploy, load, write
from benchmarks.peak_memory import watched

NAME = "mixed_precision"
BOUND_DB = 40.0
PLANTED = ("resnet18", "resnet50", "densenet121", "vit_b_16", "swin_t", "convnext_tiny")
NETWORKS = (
    *("alexnet", "vgg11_bn", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "mobilenet_v3_large"),
    *("efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "maxvit_t", "deeplabv3_resnet50"),
    *("raft_small", "timm/vit_small_patch14_dinov2", "timm/eva02_tiny_patch14_224", "timm/mobilevit_s"),
    *(f"{name} (planted)" for name in PLANTED),
)
TIMEOUT_S = 3600.0

AUTOCAST = """
import sys, onnx
from modelopt.onnx.autocast import convert_to_mixed_precision
onnx.save(convert_to_mixed_precision(sys.argv[1], low_precision_type="fp16", keep_io_types=True), sys.argv[2])
"""
PLAIN = "import sys; from pathlib import Path; from exporters.half import to_half; to_half(*map(Path, sys.argv[1:3]))"


def measure(network: str, folder: Path) -> dict[str, Any]:
    """Export a network, convert it in three ways, and judge the files."""
    factory = f"{Path(__file__).with_name('mixed_nets.py')}:{'planted' if network.endswith(')') else 'network'}"
    name = network.partition(" ")[0]
    code, document = _deploy(
        folder, "export", factory, "-o", f"name={name}", *_inputs(name), "--probes", "quick", "--name", "net"
    )
    if code not in (0, 4):
        return {"result": "not exported", "reason": _reason(document)}
    source = Path(document["file"])
    row: dict[str, Any] = {"bytes": document["bytes"]}
    document, costs = _converted(folder, source)
    row["mixed"] = {**_judged(document), **costs}
    row["one_run_s"] = _one_run_s(source, name)
    if "plan" in document:
        plan = document["plan"]
        row["mixed"] |= {key: plan[key] for key in ("nodes", "share", "runs", "margin")}
        reasons = [item["reason"] for item in plan["kept"]]
        row["mixed"]["kept"] = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        built, engine = _deploy(folder, "trt", "build", document["file"])
        row["engine"] = "built" if built == 0 else _reason(engine)
    for kind, code_text in (("plain", PLAIN), ("autocast", AUTOCAST)):
        if kind == "autocast" and importlib.util.find_spec("modelopt") is None:
            continue
        row[kind] = _other(folder, kind, code_text, source)
    return row


def _converted(folder: Path, source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert by ``deploy convert``; return its document, its seconds and those of its search, and its peak memory."""
    common = ("--artifacts", str(folder / "artifacts"))
    done = watched(*common, "convert", str(source), "--precision", "mixed", "--probes", "quick", timeout_s=TIMEOUT_S)
    searches = re.findall(r"searching for a plan \(fp16\): ([\d.]+) s", done.err)
    return done.document, {
        "seconds": round(done.seconds, 1),
        "search_s": round(sum(map(float, searches)), 1),
        "peak_bytes": done.peak_bytes,
    }


def _one_run_s(source: Path, name: str) -> float:
    """Return the median seconds of one run of the float32 graph in ONNX Runtime, batch 1."""
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    size = 128 if name == "raft_small" else 224
    feeds = {
        item.name: np.random.default_rng(0).random((1, 3, size, size), np.float32) for item in session.get_inputs()
    }
    times_s = []
    for _ in range(10):
        began = time.perf_counter()
        session.run(None, feeds)
        times_s.append(time.perf_counter() - began)
    return statistics.median(times_s[1:])


def _other(folder: Path, kind: str, text: str, source: Path) -> dict[str, Any]:
    path = folder / f"{kind}.onnx"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text, str(source), str(path)], capture_output=True, text=True
    )
    if done.returncode:
        return {"result": "not converted", "reason": done.stderr.strip().splitlines()[-1][:200]}
    _, document = _deploy(
        folder, "check", str(path), "--against", str(source), "--precision", "fp16", "--min-sqnr", str(BOUND_DB),
        "--probes", "quick",
    )  # fmt: skip
    return {**_judged(document), "share": _share(path)}


def _share(path: Path) -> float | None:
    """Return the share of the operations that are in half precision."""
    from deploy.support.onnx_costs import costs

    counted = costs(path, {"batch": 1}).by_precision
    return counted.get("fp16", 0) / sum(counted.values()) if sum(counted.values()) else None


def _judged(document: dict[str, Any]) -> dict[str, Any]:
    parity = document.get("parity")
    if parity is None:
        return {"result": "error", "reason": _reason(document)}
    return {"result": parity["verdict"], "reasons": parity["reasons"][:2]}


def _reason(document: dict[str, Any]) -> str:
    return str(document.get("error", document))[:300]


def _inputs(name: str) -> tuple[str, ...]:
    if name == "raft_small":
        return "--input", "first:batch,3,128,128", "--input", "second:batch,3,128,128"
    return "--input", f"image:batch,3,{224},{224}"


def _deploy(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code, document, _ = deploy("--artifacts", str(folder / "artifacts"), *words, timeout=TIMEOUT_S)
    return code, document


def main() -> None:
    """Measure the networks that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="networks, as a pattern")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    options = parser.parse_args()
    rows: dict[str, Any] = (load(NAME) or {}).get("rows", {})
    for network in NETWORKS:
        if not fnmatch.fnmatch(network, options.only) or (network in rows and not options.again):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[network] = measure(network, Path(folder))
        print(network, rows[network], flush=True)
        write(NAME, {"bound_db": BOUND_DB, "rows": rows})


if __name__ == "__main__":
    main()
