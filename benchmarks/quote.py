"""Write the results of the benchmarks into the documentation, between markers.

    python -m benchmarks.quote [--check]

``--check`` changes nothing and exits with 1 if a document does not match the results.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.badges import badges
from benchmarks.common import load
from benchmarks.tables.architectures import architectures_rows, architectures_text
from benchmarks.tables.detection import detection_table
from benchmarks.tables.edits import edits_table
from benchmarks.tables.foreign import foreign_table
from benchmarks.tables.gpu import gpu_tables
from benchmarks.tables.harness import harness_figures, harness_tables
from benchmarks.tables.int8 import int8_tables
from benchmarks.tables.mixed_precision import mixed_rows, mixed_table
from benchmarks.tables.scale import attack_text, scaling_tables, serve_figures, serve_tables, sweep_figures, turns_table
from benchmarks.tables.tensorrt import tensorrt_figures, tensorrt_tables

ROOT = Path(__file__).parent.parent


def main_figures() -> str:
    """Return the table of the README: five figures, and whether each meets its target."""
    rows = ["| figure | measured | target | |", "|---|---|---|---|"]

    def add(text: str, measured: str, target: str, met: bool) -> None:
        rows.append(f"| {text} | {measured} | {target} | {'✓' if met else '✗'} |")

    overhead, faults, harness, coverage = map(load, ("overhead", "faults", "harness", "coverage"))
    if faults:
        summary = faults["summary"]
        counts = summary["categories"]["all"]
        known = counts.get("caught", 0) + counts.get("reported", 0)
        false_alarms = summary["false_alarms"]
        measured = f"{known} of {summary['faults']:,}; {false_alarms} of {summary['clean']:,}"
        met = known >= 0.95 * summary["faults"] and not false_alarms
        add("planted faults caught or reported; right files rejected", measured, "≥ 95 %; 0", met)
    if coverage:
        done = coverage["rows"].values()
        passed = sum(row.get("verdict") == "pass" for row in done)
        measured = f"{passed} of {len(done)}"
        add("architectures of torchvision and timm that pass", measured, "all but 5", len(done) - passed <= 5)
    if overhead:
        met = overhead["ratio"] <= overhead["target"]
        text = f"time of an export of {overhead['model']} with its proof, relative to the bare export"
        add(text, f"{overhead['ratio']:.2f} ×", f"≤ {overhead['target']} ×", met)
    if verdicts := harness.get("verdicts"):
        trials, wrong = verdicts["trials"], verdicts["ours"]["equals_called_different"]
        found = verdicts["ours"]["slowdown_found"]
        text = f"{trials} comparisons of a file with itself: called different; slowed by 3 %: found"
        add(text, f"{wrong}; {found}", "≤ 5; ≥ 95", wrong <= 5 and found >= 95)
    if calibration := load("calibration"):
        ours, theirs = (calibration["rows"][name]["median_s"] for name in ("ours entropy", "onnxruntime Entropy"))
        text = "time of entropy calibration, relative to ONNX Runtime's"
        add(text, f"{ours / theirs:.2f} ×", "≤ 0.33 ×", ours <= theirs / 3)
    return "\n".join(rows)


def figures() -> str:
    """Return the table of docs/figures.md."""
    rows = ["| figure | measured | target | script |", "|---|---|---|---|"]
    startup, overhead, memory, faults, coverage = map(load, ("startup", "overhead", "memory", "faults", "coverage"))
    if startup:
        ours = {name: row for name, row in startup["rows"].items() if "deploy" in name}
        times = " · ".join(f"`{name}` {row['median_s']:.3f} s" for name, row in ours.items())
        rows.append(f"| showing the help, whole process | {times} | ≤ {startup['target_s']} s | `benchmarks.startup` |")
    if walk := load("newcomer"):
        targets, silence = walk["targets"], f"{walk['longest_silence_s']:.2f} s"
        text = f"a newcomer's {walk['steps']} commands and mistakes: as they must be; longest silence; first export"
        measured = f"{walk['right']}; {silence}; {walk['first_answer_s']:.0f} s"
        target = f"all; ≤ {targets['silence_s']:.0f} s; ≤ {targets['first_answer_s']:.0f} s"
        rows.append(f"| {text} | {measured} | {target} | `benchmarks.newcomer` |")
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
        counts = summary["categories"]["all"]
        known = counts.get("caught", 0) + counts.get("reported", 0)
        rows.append(
            f"| injected faults, {summary['kinds']} kinds on {summary['networks']} networks, caught or reported; "
            f"{summary['clean']} right files: false alarms | {known} of {summary['faults']} "
            f"({known / summary['faults']:.1%}); {summary['false_alarms']} | ≥ 99.5 % static, ≥ 95 % others; 0 "
            "| `benchmarks.faults` |"
        )
    if coverage:
        done = [row for row in coverage["rows"].values() if row["exported"]]
        passed = sum(row["verdict"] == "pass" for row in done)
        rows.append(
            f"| torchvision and timm architectures exported; verdict pass | {len(done)} of {len(coverage['rows'])} "
            f"measured (of {coverage['asked']}); {passed} | all; all but 5 | `benchmarks.coverage` |"
        )
    rows.extend(architectures_rows())
    rows.extend(mixed_rows())
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
        f"{summary['faults']} faults of {summary['kinds']} kinds, planted one at a time in {summary['networks']} "
        "networks (`python -m benchmarks.faults`). *Reported* means that the verdict is inconclusive, or that the "
        "coverage names the planted node as not reached. *Held out* is a half of the kinds, by a hash of their names.",
        "",
        "| faults | planted | caught | reported | missed |",
        "|---|---|---|---|---|",
    ]
    for name, counts in summary["categories"].items():
        caught, reported, missed = (counts.get(key, 0) for key in ("caught", "reported", "missed"))
        rows.append(f"| {name} | {caught + reported + missed} | {caught} | {reported} | {missed} |")
    margin = summary["smallest_clean_margin"]
    rows += [
        "",
        f"Of {summary['clean']} judgements of right files, {summary['false_alarms']} failed and {summary['doubts']} "
        f"were inconclusive; the smallest margin was {margin:.2f}.",
        "",
        "| common comparison, static faults | detected | false alarms |",
        "|---|---|---|",
    ]
    rows += [
        f"| `{name}` | {item['caught']} of {item['static']} | {item['false_alarms']} of {item['clean']} |"
        for name, item in summary["common"].items()
    ]
    if summary["missed"]:
        rows += ["", "Missed:", "", *(f"- {key}" for key in summary["missed"])]
    return "\n".join(rows)


def _between(text: str, marker: str, content: str) -> str:
    pattern = rf"(<!-- {marker}-begin -->\n).*?(<!-- {marker}-end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)


def main() -> None:
    """Write the documents, or check them."""
    wanted = badges()
    for path, marker, content in (
        ("README.md", "main-figures", main_figures()),
        ("docs/figures.md", "figures", figures()),
        ("docs/models.md", "architectures", architectures_text()),
        ("docs/parity.md", "faults", fault_table()),
        ("docs/int8.md", "int8", int8_tables()),
        ("docs/fp16.md", "mixed", mixed_table()),
        ("docs/tensorrt.md", "tensorrt", tensorrt_tables()),
        ("docs/gpu.md", "gpu", gpu_tables()),
        ("docs/onnx-files.md", "foreign", foreign_table()),
        ("docs/detectors.md", "detection", detection_table()),
        ("docs/editing.md", "edits", edits_table()),
        ("docs/timing.md", "harness", harness_tables()),
        ("docs/serving.md", "serve", serve_tables()),
        ("docs/serving.md", "turns", turns_table()),
        ("docs/serving.md", "attack", attack_text()),
        ("docs/scaling.md", "scaling", scaling_tables()),
    ):
        wanted.setdefault(path, (ROOT / path).read_text(encoding="utf-8"))
        wanted[path] = _between(wanted[path], marker, content)
    stale = []
    for path, text in wanted.items():
        file = ROOT / path
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(path)
            if "--check" not in sys.argv:
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"{', '.join(stale)}: does not match the results; run python -m benchmarks.quote")
        sys.exit(1)


if __name__ == "__main__":
    main()
