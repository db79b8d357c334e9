"""The report, from records to documents."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.bench.records import SkippedCell, record_path, save_profile, save_skipped
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.report.compare import compare_reports
from deploy.report.write import write_report
from deploy.support.formatting import duration
from deploy.tools.verify import verify
from tests.report.conftest import add_accuracy, add_record


class Recorder(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _row(document: Mapping[str, Any], *key: str) -> Any:
    (found,) = [row for row in document["rows"] if (row["slug"], row["backend"], row["precision"]) == key]
    return found


def test_it_writes_four_files_with_the_same_rows(filled: Path) -> None:
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
    assert (found.folder / "report.md").read_text().count("\n| net") == 4
    assert [row["slug"] for row in document["rows"]] == ["net"] * 4 + ["wide"] * 4


def test_speedups_are_relative_to_the_baseline_with_an_interval(filled: Path) -> None:
    against_torch = write_report(artifacts=filled).document
    faster = _row(against_torch, "net", "onnxruntime", "int8")["speedup"]
    assert faster["low"] < 4 / 0.9 < faster["high"] and faster["high"] / faster["low"] < 1.1
    other = write_report(artifacts=filled, baseline="onnxruntime").document
    assert _row(other, "net", "onnxruntime", "fp32")["speedup"] is None
    assert _row(other, "net", "torch", "fp32")["speedup"]["value"] == pytest.approx(0.5, rel=0.05)


def test_ties_are_not_detectably_slower_than_the_best(tmp_path: Path) -> None:
    add_record(tmp_path, backend="onnxruntime", ms=1.0, noise=0.05)
    add_record(tmp_path, backend="openvino", ms=1.02, noise=0.05)
    add_record(tmp_path, backend="torch", ms=2.0, noise=0.05)
    marks = {row["backend"]: row["mark"] for row in write_report(artifacts=tmp_path).document["rows"]}
    assert sorted(filter(None, marks.values())) == ["best", "tie"] and marks["torch"] is None


def test_accuracy_is_of_the_file_that_was_timed(filled: Path) -> None:
    document = write_report(artifacts=filled).document
    int8 = _row(document, "net", "onnxruntime", "int8")["accuracy"]
    assert int8["top1"] == 0.985 and int8["difference"] == -0.005
    assert _row(document, "net", "torch", "fp32")["accuracy"]["top1"] == 0.99
    assert _row(document, "net", "openvino", "fp32")["accuracy"] is None, "that file was not evaluated"
    assert _row(document, "wide", "torch", "fp32")["accuracy"] is None, "that model was not evaluated"


def test_only_the_newest_record_of_a_configuration_is_shown(tmp_path: Path) -> None:
    add_record(tmp_path, ms=9.0, digest="a" * 64, created="2020-01-01")
    add_record(tmp_path, ms=1.0, digest="b" * 64)
    document = write_report(artifacts=tmp_path).document
    assert len(document["rows"]) == 1 and document["superseded"] == 1
    assert document["rows"][0]["latency"]["median_ns"]["value"] == pytest.approx(1e6, rel=0.05)


def test_every_link_exists_and_the_command_names_the_configuration(filled: Path) -> None:
    found = write_report(artifacts=filled)
    for row in found.document["rows"]:
        assert {"raw samples"} <= set(row["links"])
        assert all((found.folder / place).is_file() for place in row["links"].values()), row["links"]
        assert f"--backends {row['backend']} --precision {row['precision']}" in row["command"]
    assert "accuracy" in _row(found.document, "net", "torch", "fp32")["links"]


def test_a_skipped_configuration_is_listed_until_it_is_timed(tmp_path: Path) -> None:
    add_record(tmp_path)
    save_skipped(
        tmp_path, SkippedCell(model="net", backend="openvino", precision="fp32", batch=1, reason="it has no such layer")
    )
    save_skipped(tmp_path, SkippedCell(model="net", backend="torch", precision="fp32", batch=1, reason="once"))
    assert [item["reason"] for item in write_report(artifacts=tmp_path).document["skipped"]] == ["it has no such layer"]
    assert "it has no such layer" in (tmp_path / "report" / "report.md").read_text()
    assert not verify(tmp_path).problems


def test_a_damaged_record_is_left_out_with_a_warning(filled: Path) -> None:
    record = add_record(filled, "hurt")
    path = record_path(filled, record.cell)
    path.write_text(path.read_text().replace('"bytes": 1000', '"bytes": 1001'))
    recorder = Recorder()
    document = write_report(artifacts=filled, progress=recorder).document
    assert "hurt" not in {row["slug"] for row in document["rows"]}
    assert len(recorder.warnings) == 1 and path.name in recorder.warnings[0]


def test_no_timings_is_an_error_with_the_command_as_hint(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        write_report(artifacts=tmp_path)
    assert caught.value.hint == "deploy bench MODEL"
    add_record(tmp_path)
    with pytest.raises(ArtifactError, match="other"):
        write_report(["other"], artifacts=tmp_path)


def test_advice_names_the_fastest_with_its_numbers(filled: Path) -> None:
    document = write_report(artifacts=filled).document
    texts = {item["model"]: item["text"] for item in document["advice"] if item["kind"] == "fastest"}
    median = _row(document, "net", "onnxruntime", "int8")["latency"]["median_ns"]
    assert texts["net"].startswith("INT8 on ONNX Runtime")
    assert all(duration(median[name]) in texts["net"] for name in ("value", "low", "high"))
    assert "-0.5 points" in texts["net"] and "(-1.5 to +0.5, 1000 images of digits)" in texts["net"]
    assert "points" not in texts["wide"], "its accuracy was not measured"


def test_advice_on_int8_that_is_not_faster(tmp_path: Path) -> None:
    add_record(tmp_path, backend="onnxruntime", ms=1.0)
    slow = add_record(tmp_path, backend="onnxruntime", precision="int8", ms=1.2)
    texts = [item["text"] for item in write_report(artifacts=tmp_path).document["advice"] if item["kind"] == "int8"]
    assert len(texts) == 1 and "slower" in texts[0]
    assert f"--batch {slow.cell.batch} --threads {slow.cell.threads}" in texts[0] and "deploy profile" in texts[0]
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
    assert "60% of the time" in texts[0] and "40% of the time" in texts[0] and "deploy profile" not in texts[0]
    assert not verify(tmp_path).problems


def test_advice_calls_a_wide_interval_inconclusive(tmp_path: Path) -> None:
    add_record(tmp_path, backend="onnxruntime", ms=1.0, noise=0.5)
    add_record(tmp_path, backend="onnxruntime", precision="int8", ms=0.9, noise=0.5)
    (text,) = [item["text"] for item in write_report(artifacts=tmp_path).document["advice"] if item["kind"] == "int8"]
    assert "inconclusive" in text


def test_comparison_finds_what_changed(filled: Path, tmp_path: Path) -> None:
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


def test_comparison_of_a_report_with_itself_shows_no_change(filled: Path) -> None:
    assert {item.verdict for item in compare_reports(filled, filled).changes} == {"no change shown"}


def test_comparison_includes_accuracy_and_size(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root, right, size in ((old, 990, 1000), (new, 900, 500)):
        add_record(root, bytes=size)
        add_accuracy(root, "net", {("w" * 64,): (right, 0.0)})
    (change,) = compare_reports(old, new).changes
    assert change.others == ("size -50.0%", "top-1 99.0%, now 90.0%")


def test_comparison_refuses_other_files_and_empty_directories(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"kind": "shopping"}')
    with pytest.raises(ArtifactError, match=r"other\.json"):
        compare_reports(filled, other)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ArtifactError, match="empty"):
        compare_reports(empty, filled)


def test_missing_models_and_a_missing_baseline_are_warned_about(filled: Path) -> None:
    recorder = Recorder()
    document = write_report(["net", "nett"], baseline="tensorrt", artifacts=filled, progress=recorder).document
    assert {row["slug"] for row in document["rows"]} == {"net"}
    assert len(recorder.warnings) == 2
    assert "nett" in recorder.warnings[0] and "tensorrt" in recorder.warnings[1]
