"""What tests of workflows share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def artifacts(trained: Path, store: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(trained, store)
    return store
