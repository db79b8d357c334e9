"""One trained and exported model for all tests of workflows."""

import shutil
from pathlib import Path

import pytest

from deploy.workflows.export import export_model
from deploy.workflows.train import train_model


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts directory with LeNet-5 trained on digits and exported in two precisions."""
    root = tmp_path_factory.mktemp("trained")
    train_model("lenet5", data="digits", artifacts=root, epochs=6)
    for precision in ("fp32", "fp16"):
        export_model("lenet5", artifacts=root, precision=precision, strategy="trace")
    return root


@pytest.fixture
def artifacts(trained: Path, store: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(trained, store)
    return store
