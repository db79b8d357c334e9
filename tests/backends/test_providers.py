"""ONNX Runtime runs on the requested execution provider or raises an error."""

from pathlib import Path

import onnx
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
def test_a_provider_that_fell_back_is_an_error(graph: Path, provider: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendError, match=r"(CUDA|Tensorrt)ExecutionProvider|g\.onnx"):
        open(graph, provider=provider, device=1, provider_options={"user_compute_stream": "0"})
    assert capfd.readouterr().out == "", "ONNX Runtime printed to stdout, which --json uses"


def test_an_unknown_provider_is_refused_with_suggestions(graph: Path) -> None:
    open(graph, provider="cpu").close()
    with pytest.raises(UnknownNameError, match="'cudaa'") as refused:
        open(graph, provider="cudaa")
    assert "cuda" in refused.value.suggestions
