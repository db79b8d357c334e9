"""The TensorRT runner on a runtime that enforces TensorRT's rules, see `tests.backends.fake_tensorrt`."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.backends.tensorrt import runner
from tests.backends.engine_sequences import LIBRARIES, SEQUENCES, Desk
from tests.backends.fake_tensorrt import unknown_calls
from tests.backends.real_gpu import SEQUENCES_ON_GPU, RealDesk


def test_the_fake_has_nothing_that_tensorrt_for_rtx_lacks() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    assert unknown_calls(importlib.import_module("tensorrt_rtx")) == []


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda item: item.__name__)
def test_sequence(sequence: Callable[[Desk], None], library: str, graph: bool, tmp_path: Path) -> None:
    sequence(Desk(runner, library, graph, tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("sequence", SEQUENCES_ON_GPU, ids=lambda item: item.__name__)
def test_sequence_on_a_gpu(sequence: Callable[[Desk], None], library: str, graph: bool, tmp_path: Path) -> None:
    sequence(RealDesk(runner, library, graph, tmp_path))
