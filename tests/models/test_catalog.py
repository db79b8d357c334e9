"""What can be exported: names, counts, summaries, layer tables."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.models.catalog import ELSEWHERE, layers, list_models


def test_every_line_says_what_the_model_is() -> None:
    lines = {line.name: line for pattern in ("zoo/*", "torchvision/resnet*") for line in list_models(pattern)}
    assert all(line.summary and "\n" not in line.summary for line in lines.values())
    assert lines["zoo/lenet5"].summary.startswith("LeNet")
    told = lines["torchvision/resnet18"].summary
    assert told == "ResNet-18 from Deep Residual Learning for Image Recognition"


def test_a_constructor_that_computes_is_counted_too() -> None:
    line = list_models("torchvision/regnet_y_400mf")[0]
    assert (line.parameters, line.input) == (4_344_144, "3×224×224")
    assert sum(layer.parameters for layer in layers("torchvision/regnet_y_400mf")) == 4_344_144


@pytest.mark.parametrize(
    ("name", "parameters", "elsewhere"),
    [("vit_b_16", 86_567_656, True), ("zoo/plain18_digits", 11_005_450, False), ("zoo/lenet_bn", 62_158, False)],
)
def test_a_layer_table_holds_every_parameter_once(name: str, parameters: int, elsewhere: bool) -> None:
    table = layers(name)
    assert sum(layer.parameters for layer in table) == parameters
    assert (table[-1].name == ELSEWHERE) == elsewhere


def test_a_narrow_terminal_costs_the_summary_only(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = run("models", "resnet18_*").out
    assert "zoo/resnet18_digits" in shown and "11,180,170" in shown and "1×224×224" in shown and "…" in shown
    assert len(shown.splitlines()) == 3
