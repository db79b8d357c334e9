"""Measure the time to open and to sort a report of two thousand rows in a browser.

    python -m benchmarks.report_page [--rows 2000] [--rounds 7]

``deploy report`` writes the page from synthetic records (seeded latencies of fictitious networks). Opening: from the
request to the first frame after the table is ready to be sorted. Sorting: from the click to the second frame after it,
by numeric and text columns in turn. Headless Chromium, a new context each round. Writes results/report_page.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from benchmarks.common import interval, write
from deploy.bench.records import Cell, CellRecord, Repetition, save
from deploy.core.environment import now
from deploy.report.write import write_report

TARGETS = {"bytes": 6_000_000, "open_s": 2.0, "sort_ms": 100.0}
BACKENDS = ("torch", "torch-compile", "onnxruntime", "openvino")

SORT = """(column) => new Promise((done) => {
    const button = document.querySelector(`th.${column} button`);
    const began = performance.now();
    button.click();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})"""
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => done(performance.now())))"


def main() -> None:
    """Make the page, open and sort it, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), arguments.rows)
        report = write_report(artifacts=Path(folder))
        opened, sorted_ms = _measure(report.page, arguments.rounds)
        result: dict[str, Any] = {
            "rows": len(report.document["rows"]),
            "bytes": report.page.stat().st_size,
            "open_s": {"median": statistics.median(opened), "interval": interval(opened)},
            "sort_ms": {
                "median": statistics.median(sorted_ms),
                "interval": interval(sorted_ms),
                "worst": max(sorted_ms),
            },
            "targets": TARGETS,
        }
    write("report_page", result)
    print(result)


def _fill(root: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(rows):
        model, place = divmod(index, 20)
        backend, batch = BACKENDS[place % 4], 2 ** (place // 4)
        cell = Cell(
            model=f"zoo/network{model}",
            slug=f"network{model}",
            backend=backend,
            precision="fp32",
            digest="0" * 64,
            batch=batch,
            sizes={"batch": batch},
            threads=1,
        )
        about = {"file": None, "bytes": int(rng.integers(10**5, 10**8)), "trained": True, "created": now()}
        record = CellRecord(cell=cell, evidence={"verdict": "pass", "reasons": [], "by": "synthetic"}, about=about)
        for number in range(5):
            center = np.exp(rng.normal(14 + model / 50, 0.02))
            record = record.adding(
                Repetition(number=number, samples=(center * rng.gamma(50, 0.02, 100)).astype(np.int64))
            )
        save(root, record)


def _measure(page_path: Path, rounds: int) -> tuple[list[float], list[float]]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    opened, times = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        version = browser.version
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_path.as_uri())
            opened.append(page.evaluate(NEXT_FRAME) / 1000)
            times += [page.evaluate(SORT, column) for column in ("latency", "model", "latency", "backend")]
            page.close()
        browser.close()
    print(f"Chromium {version}")
    return opened, times


if __name__ == "__main__":
    main()
