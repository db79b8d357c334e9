"""Terminal output of ``deploy bench``: the table of latencies, live while it is measured, and as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner

from deploy.core.environment import usable_cores
from deploy.support import formatting
from deploy.support.formatting import CANNOT_TELL, UNKNOWN, duration, runs_on, size, spread, times_faster
from deploy.terminal import waiting
from deploy.terminal.console import console, escape, rows, table
from deploy.terminal.live import ConsoleProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deploy.bench.measure import BenchmarkReport
    from deploy.bench.records import SkippedCell
    from deploy.bench.rows import LatencyRow
    from deploy.bench.saturation import SaturationReport
    from deploy.core.backend import Backend

HEADS = (
    "model",
    "backend",
    "precision",
    "batch",
    "status",
    "latency",
    "95 % CI",
    "p99",
    "samples/s",
    "speedup",
    "roofline",
    "top-1",
    "p90",
    "memory",
    "size",
)
LEFT_ALIGNED = 3
NARROW = ("model", "backend", "precision", "batch", "status", "latency", "speedup", "top-1")
"""Columns that a terminal of any width shows."""
COLUMNS_THAT_FIT = {
    100: (*NARROW, "95 % CI", "p99"),
    120: (*NARROW, "95 % CI", "p99", "samples/s", "roofline"),
    140: HEADS,
}
"""Columns shown on a terminal of at least this width in characters."""
STATUS = {"reference": "ref", "pass": "✓", "measured": "~", "poor": "poor", "unproven": "unproven"}
LEGEND = {
    "ref": "reference of the parity check",
    "✓": "parity check passed",
    "~": "INT8 with measured error",
    "poor": "INT8 that is too far from the float file",
    "unproven": "no model is known to compare the file with",
    "!": "interference detected",
    "latency": "median across processes",
    "95 % CI": "confidence interval of the latency",
    "speedup": "relative to the baseline",
    "≈ 1×": "no difference",
    CANNOT_TELL: "the confidence interval is too wide",
    "roofline": "lower bound of the latency (--limits) / latency, and what sets the bound",
    UNKNOWN: "too few samples",
}
"""What heads and signs mean; those that a table shows are explained below it."""


def cells_of(row: LatencyRow) -> list[str]:
    """Return a row as texts, in the order of `HEADS`."""
    cell, stats = row.record.cell, row.stats
    head = [cell.slug, runs_on(cell.backend, cell.options), cell.precision, str(cell.batch)]
    file_size = size(row.record.about["bytes"])
    if stats is None:
        return [*head, "failed" if row.record.failure else "…", *[""] * (len(HEADS) - 6), file_size]
    median, speedup, peak = stats.median, row.speedup, row.detail("peak_bytes")
    return [
        *head,
        STATUS.get(row.record.evidence.get("verdict", ""), "?") + (" !" if row.flags else ""),
        duration(median.value),
        spread(median.value, median.low, median.high),
        duration(stats.quantiles["p99"]),
        f"{row.throughput:.4g}",
        "" if speedup is None else times_faster(speedup.value, speedup.low, speedup.high),
        "" if row.floor is None else f"{row.floor.nanoseconds / median.value:.0%} {row.floor.bound.partition('-')[0]}",
        _top1(row),
        duration(stats.quantiles["p90"]),
        UNKNOWN if peak is None else size(peak),
        file_size,
    ]


def _top1(row: LatencyRow) -> str:
    top1 = row.record.about.get("top1")
    return "" if top1 is None else f"{top1:.1%}"


def latency_table(found: Sequence[LatencyRow], width: int) -> Table:
    """Return rows as a table with the columns that fit on a terminal of this width in characters."""
    columns = _columns(found, width)
    result = table(*(HEADS[index] for index in columns), numbers=HEADS[LEFT_ALIGNED:])
    for row in found:
        cells = cells_of(row)
        result.add_row(*(escape(cells[index]) for index in columns))
    return result


def _columns(found: Sequence[LatencyRow], width: int) -> list[int]:
    """Return the columns that fit and in which a row has something."""
    shown = next((names for minimum, names in reversed(COLUMNS_THAT_FIT.items()) if width >= minimum), NARROW)
    filled = {
        "roofline": any(row.floor for row in found),
        "top-1": any(map(_top1, found)),
        "speedup": any(row.speedup for row in found),
    }
    return [index for index, name in enumerate(HEADS) if name in shown and filled.get(name, True)]


def legend(found: Sequence[LatencyRow], width: int) -> str:
    """Return what the heads and signs mean that a table of this width shows."""
    columns = _columns(found, width)
    texts = [cells_of(row)[index] for row in found for index in columns]
    words = {HEADS[index] for index in columns}
    words |= {word for text in texts for word in (text, *text.split(" "))}
    words |= {"≈ 1×"} if any(text.startswith("≈") for text in texts) else set()
    return "; ".join(f"{sign}: {meaning}" for sign, meaning in LEGEND.items() if sign in words)


def show_bench(report: BenchmarkReport, *, missing: Sequence[Backend] = ()) -> None:
    """Print the final table, its legend, interference, failures, skipped configurations, and ``missing`` backends."""
    out = console(piped=max(COLUMNS_THAT_FIT) + 30)
    if report.rows:
        out.print(latency_table(report.rows, out.width))
        out.print(f"[dim]{escape(legend(report.rows, out.width))}[/]")
    remarks = [*_remarks(report), *((item.title, f"not installed: {item.fix}") for item in missing)]
    out.print(rows((escape(name), escape(text)) for name, text in remarks))


def _remarks(report: BenchmarkReport) -> Iterator[tuple[str, str]]:
    """Yield remarks on the rows; a remark on several rows comes once."""
    for row in report.rows:
        if row.record.failure:
            yield str(row.record.cell), f"failed: {row.record.failure}"
    for row in report.rows:
        if row.floor and row.floor.unknown:
            names = ", ".join(f"{name} {count}" for name, count in row.floor.unknown.items())
            yield str(row.record.cell), f"the roofline limit excludes operators of unknown cost: {names}"
    for kind in sorted({kind for row in report.rows for kind in row.flags}):
        seen = [row for row in report.rows if kind in row.flags]
        yield "!", f"{max(row.flags[kind] for row in seen)}; {len(seen)} of {len(report.rows)} configurations"
    if any(row.speedup and times_faster(**asdict(row.speedup)) == CANNOT_TELL for row in report.rows):
        yield CANNOT_TELL, _busy(report.conditions.load)
    for row in report.rows:
        yield from ((str(row.record.cell), text) for text in _scenario(row))
    for slug in dict.fromkeys(row.record.cell.slug for row in report.rows if not row.record.about["trained"]):
        yield slug, "untrained weights: latencies are valid, predictions are meaningless"
    for file in report.stale:
        yield file.path.name, f"stale: {file.reason}. Renew it: {file.command}"
    for item in report.skipped:
        yield _skipped(item), item.reason


def _busy(load: float | None) -> str:
    """Return why an interval is wide, and what to do."""
    cores = usable_cores()
    again = "repeat with more processes: deploy bench --again --repetitions 20"
    if load is not None and load > 0.75 * cores:
        return f"the machine is busy (load {load:.1f} on {cores} cores); {again}, when it is quiet"
    return f"the processes differ by more than the backends do; {again}"


def _scenario(row: LatencyRow) -> Iterator[str]:
    """Yield the results of the scenario's first process; the record has those of all."""
    details = next((item.details for item in row.record.timed), {})
    if "loadgen" in details:
        yield f"load generator: {details['loadgen'].get('Result is', '?')}; log: {details['log']}"
    elif details.get("bound_held") is False:
        lowest = min(item["rate_per_s"] for item in details["trials"])
        yield f"the p99 limit is exceeded at every rate tried, down to {lowest:.4g} requests/s"
    elif "rate_per_s" in details:
        yield (
            f"at {details['rate_per_s']:.4g} requests/s (saturation: {details['saturation_per_s']:.4g}): p99 "
            f"{duration(details['p99_ns'])} from scheduled arrival to completion, at most {details['queue_most']} "
            "requests queued"
        )


