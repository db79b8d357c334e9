"""ONNX Runtime runs on the requested execution provider or raises an error."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deploy.backends.onnxruntime.runner import open
from deploy.core.errors import BackendError, UnknownNameError
from deploy.support.cuda_driver import gpus


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["x"], ["y"])
    made = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_fell_back_is_an_error(
    graph: Path, provider: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(BackendError, match=r"(CUDA|Tensorrt)ExecutionProvider|g\.onnx"):
        open(graph, provider=provider, device=1, provider_options={"user_compute_stream": "0"})
    assert capfd.readouterr().out == "", "ONNX Runtime printed to stdout, which --json uses"


def test_an_unknown_provider_is_refused_with_suggestions(graph: Path) -> None:
    open(graph, provider="cpu").close()
    with pytest.raises(UnknownNameError, match="'cudaa'") as refused:
        open(graph, provider="cudaa")
    assert "cuda" in refused.value.suggestions


def test_the_tensorrt_provider_needs_the_switch_that_turns_tf32_off(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(BackendError, match="TF32") as refused:
        open(graph, provider="tensorrt")
    assert "NVIDIA_TF32_OVERRIDE=0" in (refused.value.hint or "")


def test_where_nodes_run_is_known(graph: Path) -> None:
    with open(graph) as runner:
        if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
            assert runner.nodes == {"CPUExecutionProvider": 1}
        assert runner.gpu is None


class Lost:
    """A session of ONNX Runtime whose provider fails, as when a GPU is lost."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *_: Any) -> Any:
        raise ort.capi.onnxruntime_pybind11_state.EPFail("the device is lost")


class LosingSession(ort.InferenceSession):  # type: ignore[misc]
    """Loses its provider at the first run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sess = Lost(self._sess)


def test_a_run_whose_provider_fails_is_not_repeated_elsewhere(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "InferenceSession", LosingSession)
    with open(graph) as runner, pytest.raises(BackendError, match="the device is lost"):
        runner.run({"x": np.ones(2, np.float32)})
