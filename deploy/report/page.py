"""The report as one HTML file: opens anywhere, asks nobody for anything.

Plotly's script and the figures lie in it compressed; the browser unpacks them. The table is plain HTML, there before
any script has run. The policy in the page's head forbids every request.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.resources import files
from typing import Any

from deploy.core.errors import MissingPackageError
from deploy.report.machines import HEADS, WHAT, side_by_side
from deploy.report.plots import plots
from deploy.report.tables import LEGEND, absences, columns_of, common_settings, machine_line

ASSETS = "deploy.report"
SHOWN = 100
"""Rows that are laid out until the reader asks for all; the others can be sorted and found as well."""


def page(document: Mapping[str, Any]) -> str:
    """The page of a report.

    Args:
        document: see `deploy.report.write.describe`.

    Raises:
        MissingPackageError: Plotly or Jinja is not installed.
    """
    jinja2, plotly = _package("jinja2"), _package("plotly.offline")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sortable"] = _sortable
    drawn = plots(document)
    rows = document["rows"]
    evidence = [
        {
            **{name: row[name] for name in ("slug", "backend", "precision", "command", "links", "created", "flags")},
            "reasons": row["evidence"].get("reasons", []),
            "by": row["evidence"].get("by", ""),
            "accuracy": row["accuracy"],
            "unknown": (row["limit"] or {}).get("unknown", {}),
        }
        for row in rows
    ]
    return str(
        environment.from_string(_asset("page.html")).render(
            document=document,
            rows=rows,
            columns=columns_of(rows),
            absences=absences(document),
            side=side_by_side(rows, document["machines"]),
            side_what=WHAT,
            side_heads=HEADS,
            machines=[machine_line(item) for item in document["machines"]],
            shown=SHOWN,
            settings=common_settings(rows),
            choices=_choices(rows),
            legend=LEGEND,
            plots=drawn,
            style=_asset("page.css"),
            script=_asset("page.js"),
            data=_packed(json.dumps({"plots": [asdict(item) for item in drawn], "rows": evidence})),
            plotly=_packed(plotly.get_plotlyjs()),
        )
    )


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise MissingPackageError(name.partition(".")[0], "the report", "deploy-toolkit[report]") from exc


def _asset(name: str) -> str:
    return (files(ASSETS) / "assets" / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    """Compressed, in letters that no HTML parser takes for its own."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _sortable(key: float | str | None) -> str:
    """A sort key as the script reads it; what is not known is empty and comes last."""
    return "" if key is None else repr(key) if isinstance(key, float) else str(key)


def _choices(rows: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What the table can be narrowed to by a click."""
    found = {name: sorted({row[name] for row in rows}) for name in ("backend", "precision")}
    return {name: values for name, values in found.items() if len(values) > 1}
