"""``deploy report``: one page of everything that was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.environment import now, version
from deploy.core.errors import ArtifactError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import REPORT, Store, write_file
from deploy.report.advice import advice
from deploy.report.collect import Collection, collect, named
from deploy.report.page import page
from deploy.report.rows import report_rows
from deploy.report.tables import as_csv, as_markdown

SCHEMA = 1
KIND = "report"

HOW = (
    "Every row was timed in fresh processes, one after the other in an order drawn anew for each round; intervals "
    "(95 %) are over processes, Student's t on their log medians.",
    "Only what was proven equal to the model in float64, or in eight bits measured against it, has a time; ties are "
    "rows that are not detectably slower than the fastest of their model.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What `write_report` wrote.

    Attributes:
        folder: of ``index.html``, ``report.md``, ``report.csv`` and ``report.json``.
        document: what they show, plain values.
    """

    folder: Path
    document: Mapping[str, Any]

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / "index.html"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"page": str(self.page), **self.document}


def write_report(
    models: Sequence[str] = (),
    *,
    baseline: str = "torch",
    artifacts: Path | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Write the page, the tables and the data of everything that was timed.

    Args:
        models: names; none takes all that have records.
        baseline: the backend, in float32, that speed-ups are against.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: warned of damaged records, which are left out.

    Raises:
        ArtifactError: nothing was timed.
        MissingPackageError: Plotly or Jinja is not installed.
        StorageError: the disk refused.
    """
    store = Store(artifacts or default_root())
    folder = store.root / REPORT
    with progress.stage("reading the records"):
        found = collect(store, models, progress)
    if not found.records:
        which = f" of {', '.join(models)}" if models else ""
        raise ArtifactError(f"{store.root}: nothing{which} was timed.", "deploy bench MODEL")
    for name in models:
        if not any(named(record, [name]) for _, record in found.records):
            progress.warn(f"nothing of {name} was timed")
    document = describe(found, baseline, folder)
    if not any((row["backend"], row["precision"]) == (baseline, "fp32") for row in document["rows"]):
        progress.warn(f"nothing was timed with {baseline} in float32: there are no speed-ups")
    with progress.stage("writing the page"):
        texts = {
            "index.html": page(document),
            "report.md": as_markdown(document),
            "report.csv": as_csv(document),
            "report.json": json.dumps(document, indent=1) + "\n",
        }
        for name, text in texts.items():
            write_file(folder / name, text.encode())
    return Report(folder=folder, document=document)


def describe(found: Collection, baseline: str, folder: Path) -> dict[str, Any]:
    """The report as plain values.

    Args:
        found: what it is made of.
        baseline: as for `write_report`.
        folder: that links are relative to.
    """
    rows = report_rows(found, baseline, folder)
    machines: list[dict[str, Any]] = []
    for row in rows:
        own = {"machine": row.pop("machine"), "versions": row.pop("versions"), "conditions": row.pop("conditions")}
        same = [index for index, item in enumerate(machines) if item["machine"] == own["machine"]]
        if not same:
            machines.append(own)
        row["machine"] = same[0] if same else len(machines) - 1
    whole = [{**row, "machine": machines[row["machine"]]["machine"]} for row in rows]
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "created": now(),
        "deploy": version("deploy-toolkit"),
        "how": list(HOW),
        "baseline": baseline,
        "seeds": sorted({record.about["seed"] for _, record in found.records if "seed" in record.about}),
        "machines": machines,
        "rows": rows,
        "absent": [item.to_dict() for item in found.absent],
        "superseded": found.superseded,
        "advice": advice(whole, [profile for _, profile in found.profiles], baseline),
        "sensitivity": list(_sensitivity(found)),
        "curves": {slug: [dict(row) for row in curve] for slug, curve in found.curves.items()},
        "limits": [{"machine": dict(machine), **limits.to_dict()} for machine, limits in found.limits],
    }


def _sensitivity(found: Collection) -> Iterator[dict[str, Any]]:
    """Noise of the layers with the most of it, of every INT8 file that a row ran."""
    ran = {record.cell.digest for _, record in found.records}
    for item in found.artifacts:
        layers = (item.manifest.parity or {}).get("worst_layers")
        if layers and item.manifest.files[0].sha256 in ran:
            yield {"slug": item.manifest.slug, "target": item.manifest.target, "layers": layers}
