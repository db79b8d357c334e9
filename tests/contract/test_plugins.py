"""Every registered plug-in keeps its contract."""

import importlib
import inspect

import pytest

from deploy.core import registry
from deploy.core.errors import UnknownNameError


@pytest.mark.parametrize("name", registry.names("deploy.models.sources"))
def test_model_sources(name: str) -> None:
    source = registry.load("deploy.models.sources", name)
    assert source.__doc__ and callable(source.build) and callable(source.published)
    listed = source.names()
    assert listed and len(set(listed)) == len(listed)
    assert "\n" not in source.summary(listed[0])


@pytest.mark.parametrize("name", registry.names("deploy.backends"))
def test_backends(name: str) -> None:
    backend = registry.load("deploy.backends", name)
    assert backend.__doc__
    assert callable(getattr(backend, "open", None)) or callable(getattr(backend, "from_model", None))


@pytest.mark.parametrize("name", registry.names("deploy.bench.scenarios"))
def test_scenarios(name: str) -> None:
    scenario = registry.load("deploy.bench.scenarios", name)
    wanted = inspect.signature(scenario.run).parameters
    assert scenario.__doc__ and next(iter(wanted)) == "runner" and {"time_s", "seed"} <= set(wanted)


@pytest.mark.parametrize("name", registry.names("deploy.models.zoo"))
def test_zoo_families(name: str) -> None:
    family = registry.load("deploy.models.zoo", name)
    for entry in family.ENTRIES.values():
        assert entry.summary and entry.paper and len(entry.stages) == len(entry.shapes)


@pytest.mark.parametrize("name", registry.names("deploy.sweeps.executors"))
def test_executors(name: str) -> None:
    executor = registry.load("deploy.sweeps.executors", name)
    assert executor.__doc__ and list(inspect.signature(executor.open_executor).parameters) == ["context"]


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
