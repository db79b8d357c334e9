"""A model's preprocessing as an ONNX graph that equals Pillow bit for bit.

ONNX's ``Resize`` differs from Pillow by several gray levels, so the graph repeats Pillow's arithmetic: weights in
float64, rounded to 22 fractional bits, applied to rows and to columns, with each pass rounded to bytes. All sums are of
integers below 2^53, which float64 represents exactly, so the order of summation does not matter. The order of the two
passes decides the last bit: Pillow 13 starts with the columns of tall images, earlier versions never do.

Source: Pillow, ``src/libImaging/Resample.c`` (8 bits a channel) and ``Geometry.c`` (nearest).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import PIL
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import ExportError
from deploy.core.model import Preprocessing

IMAGE = "image"
TALL_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
"""Whether the installed Pillow starts with the columns of tall images, which the graph then does too."""

OPSET = 18
_IR_VERSION = 9
_WEIGHT_BITS = 22
_GRAY = (19595.0, 38470.0, 7471.0)
"""Pillow's weights of red, green and blue, in units of 1/65536."""


def preprocessing_to_onnx(recipe: Preprocessing, *, output: str, dtype: str = "float32") -> onnx.ModelProto:
    """Build the graph from the input ``image``, uint8 (height, width, 3), to one sample, (1, channels, *crop).

    ``output`` and ``dtype`` are those of the model's input; mean and std are applied in float32.
    """
    if recipe.interpolation not in (*_FILTERS, "nearest"):
        known = ", ".join((*_FILTERS, "nearest"))
        raise ExportError(f"interpolation {recipe.interpolation!r} is not supported; supported: {known}.")
    if recipe.letterbox is not None:
        raise ExportError("letterbox is not supported.")
    graph = _Graph()
    planes = graph.op("Transpose", graph.op("Cast", IMAGE, to=TensorProto.DOUBLE), perm=[2, 0, 1])
    if recipe.gray:
        weighted = graph.op("Mul", planes, np.array(_GRAY).reshape(3, 1, 1))
        planes = graph.op("ReduceSum", weighted, np.array([0]), keepdims=1)
        planes = graph.floored(graph.op("Add", planes, 32768.0), 65536.0)
    image_size = graph.op("Shape", IMAGE, start=0, end=2)
    crop = graph.constant(np.array(recipe.crop))
    resized = crop if recipe.resize is None else _resized_size(graph, image_size, recipe.resize)
    offset = _crop_offset(graph, resized, crop)
    resample = _nearest if recipe.interpolation == "nearest" else _convolved

    def passes(*axes: int) -> str:
        result = planes
        for axis in axes:
            sizes = [graph.item(value, axis) for value in (image_size, resized, offset)]
            result = resample(graph, result, axis, recipe, sizes)
        return result

    if resample is _convolved and TALL_FIRST:
        planes = graph.either(_is_tall(graph, image_size, resized), lambda: passes(0, 1), lambda: passes(1, 0))
    else:
        planes = passes(1, 0)
    scaled = graph.op("Div", graph.op("Cast", planes, to=TensorProto.FLOAT), np.float32(255))
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (recipe.mean, recipe.std))
    normal = graph.op("Div", graph.op("Sub", scaled, mean), std)
    sample = graph.op("Unsqueeze", normal, np.array([0]))
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.nodes.append(helper.make_node("Cast", [sample], [output], to=to))
    image = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3])
    result = helper.make_tensor_value_info(output, to, [1, len(recipe.mean), *recipe.crop])
    return graph.model("preprocessing", image, [result])


