"""A timing cache that the library refuses is an error before the build, not after it."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from deploy.core.errors import UsageError
from deploy.support.tensorrt_library import Library
from exporters.onnx_to_tensorrt import EngineOptions, build

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


@pytest.mark.parametrize("method", ["create_timing_cache", "set_timing_cache"])
def test_a_refused_timing_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["x"], ["y"])
    made = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "g.onnx")
    refusal: Any = {"create_timing_cache": None, "set_timing_cache": False}[method]
    monkeypatch.setattr(rtx.IBuilderConfig, method, lambda *_: refusal)
    # TensorRT's name, since the library for RTX measures no tactics and its cache is refused before
    library = Library(name="tensorrt", module=rtx)
    cache = tmp_path / "tactics.cache"
    cache.write_bytes(b"of another version")
    with pytest.raises(UsageError, match=r"tactics\.cache"):
        build(tmp_path / "g.onnx", tmp_path / "g.engine", library, EngineOptions(timing_cache=cache))
    assert not (tmp_path / "g.engine").exists() and cache.read_bytes() == b"of another version"
