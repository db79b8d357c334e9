"""Lists of docs/models.md: architectures of transformers and networks of other libraries that were exported."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks.common import load


def architectures_rows() -> list[str]:
    """Return the rows of docs/figures.md."""
    rows = []
    for name, text in (
        ("architectures", "architectures of transformers"),
        ("libraries", "networks of other libraries"),
    ):
        if found := load(name).get("rows"):
            measured = f"{_passed(found)} of {len(found)}"
            rows.append(f"| {text} that pass, with a dynamic batch | {measured} | ≥ 95 % | `benchmarks.{name}` |")
    return rows


def architectures_text() -> str:
    """Return both lists, empty without results."""
    ours, others = load("architectures"), load("libraries")
    if not ours or not others:
        return ""
    lines = [
        f"Of transformers {ours['transformers']}, {len(ours['rows'])} architectures were built "
        f"small, from their configuration, with random weights: **{_passed(ours['rows'])} pass** "
        "(`python -m benchmarks.architectures`). "
        + ", ".join(f"`{name}`" for name in sorted(ours["rows"], key=str.casefold))
        + ".",
        "",
        f"Of other libraries, {len(others['rows'])} networks with random weights: **{_passed(others['rows'])} pass** "
        "(`python -m benchmarks.libraries`).",
        "",
    ]
    networks: dict[str, list[str]] = defaultdict(list)
    for name in others["rows"]:
        library, _, network = name.partition(" ")
        networks[_full(library, others["libraries"])].append(network)
    lines += [f"- {library}: {', '.join(names)}" for library, names in networks.items()]
    left = {name: row for rows in (ours["rows"], others["rows"]) for name, row in rows.items() if not _passes(row)}
    lines += ["", *(f"- {name}: {row['result']}: {'; '.join(row['reasons'])[:200]}" for name, row in left.items())]
    return "\n".join(lines).rstrip()


def _full(library: str, versions: dict[str, str]) -> str:
    """Return the name and version of a library that is known by the beginning of its name, or by its initials."""
    for name, version in versions.items():
        if name.startswith(library) or "".join(part[0] for part in name.split("-")) == library:
            return f"{name} {version}"
    return library


def _passes(row: dict[str, Any]) -> bool:
    return row["result"] == "pass" and any(len(sizes) > 1 for sizes in row["dynamic"].values())


def _passed(rows: dict[str, Any]) -> int:
    return sum(map(_passes, rows.values()))
