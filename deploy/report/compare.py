"""``deploy report --compare``: two machines, or two commits: what changed beyond noise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.bench.statistics import LEVEL, Interval, plain_interval, unpaired_ratio
from deploy.core.errors import ArtifactError
from deploy.core.progress import SILENT, Progress
from deploy.core.store import REPORT, Store
from deploy.report.collect import collect
from deploy.report.write import KIND, SCHEMA, describe

FAMILY = 1 - LEVEL
"""How often any of all verdicts of a comparison may be wrong where nothing changed."""

SAME = ("slug", "backend", "precision", "target", "batch", "sizes", "threads", "device", "scenario")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One cell in both reports.

    Attributes:
        name: of the cell.
        ratio: latency of the new over the old, with its 95 % interval; None where one was not timed.
        verdict: ``faster`` or ``slower`` where that holds for all cells together, else ``no change shown``.
        others: what else changed, in words: file size, accuracy, parity, failure.
    """

    name: str
    old_ns: float | None
    new_ns: float | None
    ratio: Interval | None
    verdict: str
    others: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What `compare_reports` found.

    Attributes:
        old, new: machines of the two sides, as they describe themselves.
        changes: of the cells in both.
        gone, added: names of cells in one only.
    """

    old: Sequence[Mapping[str, Any]]
    new: Sequence[Mapping[str, Any]]
    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "old": list(self.old),
            "new": list(self.new),
            "changes": [{**asdict(item), "ratio": plain_interval(item.ratio)} for item in self.changes],
            "gone": list(self.gone),
            "added": list(self.added),
        }


def compare_reports(
    old: Path,
    new: Path,
    *,
    models: Sequence[str] = (),
    baseline: str = "torch",
    progress: Progress = SILENT,
) -> Changes:
    """Compare what was timed in two places or at two times.

    The two were not timed side by side: their ratio is that of two independent groups of processes (Welch's t on log
    medians), and what drifted in between is in it. Verdicts hold together: each is at 5 % over the number of cells
    (Bonferroni), so that one of twenty comparisons of nothing has a verdict at all.

    Args:
        old: an artifacts directory, or the ``report.json`` of one.
        new: another.
        models: names; none takes all.
        baseline: as for `deploy.report.write.write_report`.
        progress: told what happens.

    Raises:
        ArtifactError: one of them is no report, or has nothing that was timed.
    """
    first, second = (_document(path, models, baseline, progress) for path in (old, new))
    ours, theirs = _cells(first), _cells(second)
    both = [name for name in ours if name in theirs]
    return Changes(
        old=first["machines"],
        new=second["machines"],
        changes=tuple(_change(name, ours[name], theirs[name], len(both)) for name in both),
        gone=tuple(name for name in ours if name not in theirs),
        added=tuple(name for name in theirs if name not in ours),
    )


def _document(path: Path, models: Sequence[str], baseline: str, progress: Progress) -> Mapping[str, Any]:
    if path.is_dir():
        found = collect(Store(path), models, progress)
        if not found.records:
            raise ArtifactError(f"{path}: nothing was timed there.", "deploy --artifacts DIR bench MODEL")
        return describe(found, baseline, path / REPORT)
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc}.") from exc
    if not isinstance(document, dict) or (document.get("kind"), document.get("schema")) != (KIND, SCHEMA):
        raise ArtifactError(f"{path}: not a report of this version of deploy-toolkit.", "deploy report")
    rows = [row for row in document["rows"] if not models or not {row["slug"], row["model"]}.isdisjoint(models)]
    return {**document, "rows": rows}


def _cells(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Rows by name; of a cell on several machines the first."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in document["rows"]:
        name = f"{row['slug']} {row['backend']} {row['precision']} batch {row['batch']}, {row['threads']} threads"
        extra = [row["device"]] if row["device"] != "cpu" else []
        extra += [row["scenario"]] if row["scenario"] != "latency" else []
        extra += [f"{key}={value}" for key, value in row["sizes"].items() if key != "batch"]
        found.setdefault(", ".join([name, *extra]), row)
    return found


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any], cells: int) -> Change:
    before, after = old["medians_ns"], new["medians_ns"]
    ratio = unpaired_ratio(before, after) if before and after else None
    verdict = "no change shown"
    if ratio is not None:
        strict = unpaired_ratio(before, after, 1 - FAMILY / cells)
        verdict = "faster" if strict.high < 1 else "slower" if strict.low > 1 else verdict
    return Change(
        name=name,
        old_ns=_typical(before),
        new_ns=_typical(after),
        ratio=ratio,
        verdict=verdict,
        others=tuple(_others(old, new)),
    )


def _typical(medians: Sequence[float]) -> float | None:
    return math.exp(math.fsum(map(math.log, medians)) / len(medians)) if medians else None


def _others(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    if (old["failure"] or "") != (new["failure"] or ""):
        found.append(f"failed: {new['failure']}" if new["failure"] else "no longer fails")
    if old["bytes"] != new["bytes"]:
        found.append(f"size {new['bytes'] / old['bytes'] - 1:+.1%}")
    verdicts = [row["evidence"].get("verdict") for row in (old, new)]
    if verdicts[0] != verdicts[1]:
        found.append(f"parity {verdicts[0]}, now {verdicts[1]}")
    tops = [row["accuracy"] for row in (old, new)]
    if all(tops) and tops[0]["digest"] == tops[1]["digest"] and _apart(*(top["top1_interval"] for top in tops)):
        found.append(f"top-1 {tops[0]['top1']:.1%}, now {tops[1]['top1']:.1%}")
    return found


def _apart(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[1] < other[0] or other[1] < one[0]
