"""The report as one HTML file that opens offline and makes no network requests.

Charts are static SVG and the tables plain HTML, so that neither depends on scripts. The file also contains Plotly's
script and the figures compressed; the browser unpacks them when a reader asks for an interactive chart. The content
security policy in the page's head forbids every request.
"""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files

from deploy.core.extras import require
from deploy.report import fastest, tables
from deploy.report.plots import make_plots
from deploy.report.rows import JsonObject

SHOWN = 100
"""Rows in the page's layout until the reader asks for all; sorting and filtering cover the others too."""


EVIDENCE = ("slug", "backend", "precision", "command", "links", "created", "flags")
"""Fields of a row that its evidence shows."""


def render_page(document: JsonObject) -> str:
    """Return the page of a report; see `deploy.report.write.describe`."""
    require("report")
    import jinja2
    import plotly.offline

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sortable"] = _sortable
    plots = make_plots(document)
    rows = document["rows"]
    columns = tables.shown_columns(rows)
    choices = {name: sorted({row[name] for row in rows}) for name in ("backend", "precision")}
    evidence = [
        {
            **{name: row[name] for name in EVIDENCE},
            "stale": row.get("stale"),
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
            columns=columns,
            skipped=tables.skipped(document),
            stale=tables.stale(document),
            side=tables.side_by_side(rows, document["machines"]),
            configuration_heads=tables.CONFIGURATION_HEADS,
            machine_heads=tables.MACHINE_HEADS,
            machines=[tables.machine_line(item) for item in document["machines"]],
            shown=SHOWN,
            settings=fastest.settings(document),
            height=fastest.HEIGHT,
            common=tables.common_settings(rows),
            machine=document["machines"][0]["machine"].get("cpu", "") if document["machines"] else "",
            choices={name: values for name, values in choices.items() if len(values) > 1},
            legend=tables.legend(columns),
            plots=plots,
            style=_asset("page.css"),
            script=_asset("page.js"),
            data=_packed(json.dumps({"plots": {item.name: item.figures for item in plots}, "rows": evidence})),
            plotly=_packed(plotly.offline.get_plotlyjs()),
        )
    )


def _asset(name: str) -> str:
    return (files("deploy.report") / "assets" / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    """Return text compressed and in base64, which is safe in HTML."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _sortable(key: float | str | None) -> str:
    """Return a sort key as the script reads it; an unknown one is empty and comes last."""
    return "" if key is None else repr(key) if isinstance(key, float) else str(key)
