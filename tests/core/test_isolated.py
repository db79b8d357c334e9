"""Backends in child processes."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.isolated import IsolatedRunner


def _model(path: Path, operator: str = "Relu") -> Path:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_run_and_specifications(tmp_path: Path) -> None:
    with IsolatedRunner("onnxruntime") as runner:
        runner.open(_model(tmp_path / "m.onnx"))
        assert [str(spec) for spec in runner.inputs] == ["x float32[n, 3]"]
        assert runner.run({"x": np.array([[-1.0, 0.0, 2.0]], np.float32)})["y"].tolist() == [[0.0, 0.0, 2.0]]
        assert runner.peak_bytes > 0
        with pytest.raises(BackendError, match="x"):
            runner.run({"x": np.zeros((1, 4), np.float32)})
        assert runner.run({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3), "it runs after an error"


def test_a_file_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with IsolatedRunner("onnxruntime") as runner:
        with pytest.raises(BackendError, match=r"bad\.onnx"):
            runner.open(tmp_path / "bad.onnx")
        with pytest.raises(BackendError, match="Invented"):
            runner.open(_model(tmp_path / "new.onnx", "Invented"))


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has the provider")
def test_a_provider_that_is_not_there_is_an_error_not_another_provider(tmp_path: Path) -> None:
    with IsolatedRunner("onnxruntime") as runner, pytest.raises(BackendError, match="CUDAExecutionProvider"):
        runner.open(_model(tmp_path / "m.onnx"), provider="cuda")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_an_error(tmp_path: Path, number: int) -> None:
    with IsolatedRunner("onnxruntime") as runner:
        runner.open(_model(tmp_path / "m.onnx"))
        os.kill(runner.pid, number)
        while not runner.dead:
            time.sleep(0.01)
        with pytest.raises(BackendCrashedError, match=signal.Signals(number).name):
            runner.run({"x": np.ones((1, 3), np.float32)})


def test_closing_twice_and_while_busy(tmp_path: Path) -> None:
    runner = IsolatedRunner("onnxruntime")
    runner.open(_model(tmp_path / "m.onnx"))
    runner.submit({"x": np.ones((1, 3), np.float32)})
    runner.close()
    assert runner.dead
