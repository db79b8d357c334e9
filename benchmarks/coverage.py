"""Export and check every float model of torchvision, and forty models of timm.

    python -m benchmarks.coverage [--only PATTERN] [--again]

``deploy export MODEL --weights none`` runs in a new process and a temporary directory for each model, those that took
least time in the last run first. An architecture that does not support a dynamic batch is exported again with
``--dynamic none``; the table shows it. Writes results/coverage.json after every model (an interrupted run resumes), and
docs/coverage.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import timm
import torchvision

from benchmarks.common import deploy, load, table_cell, write
from deploy.core.environment import versions

TIMM = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_tiny", "coatnet_0_rw_224", "convit_tiny",
    "convmixer_768_32", "convnextv2_atto", "crossvit_9_240", "cspresnet50", "davit_tiny", "deit_tiny_patch16_224",
    "dla34", "dpn68", "edgenext_xx_small", "efficientformer_l1", "efficientnetv2_rw_t", "efficientvit_b0",
    "eva02_tiny_patch14_224", "fastvit_t8", "fbnetc_100", "focalnet_tiny_srf", "ghostnet_100", "hardcorenas_a",
    "hrnet_w18_small", "inception_v4", "levit_128s", "lcnet_050", "maxxvit_rmlp_nano_rw_256", "mixer_s32_224",
    "mobileone_s0", "nf_resnet26", "poolformer_s12", "pvt_v2_b0", "regnetz_b16", "repvgg_a0", "res2net50_14w_8s",
    "resnest14d", "tinynet_a", "xception41",
)  # fmt: skip
TIMEOUT_S = 3600.0
OPTIONS = {"torchvision/retinanet*": "score_thresh=0.001", "torchvision/fcos*": "score_thresh=0.001"}
"""Untrained, these detect nothing above their default threshold, so there would be nothing to compare."""


def main() -> None:
    """Measure the models without a result, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    arguments = parser.parse_args()
    float_models = [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]
    known = set(timm.list_models())
    names = [f"torchvision/{name}" for name in float_models] + [f"timm/{name}" for name in TIMM if name in known]
    rows: dict[str, Any] = load("coverage").get("rows", {})
    known_s = {name: row["seconds"] for name, row in rows.items()}
    for name in sorted(fnmatch.filter(names, arguments.only), key=lambda name: known_s.get(name, 0.0)):
        if "proof" in load("coverage").get("rows", {}).get(name, {}) and not arguments.again:
            continue
        rows[name] = _measure(name)
        print(name, rows[name], flush=True)
        rows = load("coverage").get("rows", {}) | {name: rows[name]}
        write("coverage", {"rows": rows, "asked": len(names)})
    _table(rows, len(names))


