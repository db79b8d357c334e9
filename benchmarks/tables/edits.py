"""Table of docs/editing.md: public files that were changed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.common import load, table_cell


def edits_table() -> str:
    """Return the counts and the table, empty without results."""
    rows: dict[str, dict[str, Any]] = load("edits").get("rows", {})
    if not rows:
        return ""
    edits = [key for key in next(iter(rows.values())) if key != "bytes"]
    counts = Counter(row[edit]["result"] for row in rows.values() for edit in edits)
    lines = [
        f"{len(rows)} files from Python packages, each changed in {len(edits)} ways with `--probes quick` "
        f"(`python -m benchmarks.edits`): {', '.join(f'{count} {name}' for name, count in counts.most_common())}.",
        "",
        f"| file | {' | '.join(f'`{edit}`' for edit in edits)} |",
        f"|---|{'---|' * len(edits)}",
    ]
    reasons = []
    for name, row in sorted(rows.items()):
        title = name.replace("==", " ")
        lines.append(f"| {title} | {' | '.join(row[edit]['result'] for edit in edits)} |")
        told = dict.fromkeys(row[edit]["reason"] for edit in edits if row[edit].get("reason"))
        reasons += [f"- {title}: {table_cell(reason, 200)}" for reason in told]
    return "\n".join([*lines, "", *reasons])
