"""ONNX Runtime's providers: the one that was asked for, or an error."""

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
    with pytest.raises(BackendError, match=r"cannot use (CUDA|Tensorrt)ExecutionProvider|cannot open it"):
        open(graph, provider=provider, device=1, provider_options={"user_compute_stream": "0"})
    assert capfd.readouterr().out == "", "stdout belongs to the command"


def test_an_unknown_provider_is_named_with_its_nearest(graph: Path) -> None:
    open(graph, provider="cpu").close()
    with pytest.raises(UnknownNameError, match=r"unknown provider 'cudaa'\. Did you mean cuda"):
        open(graph, provider="cudaa")
