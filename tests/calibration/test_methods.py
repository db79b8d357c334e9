"""Methods that make the error of a quantized graph smaller: float rewrites, bias correction, rounding."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import calibration
from calibration.adjustment import load, save
from calibration.rewriting import rewrite
from calibration.table import CalibrationTable

CHANNELS = 8
Arrays = dict[str, np.ndarray]


def model_of(
    nodes: list[onnx.NodeProto], weights: Arrays, shape: list[int | str], outputs: list[str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def weights_of(rng: np.random.Generator) -> Arrays:
    """Return the weights of a pointwise, a depthwise and a pointwise convolution whose channels differ in size."""
    spread = np.exp(rng.normal(0.0, 1.5, CHANNELS)).reshape(-1, 1, 1, 1)
    return {
        "w1": rng.normal(size=(CHANNELS, 3, 1, 1)) * spread,
        "b1": rng.normal(size=CHANNELS) * spread.reshape(-1),
        "w2": rng.normal(size=(CHANNELS, 1, 3, 3)) / spread,
        "b2": rng.normal(size=CHANNELS),
        "w3": rng.normal(size=(5, CHANNELS, 1, 1)),
        "b3": rng.normal(size=5),
    }


def conv(index: int, source: str, target: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, f"w{index}", f"b{index}"], [target], f"conv{index}", **attributes)


def chain(activation: str, *extra: onnx.NodeProto, output: str = "y") -> list[onnx.NodeProto]:
    return [
        conv(1, "x", "a"),
        helper.make_node(activation, ["a", *(["zero", "six"] if activation == "Clip" else [])], ["r"], "act"),
        conv(2, "r", "d", group=CHANNELS),
        conv(3, "d", output),
        *extra,
    ]


def samples(rng: np.random.Generator, count: int = 48) -> np.ndarray:
    return rng.normal(size=(count, 3, 10, 10)).astype(np.float32)


def sqnr(expected: np.ndarray, actual: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected - expected.mean(0)).sum() / np.square(expected - actual).sum()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_equalization_never_changes_the_function(seed: int, activation: str) -> None:
    rng = np.random.default_rng(seed)
    model = model_of(chain(activation), weights_of(rng), ["n", 3, 10, 10], ["y"])
    x, fresh = samples(rng), 7.0 * samples(rng)
    before = run(model, fresh)
    assert "r" in rewrite(model, [{"x": x[:24]}, {"x": x[24:]}])["equalization"]
    assert np.array_equal(run(model, fresh)[0], before[0]), (
        "the same to the last bit, also outside the calibrated range"
    )


LEFT_ALONE: dict[str, tuple[list[onnx.NodeProto], Arrays, list[str]]] = {
    "a limit at six": (chain("Clip"), {"zero": np.array(0.0), "six": np.array(6.0)}, ["y"]),
    "a sigmoid": (chain("Sigmoid"), {}, ["y"]),
    "another reader": (chain("Relu", helper.make_node("GlobalAveragePool", ["r"], ["side"])), {}, ["y", "side"]),
    "a residual sum": (
        [
            conv(1, "x", "a"),
            helper.make_node("Relu", ["a"], ["r"]),
            conv(2, "r", "d0", group=CHANNELS, pads=[1, 1, 1, 1]),  # type: ignore[arg-type]
            helper.make_node("Add", ["d0", "r"], ["d"]),
            conv(3, "d", "y"),
        ],
        {},
        ["y"],
    ),
    "an output between": (chain("Relu"), {}, ["y", "a", "r"]),
    "a shared weight": (chain("Relu", helper.make_node("Conv", ["x", "w1"], ["side"])), {}, ["y", "side"]),
    "a reader in a branch": (
        chain(
            "Relu",
            helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True))),
            helper.make_node(
                "If",
                ["yes"],
                ["side"],
                then_branch=helper.make_graph(
                    [helper.make_node("Neg", ["r"], ["t"])], "t", [], [onnx.ValueInfoProto(name="t")]
                ),
                else_branch=helper.make_graph(
                    [helper.make_node("Abs", ["r"], ["e"])], "e", [], [onnx.ValueInfoProto(name="e")]
                ),
            ),
        ),
        {},
        ["y", "side"],
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_pairs_for_which_the_rule_does_not_hold_are_left_alone(case: str) -> None:
    nodes, more, outputs = LEFT_ALONE[case]
    rng = np.random.default_rng(1)
    model = model_of(nodes, {**weights_of(rng), **more}, ["n", 3, 10, 10], outputs)
    x = samples(rng)
    before = run(model, x)
    assert "r" not in rewrite(model, [{"x": x}]).get("equalization", [])
    assert all(np.array_equal(first, second) for first, second in zip(run(model, x), before, strict=True))


def transformer(kind: str, rng: np.random.Generator) -> onnx.ModelProto:
    """Return linear layers behind a layer normalization, of which two channels are large."""
    width = 16
    scale = np.where(np.arange(width) < 2, 40.0, 1.0) * rng.uniform(0.5, 1.5, width)
    weights = {
        "g": scale,
        "b": rng.normal(size=width) * scale,
        "q": rng.normal(size=(width, 12)) / scale[:, None],
        "k": rng.normal(size=(width, 12)) / scale[:, None],
        "shape": np.array([0]),
    }
    norm = [helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], "norm", axis=-1)]
    if kind == "written out":
        norm = [
            helper.make_node("LayerNormalization", ["x", "one"], ["z"], "z", axis=-1),
            helper.make_node("Mul", ["z", "g"], ["m"], "scale"),
            helper.make_node("Add", ["m", "b"], ["n"], "shift"),
        ]
        weights["one"] = np.ones(width)
    layers = [
        helper.make_node("MatMul", ["n", "q"], ["first"], "q"),
        helper.make_node("MatMul", ["n", "k"], ["second"], "k"),
        helper.make_node("Concat", ["first", "second"], ["y"], "y", axis=-1),
    ]
    outputs = ["y"]
    if kind == "residual":
        layers.append(helper.make_node("Add", ["n", "x"], ["side"], "side"))
        outputs.append("side")
    return model_of([*norm, *layers], weights, ["b", 6, width], outputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["norm", "written out"])
def test_smoothquant_keeps_the_function_and_lowers_the_error(seed: int, kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    onnx.save(transformer(kind, rng), str(tmp_path / "t.onnx"))
    model = calibration.prepare(tmp_path / "t.onnx")
    x = rng.normal(size=(64, 6, 16)).astype(np.float32)
    expected = run(model, x)[0]
    plain = quantized(model, x)
    assert rewrite(model, [{"x": x}])["SmoothQuant"]
    assert np.array_equal(run(model, x)[0], expected)
    assert sqnr(expected, run(quantized(model, x), x)[0]) > sqnr(expected, run(plain, x)[0]) + 3.0


def test_a_normalized_tensor_with_another_reader_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    model = transformer("residual", rng)
    assert not rewrite(model, [{"x": rng.normal(size=(8, 6, 16)).astype(np.float32)}])


def quantized(
    model: onnx.ModelProto, x: np.ndarray, target: str = "openvino", tuned: bool | None = None
) -> onnx.ModelProto:
    feeds = [{"x": x[start : start + 16]} for start in range(0, len(x), 16)]
    table = CalibrationTable.of(calibration.collect(model, feeds), "mse", {})
    made = calibration.quantize(model, table, target)
    if tuned is None:
        return made
    return calibration.quantize(model, table, target, adjustments=calibration.tune(model, made, feeds, rounding=tuned))


@pytest.fixture
def network(tmp_path: Path) -> Callable[[str], onnx.ModelProto]:
    def make(activation: str) -> onnx.ModelProto:
        rng = np.random.default_rng(3)
        limits = {"zero": np.array(0.0), "six": np.array(6.0)} if activation == "Clip" else {}
        model = model_of(chain(activation), {**weights_of(rng), **limits}, ["n", 3, 10, 10], ["y"])
        onnx.save(model, str(tmp_path / "net.onnx"))
        return calibration.prepare(tmp_path / "net.onnx")

    return make


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_rounding_and_bias_correction_lower_the_error(network: Callable[[str], onnx.ModelProto], target: str) -> None:
    model, rng = network("Relu"), np.random.default_rng(5)
    x, fresh = samples(rng, 64), samples(rng, 64)
    expected = run(model, fresh)[0]
    plain, rounded = (run(quantized(model, x, target, tuned), fresh)[0] for tuned in (None, True))
    mean = [np.abs((expected - found).mean(axis=(0, 2, 3))).max() for found in (plain, rounded)]
    assert sqnr(expected, rounded) > sqnr(expected, plain) and mean[1] < mean[0]


def test_a_bias_that_was_shifted_on_purpose_comes_back(network: Callable[[str], onnx.ModelProto]) -> None:
    """The quantized graph of another bias is corrected to the outputs of the float graph."""
    model, rng = network("Relu"), np.random.default_rng(5)
    x = samples(rng, 64)
    feeds = [{"x": x}]
    table = CalibrationTable.of(calibration.collect(model, feeds), "minmax", {})
    made = calibration.quantize(model, table, "tensorrt")
    for tensor in made.graph.initializer:
        if tensor.name == "b3":
            value = onnx.numpy_helper.to_array(tensor) + 2.0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), "b3"))
    found = calibration.tune(model, made, feeds)["conv3"].bias
    assert found is not None
    before = next(onnx.numpy_helper.to_array(item) for item in model.graph.initializer if item.name == "b3")
    assert np.allclose(found - before, -2.0, atol=0.5)


def test_adjusted_layers_keep_their_scales_and_float_layers_their_weights(
    network: Callable[[str], onnx.ModelProto], tmp_path: Path
) -> None:
    model, x = network("Clip"), samples(np.random.default_rng(5))
    feeds = [{"x": x}]
    table = CalibrationTable.of(calibration.collect(model, feeds), "mse", {})
    made = calibration.quantize(model, table, "onnxruntime")
    found = calibration.tune(model, made, feeds, rounding=True)
    save(found, tmp_path / "found.npz")
    again = load(tmp_path / "found.npz")
    assert set(again) == set(found) and all(np.array_equal(again[name].weight, found[name].weight) for name in found)
    adjusted = calibration.quantize(model, table, "onnxruntime", adjustments=again)

    def scales(graph: onnx.ModelProto) -> list[np.ndarray]:
        stored = {item.name: onnx.numpy_helper.to_array(item) for item in graph.graph.initializer}
        weights = [name for name, value in stored.items() if value.dtype == np.int8 and value.ndim == 4]
        read = {node.input[0]: node.input[1] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
        return sorted((stored[read[name]] for name in weights), key=lambda item: (item.size, float(item.sum())))

    assert all(np.allclose(one, two, rtol=1e-6) for one, two in zip(scales(made), scales(adjusted), strict=True))
    kept = calibration.quantize(model, table, "onnxruntime", adjustments=again, keep_float=list(found))
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in kept.graph.initializer}
    assert all(
        np.array_equal(stored[name], weights_of(np.random.default_rng(3))[name].astype(np.float32))
        for name in ("w1", "w2")
    )


def test_openvino_gets_a_scale_for_each_channel_of_a_depthwise_input(network: Callable[[str], onnx.ModelProto]) -> None:
    model, x = network("Clip"), samples(np.random.default_rng(5))
    for target, expected in (("openvino", (CHANNELS,)), ("onnxruntime", ()), ("tensorrt", ())):
        made = quantized(model, x, target)
        onnx.checker.check_model(made)
        stored = {item.name: onnx.numpy_helper.to_array(item) for item in made.graph.initializer}
        makers = {name: node for node in made.graph.node for name in node.output}
        layer = next(node for node in made.graph.node if node.name == "conv2")
        assert stored[makers[layer.input[0]].input[1]].shape == expected