def _skipped(item: SkippedCell) -> str:
    batch = "" if item.batch is None else f" batch {item.batch}"
    return f"{item.model} {item.backend} {item.precision}{batch}"


def show_saturation(found: SaturationReport) -> None:
    """Print the batch at which each configuration's throughput saturates."""
    pairs = []
    for item in found.ends:
        text = f"{item.throughput:.4g} samples/s, saturated from batch {item.batch} on; largest batch timed: "
        text += f"{item.largest} ({item.reason})"
        pairs.append((escape(f"{item.model} {item.backend} {item.precision}"), escape(text)))
    console().print(rows(pairs))


def as_csv(report: BenchmarkReport) -> str:
    """Return a report as CSV, one line per configuration, times in nanoseconds."""
    return formatting.as_csv(row.to_dict() for row in report.rows)


def as_markdown(report: BenchmarkReport) -> str:
    """Return a report as Markdown: the table, its legend, and skipped configurations."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * LEFT_ALIGNED + "---:|" * (len(HEADS) - LEFT_ALIGNED)]
    lines += ["| " + " | ".join(item.replace("|", "\\|") for item in cells_of(row)) + " |" for row in report.rows]
    lines += ["", legend(report.rows, max(COLUMNS_THAT_FIT)), ""]
    lines += [f"- {file}" for file in report.stale]
    lines += [f"- {_skipped(item)}: {item.reason}" for item in report.skipped]
    return "\n".join(lines) + "\n"


class LatencyTable(ConsoleProgress):
    """A table on stderr that grows while configurations are timed, with the current step below it."""

    def __init__(self, live: Live, step: str = "") -> None:
        super().__init__(live.console)
        self._live = live
        self._rows: Sequence[LatencyRow] = ()
        self._step = step
        self._draw()

    def update(self, found: Sequence[LatencyRow]) -> None:
        """Show these rows in place of the earlier ones."""
        self._rows = found
        self._draw()

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show the current step."""
        self._step = title
        self._draw()
        yield
        self._step = ""

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Show how far the current step is."""
        self._step = f"{done} of {total}: {text}"
        self._draw()

    def _draw(self) -> None:
        parts: list[Any] = [latency_table(self._rows, self._console.width)] if self._rows else []
        parts += [Spinner("dots", escape(self._step))] if self._step else []
        self._live.update(Group(*parts))


@contextmanager
def live_table(out: Console) -> Iterator[LatencyTable]:
    """Open a `LatencyTable`; it disappears at the end, when `show_bench` prints the final one."""
    waiting.end()
    with Live(console=out, refresh_per_second=8, transient=True) as live:
        yield LatencyTable(live, "preparing")
