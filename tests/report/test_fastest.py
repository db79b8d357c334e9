"""What the page opens with, and the scales of its charts."""

from pathlib import Path

import pytest

from deploy.report.fastest import settings
from deploy.report.scale import Scale
from deploy.report.write import write_report
from tests.report.conftest import add_accuracy, add_record


def test_what_costs_accuracy_names_what_does_not(tmp_path: Path) -> None:
    add_record(tmp_path, "net", "torch", ms=4)
    add_record(tmp_path, "net", "onnxruntime", ms=2)
    add_record(tmp_path, "net", "openvino", "int8", ms=1)
    add_accuracy(
        tmp_path, "net", {"onnxruntime-fp32".ljust(64, "0"): (990, 0.01), "openvino-int8".ljust(64, "0"): (900, -9.0)}
    )
    ((answer,),) = (item.models for item in settings(write_report(artifacts=tmp_path).document))
    assert answer.how == "INT8 on OpenVINO"
    assert any(text.startswith("no detectable loss of top-1: float32 on ONNX Runtime, 2") for text in answer.remarks)


def test_configurations_that_are_not_detectably_slower_are_named(tmp_path: Path) -> None:
    add_record(tmp_path, "net", "onnxruntime", ms=1.0, noise=0.1)
    add_record(tmp_path, "net", "openvino", ms=1.0, noise=0.1, seed=1)
    ((answer,),) = (item.models for item in settings(write_report(artifacts=tmp_path).document))
    assert any(text.startswith("not detectably slower: float32 on") for text in answer.remarks)
    assert [line.backend for line in answer.lines] == sorted(
        ("ONNX Runtime", "OpenVINO"), key=lambda name: name not in answer.how
    )


def test_settings_are_apart(tmp_path: Path) -> None:
    for batch in (1, 8):
        add_record(tmp_path, "net", ms=batch, batch=batch)
    add_record(tmp_path, "other", ms=3)
    found = settings(write_report(artifacts=tmp_path).document)
    assert [(item.title, len(item.models)) for item in found] == [("batch 1, 1 thread", 2), ("batch 8, 1 thread", 1)]


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "values", [[3.0], [1.0, 1.001], [0.02, 400.0], [5e-4, 5.1e-4], [1.0, 9.0], [99.2, 99.9], [1e-9, 1e9], [7.0, 7.0]]
)
def test_a_scale_shows_its_values_and_names_some(values: list[float], log: bool) -> None:
    scale = Scale.of(values, log=log, before=0.13)
    places = [scale.at(value) for value in values]
    assert all(0.12 <= place <= 0.96 for place in places) and places == sorted(places)
    ticks = scale.ticks(8)
    assert 2 <= len(ticks) <= 8 and ticks == sorted(set(ticks))
    assert all(-1e-9 <= scale.at(tick) <= 1 + 1e-9 for tick in ticks)


def test_a_scale_without_values() -> None:
    assert Scale.of([], log=True).ticks() and Scale.of([float("nan"), -1.0], log=True).low > 0
