"""``deploy report``: write one page that compares everything that was timed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.brief import brief
from deploy.core.environment import now, version
from deploy.core.errors import ArtifactError
from deploy.core.extras import require
from deploy.core.names import REPORT
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store, write_file
from deploy.precision.plan import recorded_plan
from deploy.report.advice import advice
from deploy.report.collect import ReportInputs, collect, is_of
from deploy.report.markdown import as_markdown
from deploy.report.page import render_page
from deploy.report.rows import report_rows
from deploy.report.tables import stale
from deploy.support.formatting import as_csv

SCHEMA = 1
KIND = "report"
BASELINE = "torch"
LISTS = ("medians_ns", "quantiles_ns")
"""Fields that are left out of the CSV file."""

METHOD = (
    "Each configuration ran in several fresh worker processes, in a new random order each round. Intervals are 95 % "
    "confidence intervals across processes (Student's t on log medians).",
    "A file is timed only if it passed the parity check against the float64 reference or, for INT8, if its error was "
    "measured. A file whose model is not known is timed too, and is called unproven.",
    "A tie is a configuration that is not detectably slower than the fastest one of its model.",
)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Report:
    """Result of `write_report`.

    Attributes:
        folder: contains ``index.html``, ``report.md``, ``report.csv`` and ``report.json``.
        document: content of ``report.json``.
    """

    folder: Path
    document: Mapping[str, Any]

    def __repr__(self) -> str:
        return brief(self, self.page, f"{len(self.document['rows'])} rows")

    @property
    def page(self) -> Path:
        """Path of the HTML page."""
        return self.folder / "index.html"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"page": str(self.page), **self.document}


def write_report(
    models: Sequence[str] = (),
    *,
    baseline: str = BASELINE,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Write a report on everything that was timed, as HTML, Markdown, CSV and JSON.

    Args:
        models: model names; empty for all models that were timed.
        baseline: backend whose float32 latency speedups are relative to.
        artifacts: artifacts directory; None for ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages, and a warning for each damaged record, which is left out.

    Raises:
        ArtifactError: there are no timings.
        MissingPackageError: Plotly or Jinja is not installed.
        StorageError: a file cannot be written.
    """
    require("report")
    store = Store.at(artifacts)
    folder = store.root / REPORT
    with progress.stage("reading the records"):
        inputs = collect(store, models, progress)
    if not inputs.records:
        which = f" for {', '.join(models)}" if models else ""
        raise ArtifactError(
            f"{store.root}: no timings found{which}; `deploy bench --quick` records none.", "deploy bench MODEL"
        )
    for name in models:
        if not any(is_of(record.cell, [name]) for _, record in inputs.records):
            progress.warn(f"{name}: no timings found")
    document = describe(inputs, baseline, folder)
    if not any((row["backend"], row["precision"]) == (baseline, "fp32") for row in document["rows"]):
        progress.warn(f"no speedups: the baseline {baseline} was not timed in float32")
    for configuration, text in stale(document):
        progress.warn(f"{configuration}: {text}")
    with progress.stage("writing the page"):
        texts = {
            "index.html": render_page(document),
            "report.md": as_markdown(document),
            "report.csv": as_csv(document["rows"], without=LISTS),
            "report.json": json.dumps(document, indent=1) + "\n",
        }
        for name, text in texts.items():
            write_file(folder / name, text.encode(), depth=1)
    return Report(folder=folder, document=document)


def describe(inputs: ReportInputs, baseline: str, folder: Path) -> dict[str, Any]:
    """Return a report as plain values, the content of ``report.json``; links are relative to ``folder``."""
    rows = report_rows(inputs, baseline, folder)
    machines: list[dict[str, Any]] = []
    for row in rows:
        own = {name: row.pop(name) for name in ("machine", "versions", "conditions")}
        same = [index for index, item in enumerate(machines) if item["machine"] == own["machine"]]
        if not same:
            machines.append(own)
        row["machine"] = same[0] if same else len(machines) - 1
    with_machines = [{**row, "machine": machines[row["machine"]]["machine"]} for row in rows]
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "created": now(),
        "deploy": version("deploy-toolkit"),
        "how": list(METHOD),
        "baseline": baseline,
        "seeds": sorted({record.about["seed"] for _, record in inputs.records if "seed" in record.about}),
        "machines": machines,
        "rows": rows,
        "skipped": [item.to_dict() for item in inputs.skipped],
        "superseded": inputs.superseded,
        "advice": advice(with_machines, [profile for _, profile in inputs.profiles], baseline),
        "sensitivity": list(_sensitivity(inputs)),
        "plans": list(_plans(inputs)),
        "curves": {slug: [dict(row) for row in curve] for slug, curve in inputs.curves.items()},
        "limits": [{"machine": dict(machine), **limits.to_dict()} for machine, limits in inputs.limits],
    }


def _sensitivity(inputs: ReportInputs) -> Iterator[dict[str, Any]]:
    """Yield the layers with the most quantization noise, for each INT8 file that was timed."""
    timed = {record.cell.digest for _, record in inputs.records}
    for item in inputs.artifacts:
        layers = (item.manifest.parity or {}).get("worst_layers")
        if layers and item.manifest.files[0].sha256 in timed:
            yield {"slug": item.manifest.slug, "target": item.manifest.target, "layers": layers}


def _plans(inputs: ReportInputs) -> Iterator[dict[str, Any]]:
    """Yield what each file in half precision that was timed, or whose engine was, computes in float32."""
    timed = {record.cell.digest for _, record in inputs.records}
    parents = {item.manifest.parent for item in inputs.artifacts if item.manifest.files[0].sha256 in timed}
    for item in inputs.artifacts:
        if item.manifest.files[0].sha256 in timed or item.manifest.digest in parents:
            plan = recorded_plan(item.manifest.options)
            if plan is not None:
                yield {
                    "slug": item.manifest.slug,
                    "file": item.path.name,
                    "summary": plan.summary(),
                    "blocks": list(plan.block_lines()),
                    "kept": [node.text() for node in plan.kept],
                }
