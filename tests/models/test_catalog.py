"""The list of models and the layer table."""

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

from deploy.core.errors import UnknownNameError
from deploy.models.catalog import built_line, list_models
from deploy.models.known import CATALOG, names_without_import, recorded, version_of
from deploy.models.layers import OTHER, layers
from deploy.models.resolve import known_names


def test_every_model_has_a_summary() -> None:
    lines = {line.name: line for pattern in ("zoo/*", "torchvision/resnet*") for line in list_models(pattern)}
    assert all(line.summary and "\n" not in line.summary for line in lines.values())
    assert lines["zoo/lenet5"].summary.startswith("LeNet")
    assert lines["torchvision/resnet18"].summary == "ResNet-18 from Deep Residual Learning for Image Recognition"


def test_a_constructor_that_computes_with_tensors_is_counted() -> None:
    line = list_models("torchvision/regnet_y_400mf")[0]
    assert (line.parameters, line.input) == (4_344_144, "3×224×224")
    assert sum(layer.parameters for layer in layers("torchvision/regnet_y_400mf")) == 4_344_144


@pytest.mark.parametrize(
    ("name", "parameters", "other"),
    [("vit_b_16", 86_567_656, True), ("zoo/plain18_digits", 11_005_450, False), ("zoo/lenet_bn", 62_158, False)],
)
def test_the_layer_table_counts_every_parameter_once(name: str, parameters: int, other: bool) -> None:
    table = layers(name)
    assert sum(layer.parameters for layer in table) == parameters
    assert (table[-1].name == OTHER) == other


def test_multiply_adds() -> None:
    costs = {layer.name: layer.multiply_adds for layer in layers("zoo/lenet5")}
    assert costs["conv1"] == 6 * 28 * 28 * 25 and costs["fc1"] == 400 * 120 and costs["pool1"] == 0
    assert {layer.name: layer.multiply_adds for layer in layers("zoo/lenet_bn")}["bn1"] is None
    # a linear layer runs once per token: 197 tokens of 768 values, 3072 outputs
    mlp = next(layer for layer in layers("torchvision/vit_b_16") if layer.name.endswith("encoder_layer_0.mlp.0"))
    assert mlp.multiply_adds == 197 * 768 * 3072


def test_unknown_names_and_options_without_layers(run: Callable[..., Any]) -> None:
    with pytest.raises(UnknownNameError, match="nothing"):
        list_models("nothing*")
    assert run("models", "lenet5", "-o", "activation=tanh").code == 2
    assert run("models", "--layers").code == 2


def test_a_narrow_terminal_shortens_only_the_summary(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = run("models", "resnet18_*").out
    assert "zoo/resnet18_digits" in shown and "11,180,170" in shown and "1×224×224" in shown and "…" in shown
    assert len(shown.splitlines()) == 3


@pytest.mark.parametrize(("source", "sample"), [("zoo", 17), ("torchvision", 8), ("timm", 4)])
def test_the_catalog_is_current(source: str, sample: int) -> None:
    """``python -m benchmarks.catalog`` writes it."""
    written = json.loads(CATALOG.read_bytes())[source]["version"]
    if written != version_of(source):
        pytest.skip(f"the catalog was written with {source} {written}, {version_of(source)} is installed")
    names = known_names(source)
    assert list(recorded(source)) == names
    for name in names[:: max(1, len(names) // sample)]:
        assert built_line(source, name) == recorded(source)[name]


def test_a_package_that_is_not_installed_is_named(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "unknown model": for a pattern of its source, for a name, and for an export."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else find(name, *rest))
    names_without_import.cache_clear()
    for words in (("models", "timm/resnet*"), ("models", "skresnet*"), ("export", "timm/resnet18"),
                  ("export", "resnet18d")):  # fmt: skip
        done = run(*words, "--json")
        assert done.code == 1, (words, done)
        assert done.json["error"]["kind"] == "MissingPackageError"
        assert done.json["error"]["hint"] == "pip install 'deploy-toolkit[timm]'"
    names_without_import.cache_clear()
    assert run("models", "resnet18").code == 0
