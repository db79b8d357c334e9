"""`deploy export --format`: chains of exporters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.core.artifact import Artifact
from deploy.core.errors import UnknownNameError
from deploy.engines.convert import route
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


def test_exporters_are_chained_by_the_shortest_way() -> None:
    assert route("onnx") == ("torch_to_onnx",)
    assert route("tensorrt") == ("torch_to_onnx", "onnx_to_tensorrt")
    edges = ["torch_to_onnx", "onnx_to_a", "a_to_b", "onnx_to_b", "b_to_torch"]
    assert route("b", edges) == ("torch_to_onnx", "onnx_to_b")
    for wrong in ("torch", "tensort"):
        with pytest.raises(UnknownNameError, match=f"{wrong!r}"):
            route(wrong)


def test_an_engine_in_one_command(run: Run, store: Path, nets: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    done = run(
        *("export", f"{nets}:small", "--input", "x:batch,3,8,8", "--strategy", "trace"),
        *("--format", "tensorrt", "--precision", "fp16", "--json"),
    )
    assert done.code == 0, done.err
    engine = Artifact.open(Path(done.json["engine"]["file"]))
    assert engine.manifest.precision == "fp16" and done.json["precision"] == "fp32", "the export stays float32"
    fp16 = Artifact.open(Path(done.json["engine"]["onnx"]))
    assert engine.manifest.parent == fp16.manifest.digest
    assert fp16.manifest.parent == Artifact.open(Path(done.json["file"])).manifest.files[0].sha256


def test_an_unknown_format_is_named_with_its_nearest(run: Run) -> None:
    refused = run("export", "lenet5", "--format", "tensort", "--json")
    assert refused.code == 2 and refused.json["error"]["kind"] == "UnknownNameError"
    assert "tensorrt" in refused.json["error"]["message"]
