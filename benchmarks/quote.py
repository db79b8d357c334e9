"""Write the results of the benchmarks into the documentation, between markers.

    python -m benchmarks.quote [--check]

``--check`` changes nothing and exits with 1 if a document does not match the results.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import load
from benchmarks.tables.harness import harness_figures, harness_tables
from benchmarks.tables.int8 import int8_tables
from benchmarks.tables.scale import attack_text, scaling_tables, serve_figures, serve_tables, sweep_figures, turns_table
from benchmarks.tables.tensorrt import tensorrt_figures, tensorrt_tables

ROOT = Path(__file__).parent.parent


def figures() -> str:
    """Return the table of the README."""
    rows = ["| figure | measured | target | script |", "|---|---|---|---|"]
    startup, overhead, memory, faults, coverage = map(load, ("startup", "overhead", "memory", "faults", "coverage"))
    if startup:
        ours = {name: row for name, row in startup["rows"].items() if "deploy" in name}
        times = " · ".join(f"`{name}` {row['median_s']:.3f} s" for name, row in ours.items())
        rows.append(f"| showing the help, whole process | {times} | ≤ {startup['target_s']} s | `benchmarks.startup` |")
    if overhead:
        low, high = overhead["ratio_interval"]
        rows.append(
            f"| time of `deploy export {overhead['model']}` with the parity check, relative to the export alone | "
            f"{overhead['ratio']:.2f} × ({low:.2f} to {high:.2f}) | ≤ {overhead['target']} × | `benchmarks.overhead` |"
        )
    if memory:
        rows.append(
            f"| peak memory of any process, exporting and checking {memory['model']} "
            f"({memory['weights_bytes'] / 1e9:.2f} GB) | {memory['ratio']:.2f} × its weights | ≤ {memory['target']} × "
            "| `benchmarks.memory` |"
        )
    if faults:
        summary = faults["summary"]
        rows.append(
            f"| injected faults detected, {summary['faults']} in {summary['architectures']} architectures; false "
            f"alarms | {summary['caught']['deploy']}; {summary['false_alarms']['deploy']} | ≥ 98 %; 0 "
            "| `benchmarks.faults` |"
        )
    if coverage:
        done = [row for row in coverage["rows"].values() if row["exported"]]
        passed = sum(row["verdict"] == "pass" for row in done)
        rows.append(
            f"| torchvision and timm architectures exported; verdict pass | {len(done)} of {len(coverage['rows'])} "
            f"measured (of {coverage['asked']}); {passed} | all; all but 5 | `benchmarks.coverage` |"
        )
    rows.extend(tensorrt_figures())
    rows.extend(_int8_rows(load("calibration"), load("int8_speed")))
    rows.extend(harness_figures())
    if page := load("report_page"):
        measured = (
            f"{page['bytes'] / 1e6:.1f} MB; {page['open_s']['median']:.2f} s; {page['sort_ms']['median']:.0f} ms "
            f"({page['sort_ms']['interval'][0]:.0f} to {page['sort_ms']['interval'][1]:.0f})"
        )
        targets = page["targets"]
        rows.append(
            f"| a report of {page['rows']:,} rows: size; time to open in Chromium; time to sort | {measured} | "
            f"≤ {targets['bytes'] / 1e6:.0f} MB; ≤ {targets['open_s']:.0f} s; ≤ {targets['sort_ms']:.0f} ms | "
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
            f"| entropy calibration of {calibration['model']} with {calibration['images']} images: time relative to "
            f"ONNX Runtime's calibrator; peak memory | {ours['median_s'] / theirs['median_s']:.2f} ×; "
            f"{ours['peak_bytes'] / 1e9:.2f} GB | ≤ 0.33 ×; ≤ 0.8 GB | `benchmarks.calibration` |"
        )
    speedups = [
        f"{name} {row['ours']['speed_up']:.2f} ×"
        for backend, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"))
        if (row := speed.get("rows", {}).get(f"resnet18 {backend}"))
    ]
    if speedups:
        rows.append(
            f"| INT8 speedup over float32, ResNet-18, batch 1, {speed['threads']} threads | {' · '.join(speedups)} "
            "| ≥ 2.5 ×; ≥ 3.2 × | `benchmarks.int8_speed` |"
        )
    return rows


def fault_table() -> str:
    """Return the table of docs/parity.md."""
    result = load("faults")
    if not result:
        return ""
    summary = result["summary"]
    rows = [
        f"{summary['faults']} faults injected into {summary['architectures']} architectures, one at a time "
        "(`python -m benchmarks.faults`). The common comparisons run on the samples of ordinary amplitude of the same "
        "probes, which also decide this verdict.",
        "",
        "| comparison | detected | false alarms on correct exports |",
        "|---|---|---|",
    ]
    for method, caught in summary["caught"].items():
        name = "this verdict" if method == "deploy" else f"`{method}`"
        share = f"{caught} of {summary['faults']} ({caught / summary['faults']:.1%})"
        rows.append(f"| {name} | {share} | {summary['false_alarms'][method]} of {summary['architectures']} |")
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
    """Write the documents, or check them."""
    stale = []
    for path, marker, content in (
        ("README.md", "figures", figures()),
        ("docs/parity.md", "faults", fault_table()),
        ("docs/int8.md", "int8", int8_tables()),
        ("docs/tensorrt.md", "tensorrt", tensorrt_tables()),
        ("docs/timing.md", "harness", harness_tables()),
        ("docs/serving.md", "serve", serve_tables()),
        ("docs/serving.md", "turns", turns_table()),
        ("docs/serving.md", "attack", attack_text()),
        ("docs/scaling.md", "scaling", scaling_tables()),
    ):
        text = (ROOT / path).read_text(encoding="utf-8")
        wanted = _between(text, marker, content)
        if wanted != text:
            stale.append(path)
            if "--check" not in sys.argv:
                (ROOT / path).write_text(wanted, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"{', '.join(stale)}: does not match the results; run python -m benchmarks.quote")
        sys.exit(1)


if __name__ == "__main__":
    main()
