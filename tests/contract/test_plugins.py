"""Every registered plug-in keeps its contract."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch

from calibration import table, target
from deploy.core import registry
from deploy.core.backend import find_backend
from deploy.core.errors import UnknownNameError
from deploy.data import sources
from deploy.packaging.target import PackageOptions, find_target


@pytest.mark.parametrize("name", registry.names("deploy.models.sources"))
def test_model_sources(name: str) -> None:
    if name == "hf":
        pytest.importorskip("transformers")
    source = registry.load("deploy.models.sources", name)
    assert source.__doc__ and callable(source.build) and callable(source.published)
    listed = source.names()
    assert len(set(listed)) == len(listed)
    assert all("\n" not in source.summary(item) for item in listed[:1])


@pytest.mark.parametrize("name", registry.names("deploy.models.adapters"))
def test_adapters(name: str) -> None:
    adapter = registry.load("deploy.models.adapters", name)
    assert adapter.__doc__ and adapter.WHAT and not adapter.applies(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", registry.names("deploy.bench.scenarios"))
def test_scenarios(name: str) -> None:
    scenario = registry.load("deploy.bench.scenarios", name)
    wanted = inspect.signature(scenario.run).parameters
    assert scenario.__doc__ and next(iter(wanted)) == "runner" and {"time_s", "seed"} <= set(wanted)


@pytest.mark.parametrize("name", registry.names(target.PACKAGE))
def test_calibration_targets(name: str) -> None:
    module = registry.load(target.PACKAGE, name)
    assert module.__doc__ and module.TARGET.title and module.TARGET.name.replace("-", "_") == name
    assert target.find_target(module.TARGET.name) is module.TARGET
    assert list(inspect.signature(module.TARGET.quantize).parameters) == ["model", "ranges", "keep_float", "features"]


@pytest.mark.parametrize("name", registry.names(table.STATISTICS))
def test_calibration_statistics(name: str) -> None:
    module = registry.load(table.STATISTICS, name)
    assert module.__doc__ and list(inspect.signature(module.choose).parameters) == ["histogram", "grid"]


@pytest.mark.parametrize("name", registry.names("deploy.models.zoo"))
def test_zoo_families(name: str) -> None:
    family = registry.load("deploy.models.zoo", name)
    for entry in family.ENTRIES.values():
        assert entry.summary and len(entry.input_shape) == 3


@pytest.mark.parametrize("name", registry.names("deploy.sweeps.executors"))
def test_executors(name: str) -> None:
    executor = registry.load("deploy.sweeps.executors", name)
    assert executor.__doc__ and list(inspect.signature(executor.open_executor).parameters) == ["context"]


@pytest.mark.parametrize("name", registry.names("deploy.packaging.targets"))
def test_package_targets(name: str) -> None:
    target = find_target(name)
    assert target.name == name and target.title and registry.load("deploy.packaging.targets", name).__doc__
    assert list(inspect.signature(target.write).parameters) == ["folder", "items", "options"]
    assert target.classify and list(inspect.signature(target.classify).parameters) == ["folder", "item", "images"]
    assert target.backends and all(find_backend(backend).runs_files for backend in target.backends)
    assert set(target.options) <= {field.name for field in dataclasses.fields(PackageOptions)}


def test_an_unknown_plugin_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean onnxruntime"):
        registry.load("deploy.backends", "onnxruntimes", "backend")


def test_helpers_are_not_plugins() -> None:
    folder = Path(sources.__file__).parent
    files = {path.stem for path in folder.glob("*.py")}
    assert "_torchvision" in files, "this folder has a helper"
    assert set(registry.own_names("deploy.data.sources")) == {name for name in files if not name.startswith("_")}
