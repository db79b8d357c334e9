"""Every registered plug-in keeps its contract."""

import importlib
import inspect

import pytest

from calibration import table, target
from deploy.core import registry
from deploy.core.errors import UnknownNameError


@pytest.mark.parametrize("name", registry.names("deploy.models.sources"))
def test_model_sources(name: str) -> None:
    source = registry.load("deploy.models.sources", name)
    assert source.__doc__ and callable(source.build) and callable(source.published)
    listed = source.names()
    assert listed and len(set(listed)) == len(listed)
    assert "\n" not in source.summary(listed[0])


@pytest.mark.parametrize("name", registry.names("deploy.bench.scenarios"))
def test_scenarios(name: str) -> None:
    scenario = registry.load("deploy.bench.scenarios", name)
    wanted = inspect.signature(scenario.run).parameters
    assert scenario.__doc__ and next(iter(wanted)) == "runner" and {"time_s", "seed"} <= set(wanted)


@pytest.mark.parametrize("name", registry.names(target.PACKAGE))
def test_calibration_targets(name: str) -> None:
    module = registry.load(target.PACKAGE, name)
    assert module.__doc__ and module.TARGET.title and module.TARGET.name == name
    assert target.find_target(name) is module.TARGET
    assert list(inspect.signature(module.TARGET.quantize).parameters) == ["model", "ranges", "keep_float", "features"]


@pytest.mark.parametrize("name", registry.names(table.STATISTICS))
def test_calibration_statistics(name: str) -> None:
    module = registry.load(table.STATISTICS, name)
    assert module.__doc__ and list(inspect.signature(module.choose).parameters) == ["histogram", "grid"]


@pytest.mark.parametrize("name", registry.names("deploy.models.zoo"))
def test_zoo_families(name: str) -> None:
    family = registry.load("deploy.models.zoo", name)
    for entry in family.ENTRIES.values():
        assert entry.summary and entry.paper and len(entry.stages) == len(entry.shapes)


@pytest.mark.parametrize("name", registry.names("deploy.sweeps.engines"))
def test_engines(name: str) -> None:
    engine = registry.load("deploy.sweeps.engines", name)
    assert engine.__doc__ and list(inspect.signature(engine.open_engine).parameters) == ["context"]


@pytest.mark.parametrize("name", registry.names("deploy.packaging.targets"))
def test_packages(name: str) -> None:
    package = registry.load("deploy.packaging.targets", name)
    assert package.__doc__ and callable(package.refuse)
    assert list(inspect.signature(package.write).parameters) == ["folder", "contents", "options"]


def test_an_unknown_plugin_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean onnxruntime"):
        registry.load("deploy.backends", "onnxruntimes", "backend")


def test_helpers_are_not_plugins() -> None:
    assert not any(name.startswith("_") for name in registry.names("deploy.backends"))
    assert importlib.import_module("deploy.core.isolated")