def _measure(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        code, document, seconds = _export(folder, name)
        refused = ""
        if "parity" not in document or document["parity"]["verdict"] == "fail":
            refused = _message(document) or f"exit {code}"
            code, document, seconds = _export(folder, name, "--dynamic", "none")
    if "parity" not in document:
        reason = _message(document)
        return {"exported": False, "proof": None, "code": code, "reason": reason, "seconds": round(seconds, 1)}
    parity = document["parity"]
    outputs = [item for item in parity["outputs"] if item["group"] == "unit"]
    worst = max(outputs, key=_ratio, default=None)
    return {
        "exported": True,
        "code": code,
        "strategy": document["strategy"],
        "opset": document["opset"],
        "verdict": parity["verdict"],
        "reasons": parity["reasons"][:2],
        "dynamic": sorted(parity["dynamic"]),
        "sizes_run": parity["dynamic"],
        "dynamic_refused": refused,
        "torch_nsr": worst["torch"] if worst else None,
        "onnxruntime_nsr": worst["candidate"] if worst else None,
        "weights": parity["weights"]["counts"] if parity["weights"] else None,
        "proof": _proof(parity["coverage"]) if parity["coverage"] else None,
        "margin": parity["margin"],
        "notes": document["notes"],
        "bytes": document["bytes"],
        "seconds": round(seconds, 1),
    }


def _ratio(output: dict[str, Any]) -> float:
    """Return how many times PyTorch's noise ONNX Runtime's is; 1 where both are exact, as of integers."""
    given, own = output["candidate"] or 0.0, output["torch"] or 0.0
    return float(given / own if own else math.inf if given else 1.0)


def _proof(coverage: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a proof's coverage; of what no probe reached, the first three."""
    figures = {key: value for key, value in coverage.items() if isinstance(value, (int, float))}
    return figures | {"weights": coverage["weights"], "unreached": coverage["unreached"][:3]}


def _export(folder: str, name: str, *more: str) -> tuple[int, dict[str, Any], float]:
    options = [text for pattern, text in OPTIONS.items() if fnmatch.fnmatch(name, pattern)]
    chosen = [word for text in options for word in ("-o", text)]
    arguments = ("-q", "--artifacts", folder, "export", name, "--weights", "none", *chosen, *more)
    return deploy(*arguments, timeout=TIMEOUT_S)


def _message(document: dict[str, Any]) -> str:
    if "parity" in document:
        return "; ".join(document["parity"]["reasons"])[:300]
    return str(document.get("error", {}).get("message", ""))[:600]


def _table(rows: dict[str, Any], asked: int) -> None:
    done = [row for row in rows.values() if row["exported"]]
    passed = [row for row in done if row["verdict"] == "pass"]
    dynamic = [row for row in done if row["dynamic"]]
    proofs = [row["proof"]["percent"] for row in done if row.get("proof")]
    whole = sum(percent >= 100 for percent in proofs)
    lines = [
        "# Coverage",
        "",
        "Generated by `python -m benchmarks.coverage`; raw results in `benchmarks/results/coverage.json`. The weights "
        "are seeded and untrained; every export is checked against PyTorch in float64.",
        "",
        f"{len(rows)} of {asked} models were measured: {len(done)} exported, {len(passed)} with verdict pass, "
        f"{len(dynamic)} with a dynamic batch that was checked at several sizes.",
        "",
        f"Proof coverage was measured for {len(proofs)} of them: {whole} reach 100 %, the median is "
        f"{statistics.median(proofs):.1f} %, the smallest {min(proofs):.1f} %. *Weights* is the share of weight "
        "tensors that are in the file, were computed from weights alone, or move an output at a probe; *sides* counts "
        "the ways that data-dependent choices (branches, masks, clips, ReLUs) can take, and how many a probe took.",
        "",
        f"torch {versions()['torch']}, torchvision {versions()['torchvision']}, timm {versions()['timm']}, "
        f"onnx {versions()['onnx']}, onnxruntime {versions().get('onnxruntime-gpu') or versions().get('onnxruntime')}.",
        "",
        "| model | strategy | verdict | proof coverage | weights | sides | dynamic | NSR of torch fp32 "
        "| NSR of ONNX Runtime | remarks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        if not row["exported"]:
            lines.append(f"| {name} | | not exported | | | | | | | {table_cell(row['reason'], 300)} |")
            continue
        remarks = "; ".join(
            [
                *row["reasons"],
                *(f"`-o {text}`" for pattern, text in OPTIONS.items() if fnmatch.fnmatch(name, pattern)),
                *([f"dynamic batch: {row['dynamic_refused']}"] if row["dynamic_refused"] else []),
            ]
        )
        remarks = table_cell(remarks, 300)
        noise = [f"{row[key]:.1e}" if row[key] is not None else "" for key in ("torch_nsr", "onnxruntime_nsr")]
        dims = ", ".join(row["dynamic"]) or "none"
        lines.append(
            f"| {name} | {row['strategy']} | {row['verdict']} | {_proof_cells(row)} | {dims} | {noise[0]} | {noise[1]} "
            f"| {remarks} |"
        )
    (Path(__file__).parent.parent / "docs" / "coverage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _proof_cells(row: dict[str, Any]) -> str:
    proof = row.get("proof")
    if not proof:
        return " | | "
    counts = proof["weights"]
    share = 100 * (1 - counts["untouched"] / max(sum(counts.values()), 1))
    return f"{proof['percent']:.1f} % | {share:.1f} % | {proof['sides_reached']} of {proof['sides']}"


if __name__ == "__main__":
    main()
