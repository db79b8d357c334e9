"""Nodes that no official case covers, against ONNX Runtime."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.onnx_graph.conformance import against_runtime  # type: ignore[import-not-found,unused-ignore]

MICROSOFT = "com.microsoft"


def floats(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def integers(dtype: Any, *shape: int, low: int | None = None, high: int | None = None, seed: int = 0) -> Any:
    limits = np.iinfo(dtype)
    least, most = limits.min if low is None else low, limits.max if high is None else high
    return np.random.default_rng([seed, *shape]).integers(least, most, shape, dtype, endpoint=True)


def scalar(value: float, dtype: Any = np.float32) -> Any:
    return np.array(value, dtype)


@pytest.mark.parametrize(
    ("policy", "dilation"), [("SAME_UPPER", 1), ("SAME_LOWER", 1), ("VALID", 2), ("NOTSET", 1), ("NOTSET", 2)]
)
def test_convolution(policy: str, dilation: int) -> None:
    for axes, groups in product((1, 2, 3), (1, 2)):
        sizes = (9, 10, 8)[:axes]
        feeds = {"x": floats(2, 4, *sizes), "w": floats(6, 4 // groups, *(3, 2, 3)[:axes]), "b": floats(6)}
        options: dict[str, Any] = {"group": groups, "dilations": [dilation] * axes}
        options["strides"] = [2, 3, 1][:axes]
        options |= {"pads": [1, 0, 2][:axes] + [0, 2, 1][:axes]} if policy == "NOTSET" else {"auto_pad": policy}
        against_runtime("Conv", feeds, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]},
        {"strides": [3, 2], "output_shape": [13, 12]},
        {"strides": [3, 2], "output_shape": [13, 12], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"auto_pad": "VALID", "dilations": [2, 1]},
        {"group": 2, "strides": [2, 2], "dilations": [1, 2], "pads": [1, 1, 1, 1]},
    ],
)
def test_transposed_convolution(options: Any) -> None:
    weight = floats(4, 6 // options.get("group", 1), 3, 4)
    against_runtime("ConvTranspose", {"x": floats(2, 4, 5, 6), "w": weight, "b": floats(6)}, **options)


POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 1, 1, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [4, 3], "strides": [2, 1], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("options", POOLS)
def test_pooling(options: dict[str, Any]) -> None:
    x = floats(2, 3, 8, 9)
    for order in (0, 1):
        against_runtime("MaxPool", {"x": x}, 2, storage_order=order, **options)
    against_runtime("MaxPool", {"x": integers(np.int8, 2, 3, 8, 9)}, **options)
    against_runtime("LpPool", {"x": x}, p=3, **options)
    for whole in (0, 1):
        against_runtime("AveragePool", {"x": x}, count_include_pad=whole, **options)


def test_pooling_of_one_and_three_axes() -> None:
    against_runtime("MaxPool", {"x": floats(2, 3, 9)}, 2, kernel_shape=[4], strides=[3], ceil_mode=1, pads=[1, 0])
    against_runtime("MaxPool", {"x": floats(1, 2, 6, 5, 7)}, 2, kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 1, 1])
    options = {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1], "count_include_pad": 1, "ceil_mode": 1}
    against_runtime("AveragePool", {"x": floats(1, 2, 6, 5, 7)}, strides=[2, 2, 2], **options)
    against_runtime("GlobalLpPool", {"x": floats(2, 3, 4, 5)}, p=3)


def test_regions() -> None:
    corners = np.random.default_rng(0).uniform(0, 20, (5, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + floats(5, 2, seed=1).__abs__() * 15 + 1], 1)
    batch = np.array([0, 1, 1, 0, 1], np.int64)
    x = floats(2, 3, 14, 16)
    against_runtime(
        "MaxRoiPool",
        {"x": x, "rois": np.concatenate([batch[:, None].astype(np.float32), boxes], 1)},
        pooled_shape=[3, 4],
        spatial_scale=0.5,
    )
    for half, ratio in product(("half_pixel", "output_half_pixel"), (0, 2)):
        options = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5, "sampling_ratio": ratio}
        feeds = {"x": x, "rois": boxes, "batch": batch}
        against_runtime("RoiAlign", feeds, coordinate_transformation_mode=half, **options)


MODES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str) -> None:
    x = floats(1, 2, 9, 13)
    targets: list[dict[str, Any]] = [
        {"roi": None, "scales": np.array([1, 1, 2, 1.5], np.float32)},
        {"roi": None, "scales": np.array([1, 1, 0.33333334, 0.75], np.float32)},
        {"roi": None, "scales": None, "sizes": np.array([1, 2, 6, 5], np.int64)},
        {"roi": None, "scales": None, "sizes": np.array([1, 2, 1, 31], np.int64)},
    ]
    for coordinates, target in product(MODES, targets):
        roundings = ["round_prefer_floor", "round_prefer_ceil"]
        if coordinates in ("asymmetric", "align_corners"):  # the runtime's float32 is inexact for the others
            roundings += ["floor", "ceil"]
        for rounding in roundings if mode == "nearest" else ("",):
            options = {"nearest_mode": rounding} if rounding else {"cubic_coeff_a": -0.5}
            feeds = {"x": x, **target}
            against_runtime("Resize", feeds, mode=mode, coordinate_transformation_mode=coordinates, **options)


def test_resize_excludes_and_antialiases() -> None:
    x = floats(1, 2, 19, 23)
    for sizes, exclude, mode in product(([8, 9], [40, 11], [5, 50]), (0, 1), ("linear", "cubic")):
        feeds = {"x": x, "roi": None, "scales": None, "sizes": np.array([1, 2, *sizes], np.int64)}
        options = {"mode": mode, "exclude_outside": exclude if mode == "cubic" else 0}
        against_runtime("Resize", feeds, **options)
        against_runtime("Resize", feeds, antialias=1, **options)


def test_resize_of_old_versions() -> None:
    for factors, mode in product(([1, 1, 2, 3], [1, 1, 1.5, 2.3]), ("nearest", "linear")):
        feeds = {"x": floats(1, 2, 7, 6), "scales": np.array(factors, np.float32)}
        against_runtime("Upsample", feeds, version=9, mode=mode)
        against_runtime("Resize", feeds, version=10, mode=mode)
    feeds = {"x": floats(1, 2, 7, 6), "scales": np.array([1, 1, 0.6, 0.5], np.float32)}
    against_runtime("Resize", feeds, version=10, mode="nearest")


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent(operator: str, direction: str) -> None:
    ways, gates, size = 1 + (direction == "bidirectional"), {"LSTM": 4, "GRU": 3, "RNN": 1}[operator], 5
    names = {"LSTM": ["Sigmoid", "ScaledTanh", "LeakyRelu"], "GRU": ["HardSigmoid", "Elu"], "RNN": ["Affine"]}[operator]
    feeds = {
        "x": floats(6, 3, 4),
        "w": floats(ways, gates * size, 4),
        "r": floats(ways, gates * size, size),
        "b": floats(ways, 2 * gates * size),
        "lengths": np.array([6, 2, 4], np.int32),
        "h": floats(ways, 3, size),
    }
    count = 2
    if operator == "LSTM":
        feeds |= {"c": floats(ways, 3, size, seed=1), "p": floats(ways, 3 * size)}
        count = 3
    plain: dict[str, Any] = {"hidden_size": size, "direction": direction}
    against_runtime(operator, feeds, count, **plain)
    against_runtime(operator, feeds, count, clip=0.4, **plain)
    against_runtime(operator, {**feeds, "lengths": None, "b": None}, count, **plain)
    numbers = {"LSTM": ([1.3, 0.05], [0.6]), "GRU": ([0.3, 0.8], [0.4]), "RNN": ([0.5], [0.1])}[operator]
    plain |= {"activation_alpha": numbers[0] * ways, "activation_beta": numbers[1] * ways}
    against_runtime(operator, feeds, count, activations=names * ways, **plain)
    if operator == "GRU":
        against_runtime(operator, feeds, count, linear_before_reset=1, **plain)
    if operator == "LSTM":
        against_runtime(operator, feeds, count, input_forget=1, **plain)


@pytest.mark.parametrize("center", [0, 1])
def test_non_maximum_suppression(center: int) -> None:
    boxes = np.random.default_rng(0).uniform(0.1, 1, (2, 40, 4)).astype(np.float32)
    scores = np.round(np.random.default_rng(1).uniform(0, 1, (2, 3, 40)), 1).astype(np.float32)  # ties
    rest = {"most": scalar(4, np.int64), "overlap": scalar(0.4), "least": scalar(0.3)}
    for omitted in ((), ("least",), ("least", "overlap"), ("least", "overlap", "most")):
        given = {name: None if name in omitted else value for name, value in rest.items()}
        feeds = {"boxes": boxes, "scores": scores, **given}
        against_runtime("NonMaxSuppression", feeds, center_point_box=center)


def test_quantized_operators() -> None:
    a, b = integers(np.uint8, 2, 3, 6, 6), integers(np.uint8, 2, 3, 6, 6, seed=1)
    scale, zero = scalar(0.05), scalar(120, np.uint8)
    other, point = scalar(0.08), scalar(131, np.uint8)
    first = {"a": a, "a_scale": scale, "a_zero": zero}
    second = {"b": b, "b_scale": other, "b_zero": point}
    y = {"y_scale": scalar(0.11), "y_zero": scalar(100, np.uint8)}
    for operator in ("QLinearAdd", "QLinearMul"):
        against_runtime(operator, {**first, **second, **y}, domain=MICROSOFT, steps=1)
    against_runtime("QLinearConcat", {**y, **first, **second}, domain=MICROSOFT, axis=1, steps=1)
    for operator in ("QLinearSigmoid", "QLinearLeakyRelu"):
        against_runtime(operator, {**first, "y_scale": scalar(0.02), "y_zero": zero}, domain=MICROSOFT, steps=1)
    for last in (0, 1):
        options: dict[str, Any] = {"domain": MICROSOFT, "steps": 1, "channels_last": last}
        against_runtime("QLinearGlobalAveragePool", {**first, **y}, **options)
        against_runtime("QLinearAveragePool", {**first, **y}, kernel_shape=[2, 2], strides=[2, 2], **options)


def test_products_of_integers() -> None:
    # with weights of seven bits, no sum of two products exceeds 16 bits, where CPUs without VNNI saturate
    a, b = integers(np.uint8, 4, 6), integers(np.int8, 5, 6, low=-64, high=64)
    feeds = {
        "a": a,
        "a_scale": scalar(0.05),
        "a_zero": scalar(120, np.uint8),
        "b": b,
        "b_scale": np.abs(floats(5)) * 0.1,
        "b_zero": np.zeros(5, np.int8),
        "c": integers(np.int32, 5, low=-500, high=500),
        "y_scale": scalar(0.7),
        "y_zero": scalar(100, np.uint8),
    }
    against_runtime("QGemm", feeds, domain=MICROSOFT, transB=1, steps=1)
    against_runtime("QGemm", {**feeds, "y_scale": None, "y_zero": None}, domain=MICROSOFT, transB=1)
    x, weight = integers(np.uint8, 1, 4, 9, 9), integers(np.int8, 6, 2, 3, 3, low=-64, high=64)
    options: dict[str, Any] = {"group": 2, "pads": [1, 1, 0, 1], "strides": [2, 2]}
    against_runtime("ConvInteger", {"x": x, "w": weight, "x_zero": scalar(9, np.uint8)}, **options)
    scales = {"x_scale": scalar(0.02), "x_zero": scalar(120, np.uint8), "w": weight}
    scales |= {"w_scale": np.abs(floats(6)) * 0.1, "w_zero": np.zeros(6, np.int8)}
    scales |= {"y_scale": scalar(0.3), "y_zero": scalar(100, np.uint8), "b": integers(np.int32, 6, low=-900, high=900)}
    against_runtime("QLinearConv", {"x": x, **scales}, steps=1, **options)


def test_fused_operators() -> None:
    feeds = {"x": floats(1, 4, 7, 7), "w": floats(6, 4, 3, 3), "b": floats(6)}
    for activation, values in (("Relu", []), ("Clip", [-0.5, 1.5]), ("LeakyRelu", [0.3]), ("HardSigmoid", [0.3, 0.4])):
        options = {"activation": activation, "activation_params": values}
        against_runtime("FusedConv", feeds, domain=MICROSOFT, **{k: v for k, v in options.items() if v})
    against_runtime(
        "FusedConv", {**feeds, "z": floats(1, 6, 5, 5)}, domain=MICROSOFT, activation="Relu", kernel_shape=[3, 3]
    )
    matrices = {"a": floats(3, 4), "b": floats(5, 4), "c": floats(5)}
    against_runtime(
        "FusedGemm", matrices, domain=MICROSOFT, transB=1, alpha=0.5, activation="LeakyRelu", activation_alpha=0.2
    )
    for left, right, left_batch, right_batch in product((0, 1), repeat=4):
        a, b = np.zeros((2, 3, 4, 5)), np.zeros((2, 3, 5, 6))
        shapes = []
        for array, turned, batch in ((a, left, left_batch), (b, right, right_batch)):
            shaped = array.swapaxes(-1, -2) if turned else array
            shapes.append((np.moveaxis(shaped, -2, 0) if batch else shaped).shape)
        options = {"transA": left, "transB": right, "transBatchA": left_batch, "transBatchB": right_batch}
        pair = {"a": floats(*shapes[0]), "b": floats(*shapes[1])}
        against_runtime("FusedMatMul", pair, domain=MICROSOFT, alpha=0.7, **options)


def test_activations_and_matrices() -> None:
    x = floats(2, 3, 8)
    for operator, extra in (("Gelu", {}), ("BiasGelu", {"b": floats(8)}), ("FastGelu", {"b": floats(8)})):
        against_runtime(operator, {"x": x, **extra}, domain=MICROSOFT)
    against_runtime("QuickGelu", {"x": x}, domain=MICROSOFT, alpha=1.3)
    against_runtime("Inverse", {"x": floats(2, 3, 3)}, domain=MICROSOFT)


def test_transformer_layers() -> None:
    x, scale, shift = floats(2, 4, 8), floats(8), floats(8, seed=1)
    feeds = {"x": x, "skip": floats(2, 4, 8, seed=1), "scale": scale, "shift": shift, "bias": floats(8, seed=2)}
    against_runtime("SkipLayerNormalization", feeds, domain=MICROSOFT, epsilon=1e-5)
    ids = integers(np.int32, 2, 4, low=0, high=9)
    feeds = {"ids": ids, "segments": ids % 2, "w": floats(10, 8), "p": floats(6, 8), "s": floats(2, 8)}
    feeds |= {"scale": scale, "shift": shift, "mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)}
    against_runtime("EmbedLayerNormalization", feeds, 2, domain=MICROSOFT)


@pytest.mark.parametrize("mask", [[3, 4], [[1, 1, 0, 1], [1, 0, 1, 1]], None])
def test_contributed_attention(mask: Any) -> None:
    given = None if mask is None else np.array(mask, np.int32)
    feeds = {"x": floats(2, 4, 8), "w": floats(8, 24), "b": floats(24), "mask": given}
    for one_way in (0, 1):
        against_runtime("Attention", feeds, domain=MICROSOFT, num_heads=2, unidirectional=one_way)
    feeds = {"q": floats(2, 3, 8), "k": floats(2, 4, 8), "v": floats(2, 4, 8, seed=1), "b": floats(24), "mask": given}
    against_runtime("MultiHeadAttention", feeds, domain=MICROSOFT, num_heads=2)
    feeds |= {"bias": floats(1, 2, 3, 4)}
    against_runtime("MultiHeadAttention", feeds, domain=MICROSOFT, num_heads=2, scale=0.3)


def test_contributed_rotation() -> None:
    places = np.array([[0, 1, 2, 3], [2, 3, 4, 5]], np.int64)
    feeds = {"x": floats(2, 4, 16), "places": places, "cos": floats(8, 4), "sin": floats(8, 4, seed=1)}
    for interleaved in (0, 1):
        against_runtime("RotaryEmbedding", feeds, domain=MICROSOFT, interleaved=interleaved)
        against_runtime("RotaryEmbedding", {**feeds, "places": np.array([2], np.int64)}, domain=MICROSOFT)


def test_normalization_of_old_versions_and_single_elements() -> None:
    x = floats(2, 6, 5, 3)
    against_runtime("GroupNormalization", {"x": x, "s": floats(3), "b": floats(3, seed=1)}, version=18, num_groups=3)
    against_runtime("InstanceNormalization", {"x": floats(1, 3, 1), "s": floats(3), "b": floats(3, seed=1)})
    feeds = {"x": x, "s": floats(5, 1), "b": floats(5, 3)}
    against_runtime("LayerNormalization", {**feeds, "s": floats(5, 3)}, 3, axis=2)
    feeds = {"x": x, "s": floats(6), "b": floats(6), "m": floats(6, seed=1), "v": np.abs(floats(6))}
    against_runtime("BatchNormalization", feeds, version=9, epsilon=1e-3)


def test_deformable_convolution() -> None:
    feeds = {"x": floats(1, 4, 8, 9), "w": floats(6, 2, 3, 2), "offset": floats(1, 24, 4, 8) * 2, "b": floats(6)}
    options: dict[str, Any] = {"group": 2, "offset_group": 2, "pads": [1, 0, 0, 0], "strides": [2, 1]}
    against_runtime("DeformConv", {**feeds, "mask": floats(1, 12, 4, 8)}, version=19, **options)


def test_signals() -> None:
    for version, onesided in product((17, 20), (0, 1)):
        options: dict[str, Any] = {"version": version, "onesided": onesided}
        against_runtime("DFT", {"x": floats(2, 12, 5, 1)}, **options, **({"axis": 1} if version == 17 else {}))
    against_runtime("DFT", {"x": floats(2, 12, 5, 2), "n": scalar(8, np.int64)}, version=17, axis=2, inverse=1)
    feeds = {"x": floats(2, 40, 1), "step": scalar(6, np.int64), "window": np.abs(floats(16))}
    against_runtime("STFT", feeds, version=17)
    feeds = {"bins": scalar(8, np.int64), "n": scalar(64, np.int64), "rate": scalar(16000, np.int64)}
    feeds |= {"low": scalar(20), "high": scalar(7600)}
    against_runtime("MelWeightMatrix", feeds, version=17)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_scales_along_an_axis(dtype: Any) -> None:
    x, scale = floats(3, 4, 6) * 3, np.abs(floats(4)) * 0.05 + 0.01
    zero = np.zeros(4, dtype) if dtype is np.int32 else integers(dtype, 4, low=0, high=100)
    if dtype is not np.int32:
        against_runtime("QuantizeLinear", {"x": x, "scale": scale, "zero": zero}, axis=-2)
        against_runtime("QuantizeLinear", {"x": x, "scale": scale[:1].reshape(()), "zero": zero[:1].reshape(())})
    steps = integers(dtype, 3, 4, 6, low=0, high=120)
    against_runtime("DequantizeLinear", {"x": steps, "scale": scale, "zero": zero}, axis=1)
    if dtype is not np.int32:
        feeds = {"x": steps, "scale": scale, "zero": zero}
        against_runtime("DequantizeLinear", feeds, domain=MICROSOFT, axis=1)
        blocks = np.abs(floats(3, 4, 2)) + 0.1
        against_runtime("DequantizeLinear", {"x": steps, "scale": blocks}, axis=2, block_size=3)
