"""Files of old operator sets and in half precision are quantized like others."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w1": RNG.normal(size=(8, 3, 3, 3)).astype(np.float32),
    "b1": RNG.normal(size=8).astype(np.float32),
    "w2": RNG.normal(size=(8, 10)).astype(np.float32),
}


def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], f"{kind}_{output}", **attributes)


def save(folder: Path, opset: int, dtype: int, *, cast: bool, external: bool = False) -> list[str]:
    """Write a classifier and its data; with ``cast`` its inputs and outputs are float32."""
    half = dtype != TensorProto.FLOAT
    ends = TensorProto.FLOAT if cast or not half else dtype
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    cast_in, cast_out = half and cast, half and cast
    squeeze = {"axes": [2, 3]} if opset < 13 else {}
    nodes = [
        *([node("Cast", ["x"], "h", to=dtype)] if cast_in else []),
        node("Conv", ["h" if cast_in else "x", "w1", "b1"], "c"),
        node("Clip", ["c", "low", "high"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        node("Squeeze", ["p"], "f", **squeeze) if squeeze else node("Flatten", ["p"], "f"),
        node("MatMul", ["f", "w2"], "m"),
        node("Softmax", ["m"], "s" if cast_out else "y", axis=1),
        *([node("Cast", ["s"], "y", to=TensorProto.FLOAT)] if cast_out else []),
    ]
    stored = WEIGHTS | {"low": np.asarray(0, np.float32), "high": np.asarray(6, np.float32)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", ends, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", ends, ["n", 10])],
        [numpy_helper.from_array(value.astype(kind), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    path = folder / "net.onnx"
    onnx.save(model, path, save_as_external_data=external, location="net.data", size_threshold=0)
    np.save(folder / "data.npy", RNG.normal(size=(64, 3, 8, 8)).astype(np.float32))
    return [str(path), "--calib", str(folder / "data.npy"), "--samples", "32"]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize(
    ("opset", "dtype", "cast", "external"),
    [
        (11, TensorProto.FLOAT, False, False),
        (12, TensorProto.FLOAT, False, True),
        (17, TensorProto.FLOAT16, True, False),
        (17, TensorProto.FLOAT16, False, True),
        (12, TensorProto.FLOAT16, False, False),
    ],
)
def test_it_is_quantized(
    opset: int, dtype: int, cast: bool, external: bool, target: str, tmp_path: Path, run: Run
) -> None:
    bits = ("--cpu", "vnni") if target == "onnxruntime" else ()  # eight on every machine
    files = save(tmp_path, opset, dtype, cast=cast, external=external)
    done = run("quantize", *files, "--target", target, *bits, "--json")
    assert done.code == 0, done.err
    (output,) = done.json["evidence"]["outputs"]
    assert output["sqnr_db"] > 20 and output["agreement"] >= 0.9
    made, source = onnx.load(done.json["file"]), onnx.load(tmp_path / "net.onnx", load_external_data=False)
    ends = [[value.type.tensor_type.elem_type for value in ends] for ends in (made.graph.input, made.graph.output)]
    assert ends == [
        [value.type.tensor_type.elem_type for value in ends] for ends in (source.graph.input, source.graph.output)
    ]
    assert any(item.op_type == "DequantizeLinear" for item in made.graph.node)
