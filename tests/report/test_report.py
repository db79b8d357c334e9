"""The report, from records to documents."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.bench.records import SkippedCell, record_path, save_absent, save_profile
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.report.compare import compare_reports
from deploy.report.write import write_report
from deploy.tools.verify import verify
from tests.report.conftest import add_accuracy, add_record


class Heard(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _row(document: Mapping[str, Any], *key: str) -> Any:
    (found,) = [row for row in document["rows"] if (row["slug"], row["backend"], row["precision"]) == key]
    return found


def test_it_writes_four_files_that_tell_the_same(filled: Path) -> None:
    found = write_report(artifacts=filled)
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "index.html",
        "report.csv",
        "report.json",
        "report.md",
    ]
    document = json.loads((found.folder / "report.json").read_text())
    assert len(document["rows"]) == 8
    rows = list(csv.DictReader(io.StringIO((found.folder / "report.csv").read_text())))
    assert [float(row["latency.median_ns.value"]) for row in rows] == [
        row["latency"]["median_ns"]["value"] for row in document["rows"]
    ]
    table = (found.folder / "report.md").read_text()
    assert table.count("\n| net") == 4 and "| architecture |" in table
    assert [row["slug"] for row in document["rows"]] == ["net"] * 4 + ["wide"] * 4


def test_speed_ups_are_against_the_baseline_with_an_interval(filled: Path) -> None:
    against_torch = write_report(artifacts=filled).document
    faster = _row(against_torch, "net", "onnxruntime", "int8")["speedup"]
    assert faster["low"] < 4 / 0.9 < faster["high"] and faster["high"] / faster["low"] < 1.1
    other = write_report(artifacts=filled, baseline="onnxruntime").document
    assert _row(other, "net", "onnxruntime", "fp32")["speedup"] is None
    assert _row(other, "net", "torch", "fp32")["speedup"]["value"] == pytest.approx(0.5, rel=0.05)


def test_ties_are_what_is_not_detectably_slower_than_the_best(tmp_path: Path) -> None:
    add_record(tmp_path, backend="onnxruntime", ms=1.0, noise=0.05)
    add_record(tmp_path, backend="openvino", ms=1.02, noise=0.05)
    add_record(tmp_path, backend="torch", ms=2.0, noise=0.05)
    marks = {row["backend"]: row["mark"] for row in write_report(artifacts=tmp_path).document["rows"]}
    assert sorted(filter(None, marks.values())) == ["best", "tie"] and marks["torch"] is None


def test_accuracy_belongs_to_the_very_file(filled: Path) -> None:
    document = write_report(artifacts=filled).document
    int8 = _row(document, "net", "onnxruntime", "int8")["accuracy"]
    assert int8["top1"] == 0.985 and int8["difference"] == -0.005
    assert _row(document, "net", "torch", "fp32")["accuracy"]["top1"] == 0.99
    assert _row(document, "net", "openvino", "fp32")["accuracy"] is None, "that file was not judged"
    assert _row(document, "wide", "torch", "fp32")["accuracy"] is None, "that model was not judged"


def test_only_the_newest_of_a_cell_counts(tmp_path: Path) -> None:
    add_record(tmp_path, ms=9.0, digest="a" * 64, created="2020-01-01")
    add_record(tmp_path, ms=1.0, digest="b" * 64)
    document = write_report(artifacts=tmp_path).document
    assert len(document["rows"]) == 1 and document["superseded"] == 1
    assert document["rows"][0]["latency"]["median_ns"]["value"] == pytest.approx(1e6, rel=0.05)


def test_every_link_leads_somewhere_and_the_command_names_the_cell(filled: Path) -> None:
    found = write_report(artifacts=filled)
    for row in found.document["rows"]:
        assert {"raw samples"} <= set(row["links"])
        assert all((found.folder / place).is_file() for place in row["links"].values()), row["links"]
        assert f"--backends {row['backend']} --precision {row['precision']}" in row["command"]
    assert "accuracy" in _row(found.document, "net", "torch", "fp32")["links"]


def test_what_was_not_measured_is_told_until_it_is(tmp_path: Path) -> None:
    add_record(tmp_path)
    save_absent(
        tmp_path, SkippedCell(model="net", backend="openvino", precision="fp32", batch=1, why="it has no such layer")
    )
    save_absent(tmp_path, SkippedCell(model="net", backend="torch", precision="fp32", batch=1, why="once"))
    assert [item["why"] for item in write_report(artifacts=tmp_path).document["absent"]] == ["it has no such layer"]
    assert "it has no such layer" in (tmp_path / "report" / "report.md").read_text()
    assert not verify(tmp_path).problems


def test_a_damaged_record_is_left_out_and_said(filled: Path) -> None:
    record = add_record(filled, "hurt")
    path = record_path(filled, record.cell)
    path.write_text(path.read_text().replace('"bytes": 1000', '"bytes": 1001'))
    heard = Heard()
    document = write_report(artifacts=filled, progress=heard).document
    assert "hurt" not in {row["slug"] for row in document["rows"]}
    assert len(heard.warnings) == 1 and path.name in heard.warnings[0]


def test_nothing_timed_is_an_error_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing was timed") as caught:
        write_report(artifacts=tmp_path)
    assert caught.value.hint == "deploy bench MODEL"
    add_record(tmp_path)
    with pytest.raises(ArtifactError, match="nothing of other was timed"):
        write_report(["other"], artifacts=tmp_path)


def test_advice_names_the_fastest_with_its_numbers(filled: Path) -> None:
    told = {item["model"]: item["text"] for item in write_report(artifacts=filled).document["advice"]}
    assert told["net"].startswith("INT8 on ONNX Runtime is fastest: 0.9")
    assert "top-1 -0.5 points against PyTorch (-1.5 to +0.5, 1000 images of digits)" in told["net"]
    assert "its accuracy was not measured" in told["wide"]


def test_advice_on_eight_bits_that_gain_nothing(tmp_path: Path) -> None:
    add_record(tmp_path, backend="onnxruntime", ms=1.0)
    slow = add_record(tmp_path, backend="onnxruntime", precision="int8", ms=1.2)
    texts = [item["text"] for item in write_report(artifacts=tmp_path).document["advice"] if item["kind"] == "int8"]
    assert (
        len(texts) == 1 and "INT8 is slower than float32 on ONNX Runtime" in texts[0] and "deploy profile" in texts[0]
    )
    layers = [
        {"layer": "conv", "operator": "Conv", "ns": 60.0, "arithmetic": "float", "kind": "compute"},
        {"layer": "q", "operator": "QuantizeLinear", "ns": 40.0, "arithmetic": "", "kind": "qdq"},
    ]
    cell = {
        name: getattr(slow.cell, name)
        for name in ("slug", "backend", "precision", "digest", "batch", "threads", "device")
    }
    save_profile(tmp_path, slow.cell, {**cell, "layers": layers, "in_float": ["conv"], "slower": []})
    texts = [item["text"] for item in write_report(artifacts=tmp_path).document["advice"] if item["kind"] == "int8"]
    assert "60% of the time is in layers that compute in float; 40% of the time goes to quantizing" in texts[0]
    assert not verify(tmp_path).problems


def test_advice_does_not_call_an_unclear_gain_none(tmp_path: Path) -> None:
    add_record(tmp_path, backend="onnxruntime", ms=1.0, noise=0.5)
    add_record(tmp_path, backend="onnxruntime", precision="int8", ms=0.9, noise=0.5)
    (text,) = [item["text"] for item in write_report(artifacts=tmp_path).document["advice"] if item["kind"] == "int8"]
    assert "cannot be told" in text


def test_comparison_tells_what_changed_beyond_noise(filled: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for slug, factor in (("net", 1.0), ("wide", 4.0)):
        add_record(new, slug, "torch", ms=4 * factor, seed=7)
        add_record(new, slug, "onnxruntime", ms=2.4 * factor if slug == "net" else 2 * factor, seed=7)
        add_record(new, slug, "onnxruntime", "int8", ms=0.9 * factor, seed=7)
    add_record(new, "more", seed=7)
    found = compare_reports(filled, new)
    verdicts = {item.name: item.verdict for item in found.changes}
    assert {name for name, verdict in verdicts.items() if verdict != "no change shown"} == {
        "net onnxruntime fp32 batch 1, 1 threads"
    }
    assert verdicts["net onnxruntime fp32 batch 1, 1 threads"] == "slower"
    assert found.added == ("more torch fp32 batch 1, 1 threads",)
    assert len(found.gone) == 2 and all("openvino" in name for name in found.gone)
    saved = write_report(artifacts=filled).folder / "report.json"
    again = compare_reports(saved, new)
    assert [item.verdict for item in again.changes] == [item.verdict for item in found.changes]


def test_comparison_of_the_same_with_itself_shows_nothing(filled: Path) -> None:
    assert {item.verdict for item in compare_reports(filled, filled).changes} == {"no change shown"}


def test_comparison_tells_of_accuracy_and_size(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root, right, size in ((old, 990, 1000), (new, 900, 500)):
        add_record(root, bytes=size)
        add_accuracy(root, "net", {("w" * 64,): (right, 0.0)})
    (change,) = compare_reports(old, new).changes
    assert change.others == ("size -50.0%", "top-1 99.0%, now 90.0%")


def test_comparison_refuses_what_is_no_report(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"kind": "shopping"}')
    with pytest.raises(ArtifactError, match="not a report"):
        compare_reports(filled, other)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ArtifactError, match="nothing was timed there"):
        compare_reports(empty, filled)


def test_what_was_asked_for_and_is_not_there_is_said(filled: Path) -> None:
    heard = Heard()
    document = write_report(["net", "nett"], baseline="tensorrt", artifacts=filled, progress=heard).document
    assert {row["slug"] for row in document["rows"]} == {"net"}
    assert heard.warnings == [
        "nothing of nett was timed",
        "nothing was timed with tensorrt in float32: there are no speed-ups",
    ]
