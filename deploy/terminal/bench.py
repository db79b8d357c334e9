"""What was timed: a table that grows while it is measured, and the same as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from deploy.core.progress import Progress
from deploy.support import formatting
from deploy.support.formatting import duration, size, spread, times_faster
from deploy.terminal.markup import escape
from deploy.terminal.results import console, rows

if TYPE_CHECKING:
    from rich.console import Console

    from deploy.bench.compare import SpeedComparison
    from deploy.bench.measure import BenchmarkReport
    from deploy.bench.records import SkippedCell
    from deploy.bench.rows import LatencyRow
    from deploy.bench.saturation import SaturationReport
    from deploy.bench.statistics import Interval

HEADS = (
    "model",
    "backend",
    "precision",
    "batch",
    "status",
    "latency",
    "95 %",
    "p99",
    "samples/s",
    "faster",
    "of best",
    "top-1",
    "p90",
    "memory",
    "size",
)
LEFT = 3
FITS = {100: 12, 140: 15}
"""Columns that are shown on a terminal of at least so many characters; on a narrower one, the first nine."""
STATUS = {"reference": "ref", "pass": "✓", "measured": "~"}
LEGEND = (
    "status: ref what the others are held against, ✓ parity with float64 proven, ~ eight bits, measured, ! disturbed; "
    "latency: median over processes, 95 %: its interval over processes; faster: than the baseline, ≈ no difference; "
    "of best: the floor that --limits finds over the latency, and what bounds it; –: too few samples to tell"
)


def _faster(interval: Interval | None) -> str:
    return "" if interval is None else times_faster(interval.value, interval.low, interval.high)


def attained(row: LatencyRow) -> str:
    """How near a row comes to the floor, and what the floor is made of; empty where limits were not asked for."""
    if row.floor is None or row.stats is None:
        return ""
    return f"{row.floor.nanoseconds / row.stats.median.value:.0%} {row.floor.bound.partition('-')[0]}"


def _has_floor(row: LatencyRow) -> bool:
    return row.floor is not None


def _top1(row: LatencyRow) -> str:
    """Accuracy, where the artifact's manifest knows it."""
    known = row.record.about.get("top1")
    return "" if known is None else f"{known:.1%}"


def cells_of(row: LatencyRow) -> list[str]:
    """A row as texts, in the order of `HEADS`."""
    cell, stats = row.record.cell, row.stats
    backend = cell.backend + (" +graph" if cell.options.get("graph") else "")
    head = [cell.slug, backend, cell.precision, str(cell.batch)]
    status = STATUS.get(row.record.evidence.get("verdict", ""), "?") + (" !" if row.flags else "")
    on_disk = size(row.record.about["bytes"])
    if stats is None:
        return [*head, "failed" if row.record.failure else "…", *[""] * (len(HEADS) - 6), on_disk]
    peak = row.detail("peak_bytes")
    return [
        *head,
        status,
        duration(stats.median.value),
        spread(stats.median.value, stats.median.low, stats.median.high),
        duration(stats.quantiles["p99"]),
        f"{row.throughput:.4g}",
        _faster(row.speedup),
        attained(row),
        _top1(row),
        duration(stats.quantiles["p90"]),
        "–" if peak is None else size(peak),
        on_disk,
    ]


