"""``deploy report --compare``: what changed between two reports, beyond run-to-run variation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bench.statistics import LEVEL, Interval, geometric, plain_interval, unpaired_ratio
from deploy.core.errors import ArtifactError
from deploy.core.names import REPORT
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.regular import read_text
from deploy.core.store import Store
from deploy.report import score
from deploy.report.collect import collect
from deploy.report.rows import JsonObject
from deploy.report.write import BASELINE, KIND, SCHEMA, describe

FAMILY_ERROR_RATE = 1 - LEVEL
"""Probability that any verdict of a comparison is wrong if nothing changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellChange:
    """One configuration that is in both reports.

    Attributes:
        old_ns, new_ns: geometric mean of the processes' median latencies; None if it was not timed.
        ratio: new latency over old latency with its 95 % interval; None if one of them was not timed.
        verdict: ``faster`` or ``slower`` if significant after correction for all configurations, else
            ``no change shown``.
        others: other changes in words: file size, accuracy, parity verdict, failure.
    """

    name: str
    old_ns: float | None
    new_ns: float | None
    ratio: Interval | None
    verdict: str
    others: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportComparison:
    """Result of `compare_reports`.

    Attributes:
        old, new: machines of the two reports.
        changes: configurations in both reports.
        gone, added: names of the configurations in only the old, only the new report.
    """

    old: Sequence[Mapping[str, Any]]
    new: Sequence[Mapping[str, Any]]
    changes: tuple[CellChange, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        changes = [{**to_plain(item), "ratio": plain_interval(item.ratio)} for item in self.changes]
        return {**to_plain(self), "changes": changes}


def compare_reports(
    old: Path, new: Path, *, models: Sequence[str] = (), progress: Progress = SILENT
) -> ReportComparison:
    """Compare the latencies of two machines or of two points in time.

    The two sides were not timed in turn, so ratios are those of independent groups of processes (Welch's t on log
    medians) and include any drift in between. Verdicts use the Bonferroni correction: the probability that any of them
    is wrong if nothing changed is at most 5 %.

    Args:
        old: an artifacts directory or a ``report.json``.
        new: the same, to compare with `old`.
        models: model names; empty for all models.
        progress: receives progress messages.

    Raises:
        ArtifactError: one of them is not a report, or contains no timings.
    """
    first, second = (_document(path, models, progress) for path in (old, new))
    try:
        return _compared(first, second)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        raise ArtifactError(f"{old} and {new}: a report is damaged: {type(exc).__name__}: {exc}.") from exc


def _compared(first: JsonObject, second: JsonObject) -> ReportComparison:
    before, after = _rows_by_name(first), _rows_by_name(second)
    both = [name for name in before if name in after]
    return ReportComparison(
        old=first["machines"],
        new=second["machines"],
        changes=tuple(_change(name, before[name], after[name], len(both)) for name in both),
        gone=tuple(name for name in before if name not in after),
        added=tuple(name for name in after if name not in before),
    )


def _document(path: Path, models: Sequence[str], progress: Progress) -> JsonObject:
    if path.is_dir():
        inputs = collect(Store(path), models, progress)
        if not inputs.records:
            raise ArtifactError(f"{path}: no timings found.", f"deploy --artifacts {path} bench MODEL")
        return describe(inputs, BASELINE, path / REPORT)  # speedups are not compared
    try:
        document: dict[str, Any] = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc}.") from exc
    if not isinstance(document, dict) or (document.get("kind"), document.get("schema")) != (KIND, SCHEMA):
        raise ArtifactError(f"{path}: not a report.json of this version of deploy-toolkit.", "deploy report")
    try:
        rows = [row for row in document["rows"] if not models or not {row["slug"], row["model"]}.isdisjoint(models)]
    except (LookupError, TypeError) as exc:
        raise ArtifactError(f"{path}: the report is damaged: {type(exc).__name__}: {exc}.", "deploy report") from exc
    return {**document, "rows": rows}


def _rows_by_name(document: JsonObject) -> dict[str, JsonObject]:
    """Return rows by the name of their configuration; of several machines, the first."""
    rows: dict[str, JsonObject] = {}
    for row in document["rows"]:
        parts = [f"{row['slug']} {row['backend']} {row['precision']} batch {row['batch']}", f"{row['threads']} threads"]
        parts += [row["device"]] if row["device"] != "cpu" else []
        parts += [row["scenario"]] if row["scenario"] != "latency" else []
        parts += [f"{name}={size}" for name, size in row["sizes"].items() if name != "batch"]
        rows.setdefault(", ".join(parts), row)
    return rows


def _change(name: str, old: JsonObject, new: JsonObject, cells: int) -> CellChange:
    before, after = old["medians_ns"], new["medians_ns"]
    ratio = unpaired_ratio(before, after) if before and after else None
    verdict = "no change shown"
    if ratio is not None:
        corrected = unpaired_ratio(before, after, 1 - FAMILY_ERROR_RATE / cells)
        verdict = "faster" if corrected.high < 1 else "slower" if corrected.low > 1 else verdict
    return CellChange(
        name=name,
        old_ns=geometric(before).value if before else None,
        new_ns=geometric(after).value if after else None,
        ratio=ratio,
        verdict=verdict,
        others=tuple(_others(old, new)),
    )


def _others(old: JsonObject, new: JsonObject) -> Iterator[str]:
    if (old["failure"] or "") != (new["failure"] or ""):
        yield f"failed: {new['failure']}" if new["failure"] else "no longer fails"
    if old["bytes"] != new["bytes"]:
        yield f"size {new['bytes'] / old['bytes'] - 1:+.1%}"
    verdicts = [row["evidence"].get("verdict") for row in (old, new)]
    if verdicts[0] != verdicts[1]:
        yield f"parity {verdicts[0]}, now {verdicts[1]}"
    before, after = old["accuracy"], new["accuracy"]
    if before and after and before["digest"] == after["digest"]:
        first, second = score.interval(before), score.interval(after)
        if first[1] < second[0] or second[1] < first[0]:
            yield f"{score.metric(after)} {score.value(before):.1%}, now {score.value(after):.1%}"
