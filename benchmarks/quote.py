"""Write the measured figures into the documents, between their markers, so that none is typed by hand.

    python -m benchmarks.quote [--check]

``--check`` changes nothing and ends with 1 where a document is not what the results say.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks._common import load
from benchmarks._harness_tables import harness_figures, harness_tables
from benchmarks._int8_tables import int8_tables
from benchmarks._scale_tables import scaling_tables, serve_figures, serve_tables, sweep_figures, turns_table
from benchmarks._tensorrt_tables import tensorrt_figures, tensorrt_tables

ROOT = Path(__file__).parent.parent


def figures() -> str:
    """The table of the README."""
    rows = ["| what | measured | aim | script |", "|---|---|---|---|"]
    startup, overhead, memory, faults, coverage = map(load, ("startup", "overhead", "memory", "faults", "coverage"))
    if startup:
        ours = {name: row for name, row in startup["rows"].items() if "deploy" in name}
        times = " · ".join(f"`{name}` {row['median_s']:.3f} s" for name, row in ours.items())
        rows.append(f"| saying the help, whole process | {times} | ≤ {startup['target_s']} s | `benchmarks.startup` |")
    if overhead:
        low, high = overhead["ratio_interval"]
        rows.append(
            f"| `deploy export {overhead['model']}` with the proof, beside a script that only exports | "
            f"{overhead['ratio']:.2f} × ({low:.2f} to {high:.2f}) | ≤ {overhead['target']} × | `benchmarks.overhead` |"
        )
    if memory:
        rows.append(
            f"| peak memory of any process, exporting and proving {memory['model']} "
            f"({memory['weights_bytes'] / 1e9:.2f} GB) | {memory['ratio']:.2f} × its weights | ≤ {memory['target']} × "
            "| `benchmarks.memory` |"
        )
    if faults:
        found = faults["summary"]
        rows.append(
            f"| planted faults caught, {found['faults']} on {found['architectures']} architectures; false alarms | "
            f"{found['caught']['deploy']}; {found['false_alarms']['deploy']} | ≥ 98 %; 0 | `benchmarks.faults` |"
        )
    if coverage:
        done = [row for row in coverage["rows"].values() if row["exported"]]
        passed = sum(row["verdict"] == "pass" for row in done)
        rows.append(
            f"| torchvision and timm architectures exported; verdict pass | {len(done)} of {len(coverage['rows'])} "
            f"tried (of {coverage['asked']}); {passed} | all; all but 5 | `benchmarks.coverage` |"
        )
    rows.extend(tensorrt_figures())
    rows.extend(_int8_rows(load("calibration"), load("int8_speed")))
    rows.extend(harness_figures())
    if page := load("report_page"):
        told = (
            f"{page['bytes'] / 1e6:.1f} MB; {page['open_s']['median']:.2f} s; {page['sort_ms']['median']:.0f} ms "
            f"({page['sort_ms']['interval'][0]:.0f} to {page['sort_ms']['interval'][1]:.0f})"
        )
        aims = page["targets"]
        rows.append(
            f"| a report of {page['rows']:,} rows: size; opened by Chromium; sorted | {told} | "
            f"≤ {aims['bytes'] / 1e6:.0f} MB; ≤ {aims['open_s']:.0f} s; ≤ {aims['sort_ms']:.0f} ms | "
            "`benchmarks.report_page` |"
        )
    rows.extend(serve_figures())
    rows.extend(sweep_figures())
    return "\n".join(rows)


def _int8_rows(calibration: dict[str, Any], speed: dict[str, Any]) -> list[str]:
    rows = []
    if calibration:
        ours, theirs = (calibration["rows"][name] for name in ("ours entropy", "onnxruntime Entropy"))
        rows.append(
            f"| calibrating {calibration['model']} with {calibration['images']} images by entropy, beside ONNX "
            f"Runtime's own calibrator; peak memory | {ours['median_s'] / theirs['median_s']:.2f} × its time; "
            f"{ours['peak_bytes'] / 1e9:.2f} GB | ≤ 0.33 ×; ≤ 0.8 GB | `benchmarks.calibration` |"
        )
    told = [
        f"{name} {row['ours']['speed_up']:.2f} ×"
        for engine, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"))
        if (row := speed.get("rows", {}).get(f"resnet18 {engine}"))
    ]
    if told:
        rows.append(
            f"| INT8 over float32, ResNet-18, batch 1, {speed['threads']} threads | {' · '.join(told)} "
            "| ≥ 2.5 ×; ≥ 3.2 × | `benchmarks.int8_speed` |"
        )
    return rows


def fault_table() -> str:
    """The table of docs/parity.md."""
    result = load("faults")
    if not result:
        return ""
    found = result["summary"]
    rows = [
        f"{found['faults']} faults planted in {found['architectures']} architectures, one at a time "
        "(`python -m benchmarks.faults`); the usual comparisons see the samples of ordinary amplitude among the same "
        "probes, those on which this verdict decides.",
        "",
        "| comparison | caught | false alarms on clean exports |",
        "|---|---|---|",
    ]
    for method, caught in found["caught"].items():
        name = "this verdict" if method == "deploy" else f"`{method}`"
        share = f"{caught} of {found['faults']} ({caught / found['faults']:.1%})"
        rows.append(f"| {name} | {share} | {found['false_alarms'][method]} of {found['architectures']} |")
    rows.extend(["", *_misses(result["architectures"])])
    return "\n".join(rows)


def _misses(studies: dict[str, Any]) -> list[str]:
    missed = [
        f"- {name}: {row['fault']}: {row['why']}"
        for name, study in studies.items()
        for row in study["faults"]
        if row.get("verdict", "fail") != "fail"
    ]
    return ["Missed:", "", *missed] if missed else ["None was missed."]


def _between(text: str, marker: str, content: str) -> str:
    pattern = rf"(<!-- {marker}-begin -->\n).*?(<!-- {marker}-end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)


def main() -> None:
    """Write, or check."""
    stale = []
    for path, marker, content in (
        ("README.md", "figures", figures()),
        ("docs/parity.md", "faults", fault_table()),
        ("docs/int8.md", "int8", int8_tables()),
        ("docs/tensorrt.md", "tensorrt", tensorrt_tables()),
        ("docs/timing.md", "harness", harness_tables()),
        ("docs/serving.md", "serve", serve_tables()),
        ("docs/serving.md", "turns", turns_table()),
        ("docs/scaling.md", "scaling", scaling_tables()),
    ):
        text = (ROOT / path).read_text(encoding="utf-8")
        wanted = _between(text, marker, content)
        if wanted != text:
            stale.append(path)
            if "--check" not in sys.argv:
                (ROOT / path).write_text(wanted, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"not what the results say: {', '.join(stale)}; run python -m benchmarks.quote")
        sys.exit(1)


if __name__ == "__main__":
    main()
