"""Artifacts to package, and Triton's own definition of a configuration."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def made(trained: Path, store: Path) -> Path:
    """A copy of the artifacts of LeNet-5, trained on digits."""
    shutil.copytree(trained, store)
    return store


@pytest.fixture(scope="session")
def parsed() -> Callable[[Path], Any]:
    """Reads a configuration with Triton's protobuf definition, without the rest of its client."""
    from google.protobuf import text_format

    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pip install 'tritonclient[http]'")
    file = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def read(folder: Path) -> Any:
        return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), module.ModelConfig())

    return read
