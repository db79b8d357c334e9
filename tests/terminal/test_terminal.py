"""What commands print on a terminal and into pipes."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from deploy.bench.records import CellRecord
from deploy.bench.rows import rows_of
from deploy.support.formatting import CANNOT_TELL, times_faster
from deploy.terminal.bench import HEADS, LatencyTable, cells_of, latency_table, legend
from deploy.terminal.console import console, escape, rows
from deploy.terminal.progress import LineProgress, display
from deploy.terminal.sweep import SweepTable
from tests.report.conftest import add_record


@pytest.fixture
def records(tmp_path: Path) -> list[CellRecord]:
    return [add_record(tmp_path, ms=2.0), add_record(tmp_path, backend="onnxruntime", ms=1.0)]


def _text(renderable: Any, width: int = 200) -> str:
    out = Console(file=io.StringIO(), width=width)
    out.print(renderable)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def _live() -> Live:
    return Live(console=Console(file=io.StringIO(), width=120, force_terminal=False), auto_refresh=False)


def _printed(live: Live) -> str:
    assert isinstance(live.console.file, io.StringIO)
    return live.console.file.getvalue()


def test_markup_and_control_characters_print_literally() -> None:
    text = _text(rows([("name", escape("[bold]x[/] \x1b[31m\x07"))]))
    assert "[bold]x[/]" in text and "\x1b" not in text and "\x07" not in text


def test_a_pipe_gets_the_requested_width() -> None:
    assert console(piped=140).width == 140


def test_the_table_shows_the_columns_that_fit(records: list[CellRecord]) -> None:
    found = rows_of(records, "torch", {})
    hidden = {"roofline", "top-1"}  # nothing is known for these rows
    always = ["model", "backend", "precision", "batch", "status", "latency", "speedup"]
    for width, more in ((80, []), (100, ["95 % CI", "p99"]), (140, [name for name in HEADS if name not in always])):
        heads = [str(column.header) for column in latency_table(found, width).columns]
        assert heads == [name for name in HEADS if name in (*always, *more) and name not in hidden]
        out = Console(file=io.StringIO(), width=width)
        out.print(latency_table(found, width))
        assert isinstance(out.file, io.StringIO)
        assert max(map(len, out.file.getvalue().splitlines())) <= width and "…" not in out.file.getvalue()


def test_only_what_the_table_shows_is_explained(records: list[CellRecord]) -> None:
    found = rows_of(records, "torch", {})
    narrow, wide = legend(found, 80), legend(found, 140)
    assert "speedup" in narrow and "95 % CI" not in narrow and "95 % CI" in wide
    assert "roofline" not in wide and "INT8" not in wide and "unproven" not in wide


@pytest.mark.parametrize(
    ("interval", "start"),
    [
        ((1.52, 1.49, 1.55), "1.52×"),
        ((0.5, 0.45, 0.55), "0.50×"),
        ((1.01, 0.98, 1.04), "≈ 1×"),
        ((78.38, 0.01, 623357.06), CANNOT_TELL),
        ((1.2, 0.8, 1.9), CANNOT_TELL),
        ((20.0, 3.0, 133.0), CANNOT_TELL),
        ((1.52, 0.0, math.inf), "1.52× –"),
        ((1.52, None, None), "1.52× –"),
    ],
)
def test_a_speedup_that_the_measurements_do_not_show_is_not_shown(
    interval: tuple[float, float | None, float | None], start: str
) -> None:
    assert times_faster(*interval).startswith(start)


def test_cells_follow_the_heads(records: list[CellRecord]) -> None:
    first, second = (dict(zip(HEADS, cells_of(row), strict=True)) for row in rows_of(records, "torch", {}))
    assert (first["backend"], first["status"], first["speedup"]) == ("torch", "ref", "")
    assert (second["backend"], second["status"], second["memory"]) == ("onnxruntime", "✓", "100.0 MB")
    assert second["speedup"].startswith(("1.9", "2.0"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["a stage", "note: a note", "WARNING: a warning"]),
        ({"verbose": True}, ["a stage", "note: a note", "a detail", "WARNING: a warning"]),
        ({"quiet": True}, ["WARNING: a warning"]),
    ],
)
def test_pipes_get_lines(capsys: pytest.CaptureFixture[str], options: Mapping[str, bool], expected: list[str]) -> None:
    with display(**options) as progress:
        assert isinstance(progress, LineProgress)
        with progress.stage("a stage"):
            pass
        progress.note("a note")
        progress.detail("a detail")
        progress.warn("a warning")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": 0.0 s")[0] for line in lines] == expected


def test_the_growing_table_keeps_notes_and_warnings_above(records: list[CellRecord]) -> None:
    live = _live()
    table = LatencyTable(live)
    with table.stage("timing [x]"):
        table.update(rows_of(records, "torch", {}))
        assert "onnxruntime" in _text(live.renderable) and "timing [x]" in _text(live.renderable)
    table.note("a [note]")
    table.warn("a [warning]")
    assert "a [note]" in _printed(live) and "a [warning]" in _printed(live)


def test_the_sweep_table_counts_what_ended() -> None:
    live = _live()
    table = SweepTable(live, total=3)
    first, second, third = (SimpleNamespace(name=name) for name in ("export a", "bench a", "bench b"))
    table(first, "done", "")
    table(second, "begun", "")
    table(second, "doing", "timing")
    table(third, "failed", "no [GPU]")
    shown = _text(live.renderable)
    assert "2 of 3 tasks (1 done, 1 failed)" in shown and "bench a" in shown and "timing" in shown
    assert "export a" in _printed(live) and "bench b: no [GPU]" in _printed(live)
    table(second, "kept", "")
    assert "3 of 3 tasks" in _text(live.renderable) and "bench a" not in _text(live.renderable)