def table_of(found: Sequence[LatencyRow], width: int) -> Table:
    """Rows as a table, with the columns that fit."""
    shown = max((count for least, count in FITS.items() if width >= least), default=9)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    empty = {name for name, known in (("of best", _has_floor), ("top-1", _top1)) if not any(map(known, found))}
    columns = [index for index, name in enumerate(HEADS[:shown]) if name not in empty]
    for index in columns:
        left = index < LEFT
        table.add_column(HEADS[index], justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in found:
        cells = cells_of(row)
        table.add_row(*(escape(cells[index]) for index in columns))
    return table


def show_bench(report: BenchmarkReport) -> None:
    """The closing table, what could not be timed, and what disturbed it."""
    out = console(piped=max(FITS) + 30)
    if report.rows:
        out.print(table_of(report.rows, out.width))
        out.print(f"[dim]{escape(LEGEND)}[/]")
    out.print(rows((escape(name), escape(text)) for name, text in _remarks(report)))


def _remarks(report: BenchmarkReport) -> Iterator[tuple[str, str]]:
    """What must be known of the numbers: the same thing once, whatever the number of cells."""
    for row in report.rows:
        if row.record.failure:
            yield str(row.record.cell), f"failed: {row.record.failure}"
    for row in report.rows:
        if row.floor and row.floor.unknown:
            names = ", ".join(f"{name} {count}" for name, count in row.floor.unknown.items())
            yield str(row.record.cell), f"the floor leaves out operators of unknown cost: {names}"
    for kind in sorted({kind for row in report.rows for kind in row.flags}):
        seen = [row for row in report.rows if kind in row.flags]
        yield "!", f"{max(row.flags[kind] for row in seen)}; {len(seen)} of {len(report.rows)} cells"
    for row in report.rows:
        yield from ((str(row.record.cell), text) for text in _scenario(row))
    for slug in dict.fromkeys(row.record.cell.slug for row in report.rows if not row.record.about["trained"]):
        yield slug, "untrained weights: good for timing, worthless for predictions"
    for item in report.absent:
        yield _absent(item), item.why


def _scenario(row: LatencyRow) -> Iterator[str]:
    """What a scenario told, of the first process; the others are in the record."""
    details = next((item.details for item in row.record.timed), {})
    if "loadgen" in details:
        told = details["loadgen"]
        yield f"load generator: {told.get('Result is', '?')}, its log in {details['log']}"
    elif details.get("bound_held") is False:
        tried = min(item["rate_per_s"] for item in details["trials"])
        yield f"no rate holds the bound, down to {tried:.4g} requests/s"
    elif "rate_per_s" in details:
        yield (
            f"at {details['rate_per_s']:.4g} requests/s of {details['saturation_per_s']:.4g} possible: "
            f"p99 {duration(details['p99_ns'])} from due to done, {details['queue_most']} waiting at the most"
        )


def _absent(item: SkippedCell) -> str:
    batch = "" if item.batch is None else f" batch {item.batch}"
    return f"{item.model} {item.backend} {item.precision}{batch}"


def show_saturation(found: SaturationReport) -> None:
    """Where larger batches ended."""
    lines = [
        (
            f"{item.model} {item.backend} {item.precision}",
            f"{item.throughput:.4g} samples/s from batch {item.batch} on; largest run: {item.largest} ({item.why})",
        )
        for item in found.ends
    ]
    console().print(rows((escape(name), escape(text)) for name, text in lines))


def as_csv(report: BenchmarkReport) -> str:
    """One line a cell; times in nanoseconds."""
    return formatting.as_csv(row.to_dict() for row in report.rows)


def as_markdown(report: BenchmarkReport) -> str:
    """The table, its legend, and what could not be timed."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * LEFT + "---:|" * (len(HEADS) - LEFT)]
    lines += ["| " + " | ".join(item.replace("|", "\\|") for item in cells_of(row)) + " |" for row in report.rows]
    lines += ["", LEGEND, ""]
    lines += [f"- {_absent(item)}: {item.why}" for item in report.absent]
    return "\n".join(lines) + "\n"


def show_comparison(found: SpeedComparison) -> None:
    """The verdict on the second of two."""
    interval, colors = found.ratio, {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    said = {
        "faster": f"[bold green]{escape(found.second.name)} is faster[/]",
        "slower": f"[bold red]{escape(found.second.name)} is slower[/]",
        "no difference": f"[bold]no difference[/] beyond {found.margin:.1%}",
        "cannot tell": "[bold yellow]cannot tell[/]: run longer (--time-limit), or on a quieter machine",
    }[found.verdict]
    pairs = [("first", _side(found.first)), ("second", _side(found.second))]
    pairs.append(("ratio", f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f}), second over first"))
    pairs.append(("verdict", said))
    if found.guard is not None and found.allowed is not None:
        color = colors[found.guard]
        pairs.append(("bound", f"[{color}]{found.guard}[/]: may be slower by {found.allowed:.1%} at the most"))
    pairs += [("disturbed", escape(text)) for text in found.flags.values()]
    pairs.append(("took", f"{found.seconds:.0f} s, {len(found.first.medians)} pairs of processes"))
    console().print(rows(pairs))


def _side(side: Any) -> str:
    times = sorted(side.medians)
    cell = side.plan.cell
    where = f"{cell.backend}, {cell.precision}, batch {cell.batch}, {cell.threads} threads"
    return f"{escape(side.name)}: {duration(times[len(times) // 2])} ({where})"


class Growing(Progress):
    """A table on stderr that grows while things are timed, with what is being done below it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rows: Sequence[LatencyRow] = ()
        self._doing = ""

    def update(self, found: Sequence[LatencyRow]) -> None:
        """Show these rows."""
        self._rows = found
        self._draw()

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Say what is being done."""
        self._doing = title
        self._draw()
        yield
        self._doing = ""

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Say how far it is."""
        self._doing = f"{done} of {total}: {text}"
        self._draw()

    def note(self, text: str) -> None:
        """A line above the table."""
        self._live.console.print(f"[dim]note:[/] {escape(text)}", highlight=False)

    def warn(self, text: str) -> None:
        """A line above the table that stands out."""
        self._live.console.print(f"[bold yellow]WARNING:[/] {escape(text)}", highlight=False)

    def _draw(self) -> None:
        parts: list[Any] = [table_of(self._rows, self._live.console.width)] if self._rows else []
        parts += [Spinner("dots", escape(self._doing))] if self._doing else []
        self._live.update(Group(*parts))


@contextmanager
def growing(out: Console) -> Iterator[Growing]:
    """A `Growing` table on a terminal; it is gone when it ends, and the closing table stands in its place."""
    with Live(console=out, refresh_per_second=8, transient=True) as live:
        yield Growing(live)