def labels_to_onnx(labels: Sequence[str], *, logits: str, dtype: str, top_k: int) -> onnx.ModelProto:
    """Build the graph from the model's output, ``logits`` (batch, classes), to the most probable classes.

    The outputs are ``label``, strings, and ``probability``, float32, both of shape (batch, top_k), the most probable
    class first; ``top_k`` is at most the number of classes.
    """
    graph = _Graph()
    probabilities = graph.op("Softmax", graph.op("Cast", logits, to=TensorProto.FLOAT), axis=-1)
    top_k = min(top_k, len(labels))
    count = graph.constant(np.array([top_k]))
    graph.nodes.append(helper.make_node("TopK", [probabilities, count], ["probability", "index"], axis=-1))
    graph.nodes.append(helper.make_node("Gather", [graph.constant(np.array(labels, object)), "index"], ["label"]))
    source = helper.make_tensor_value_info(
        logits, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["batch", len(labels)]
    )
    results = [
        helper.make_tensor_value_info("label", TensorProto.STRING, ["batch", top_k]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", top_k]),
    ]
    return graph.model("labels", source, results)


class _Graph:
    """A graph under construction; names of nodes and constants are generated."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._names = itertools.count()
        self._constants: list[onnx.TensorProto] = []

    def op(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """Append a node and return the name of its output; inputs that are not names of tensors become constants."""
        name = f"{operator.lower()}_{next(self._names)}"
        names = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def item(self, vector: str, index: int) -> str:
        """Return one element as a scalar."""
        return self.op("Gather", vector, index)

    def double(self, value: str) -> str:
        return self.op("Cast", value, to=TensorProto.DOUBLE)

    def truncated(self, value: str) -> str:
        """Round toward zero, to int64."""
        return self.op("Cast", value, to=TensorProto.INT64)

    def floored(self, value: str, divisor: float) -> str:
        """Divide by a power of two and round down."""
        return self.op("Floor", self.op("Div", value, divisor))

    def arange(self, stop: str) -> str:
        """Return 0, 1 … stop - 1 in float64."""
        return self.double(self.op("Range", 0, stop, 1))

    def either(self, condition: str, yes: Callable[[], str], no: Callable[[], str]) -> str:
        """Return the result of one of two subgraphs; only that one runs."""
        return self.op("If", condition, then_branch=self._branch(yes), else_branch=self._branch(no))

    def _branch(self, build: Callable[[], str]) -> onnx.GraphProto:
        outer, self.nodes = self.nodes, []
        result = helper.make_value_info(build(), helper.make_tensor_type_proto(TensorProto.DOUBLE, None))
        nodes, self.nodes = self.nodes, outer
        return helper.make_graph(nodes, result.name, [], [result])

    def model(self, name: str, source: onnx.ValueInfoProto, results: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, [source], results, self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="deploy"
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _resized_size(graph: _Graph, image_size: str, short_side: int) -> str:
    """Return height and width after resizing the shorter side; the other is truncated, as in torchvision."""
    shorter = graph.op("ReduceMin", image_size, keepdims=0)
    longer = graph.op("ReduceMax", image_size, keepdims=0)
    product = graph.double(graph.op("Mul", longer, short_side))
    other = graph.truncated(graph.op("Div", product, graph.double(shorter)))
    is_shorter = graph.op("Equal", image_size, shorter)  # both sides of a square
    return graph.op("Where", is_shorter, short_side, other)


def _crop_offset(graph: _Graph, size: str, crop: str) -> str:
    """Return where the crop starts in the resized image; negative if the image is smaller and is padded."""
    margin = graph.op("Sub", size, crop)
    half = graph.truncated(graph.op("Round", graph.op("Div", graph.double(margin), 2.0)))
    padding = graph.op("Neg", graph.op("Div", graph.op("Neg", margin), 2))
    return graph.op("Where", graph.op("Less", margin, 0), padding, half)


def _is_tall(graph: _Graph, image_size: str, size: str) -> str:
    """Return whether the height shrinks, and by more than twice the pixels by which the width shrinks."""
    difference = graph.op("Sub", image_size, size)
    rows, columns = graph.item(difference, 0), graph.item(difference, 1)
    more = graph.op("Greater", rows, graph.op("Mul", columns, 2))
    return graph.op("And", graph.op("Greater", rows, 0), more)


def _convolved(graph: _Graph, planes: str, axis: int, recipe: Preprocessing, sizes: Sequence[str]) -> str:
    """Resample one axis: every line becomes weighted sums of its pixels, rounded to bytes."""
    weights = _weights(graph, recipe, axis, *sizes)
    if axis == 1:
        sums = graph.op("MatMul", planes, graph.op("Transpose", weights, perm=[1, 0]))
    else:
        sums = graph.op("MatMul", weights, planes)
    rounded = graph.floored(graph.op("Add", sums, 2.0 ** (_WEIGHT_BITS - 1)), 2.0**_WEIGHT_BITS)
    return graph.op("Clip", rounded, 0.0, 255.0)


def _weights(graph: _Graph, recipe: Preprocessing, axis: int, image_size: str, size: str, crop_offset: str) -> str:
    """Return the weights of the image's pixels in each pixel of the crop: integers (crop, image), in units of 2^-22."""
    support, kernel = _FILTERS[recipe.interpolation]
    scale = graph.op("Div", graph.double(image_size), graph.double(size))
    stretch = graph.op("Max", scale, 1.0)
    radius = graph.op("Mul", support, stretch)
    crop_pixels = np.arange(recipe.crop[axis], dtype=np.float64)[:, None]
    position = graph.op("Add", crop_pixels, graph.double(crop_offset))
    center = graph.op("Mul", graph.op("Add", position, 0.5), scale)
    low = graph.op("Floor", graph.op("Add", graph.op("Sub", center, radius), 0.5))
    high = graph.op("Floor", graph.op("Add", graph.op("Add", center, radius), 0.5))
    pixel = graph.arange(image_size)
    inverse = graph.op("Div", 1.0, stretch)
    distance = graph.op("Mul", graph.op("Add", graph.op("Sub", pixel, center), 0.5), inverse)
    in_support = graph.op("And", graph.op("GreaterOrEqual", pixel, low), graph.op("Less", pixel, high))
    not_past = graph.op("Less", position, graph.double(size))
    in_image = graph.op("And", graph.op("GreaterOrEqual", position, 0.0), not_past)
    raw = graph.op("Where", graph.op("And", in_support, in_image), kernel(graph, distance), 0.0)
    total = graph.op("ReduceSum", raw, np.array([1]), keepdims=1)
    total = graph.op("Where", graph.op("Equal", total, 0.0), 1.0, total)  # padding is black
    fixed = graph.op("Mul", graph.op("Div", raw, total), 2.0**_WEIGHT_BITS)
    magnitude = graph.op("Floor", graph.op("Add", graph.op("Abs", fixed), 0.5))
    return graph.op("Mul", graph.op("Sign", fixed), magnitude)


def _nearest(graph: _Graph, planes: str, axis: int, recipe: Preprocessing, sizes: Sequence[str]) -> str:
    """Select the pixel below each center; like Pillow, the graph accumulates the step pixel by pixel."""
    image_size, size, crop_offset = sizes
    step = graph.op("Div", graph.double(image_size), graph.double(size))
    steps = graph.op("Expand", step, graph.op("Unsqueeze", size, np.array([0])))
    start = graph.op("Mul", step, 0.5)
    rest = graph.op("Slice", steps, np.array([1]), np.array([np.iinfo(np.int64).max]))
    joined = graph.op("Concat", graph.op("Unsqueeze", start, np.array([0])), rest, axis=0)
    source = graph.truncated(graph.op("CumSum", joined, np.int64(0)))
    position = graph.op("Add", np.arange(recipe.crop[axis]), crop_offset)
    last = graph.op("Sub", size, 1)
    clamped = graph.op("Min", graph.op("Max", position, 0), last)
    pixels = graph.op("Gather", planes, graph.op("Gather", source, clamped), axis=axis + 1)
    in_image = graph.op("Cast", graph.op("Equal", position, clamped), to=TensorProto.DOUBLE)
    mask = in_image if axis == 1 else graph.op("Unsqueeze", in_image, np.array([1]))
    return graph.op("Mul", pixels, mask)


def _triangle(graph: _Graph, distance: str) -> str:
    return graph.op("Max", graph.op("Sub", 1.0, graph.op("Abs", distance)), 0.0)


def _box(graph: _Graph, distance: str) -> str:
    return graph.double(graph.op("And", graph.op("Greater", distance, -0.5), graph.op("LessOrEqual", distance, 0.5)))


def _cubic(graph: _Graph, distance: str) -> str:
    """Keys' kernel with a = -1/2, with the polynomials nested as in Pillow."""
    x = graph.op("Abs", distance)

    def polynomial(*steps: tuple[str, float | str]) -> str:
        value = x
        for operator, operand in steps:
            value = graph.op(operator, value, operand)
        return value

    near = polynomial(("Mul", 1.5), ("Sub", 2.5), ("Mul", x), ("Mul", x), ("Add", 1.0))
    far = polynomial(("Sub", 5.0), ("Mul", x), ("Add", 8.0), ("Mul", x), ("Sub", 4.0), ("Mul", -0.5))
    outer = graph.op("Where", graph.op("Less", x, 2.0), far, 0.0)
    return graph.op("Where", graph.op("Less", x, 1.0), near, outer)


_FILTERS: dict[str, tuple[float, Callable[[_Graph, str], str]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "box": (0.5, _box),
}
"""Radius of the support in pixels, and the kernel, by interpolation."""
