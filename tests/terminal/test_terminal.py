"""What commands print on a terminal and into pipes."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from deploy.bench.records import CellRecord
from deploy.bench.rows import rows_of
from deploy.terminal.bench import HEADS, LatencyTable, cells_of, latency_table
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
    for width, count in ((80, 9), (100, 12), (140, 15)):
        heads = [str(column.header) for column in latency_table(found, width).columns]
        assert heads == [name for name in HEADS[:count] if name not in hidden]


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
