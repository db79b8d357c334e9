"""A model's preprocessing as an ONNX graph: Pillow's resampling in integers, the same to the bit.

ONNX's own ``Resize`` differs from Pillow by several gray levels, so the graph computes what Pillow computes: weights in
float64, rounded to 22 bits behind the point, along rows and along columns, each pass rounded to bytes. All sums are of
integers below 2^53, so float64 holds them exactly, in whatever order they are added. Which pass comes first is seen in
the last bit; Pillow 13 begins with the columns of tall pictures, and earlier ones never do.

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
"""Whether the Pillow that is installed begins with the columns of tall pictures; the graph does as that one does."""
OPSET = 18
_IR = 9
_BITS = 22
_GRAY = (19595.0, 38470.0, 7471.0)
"""Pillow's weights of red, green and blue, in 1/65536."""


def preprocessing_to_onnx(recipe: Preprocessing, *, output: str, dtype: str = "float32") -> onnx.ModelProto:
    """The graph from one picture to one sample.

    Args:
        recipe: what the model wants.
        output: name of the result, the model's input.
        dtype: of the result; the arithmetic is float32 either way.

    Returns:
        A model that takes ``image``, uint8 (height, width, 3), and gives ``output``, (1, channels, *crop).

    Raises:
        ExportError: an interpolation that the graph would not do exactly.
    """
    if recipe.interpolation not in (*_FILTERS, "nearest"):
        known = ", ".join((*_FILTERS, "nearest"))
        raise ExportError(f"interpolation {recipe.interpolation!r} has no exact graph; these have: {known}.")
    graph = _Graph()
    planes = graph.op("Transpose", graph.op("Cast", IMAGE, to=TensorProto.DOUBLE), perm=[2, 0, 1])
    if recipe.gray:
        weighted = graph.op("Mul", planes, graph.constant(np.array(_GRAY).reshape(3, 1, 1)))
        planes = graph.op("ReduceSum", weighted, graph.constant(np.array([0])), keepdims=1)
        planes = graph.floored(graph.op("Add", planes, graph.constant(32768.0)), 65536.0)
    have = graph.op("Shape", IMAGE, start=0, end=2)
    want = graph.constant(np.array(recipe.crop))
    size = want if recipe.resize is None else _resized(graph, have, recipe.resize)
    first = _first(graph, size, want)
    take = _nearest if recipe.interpolation == "nearest" else _resampled

    def passes(*axes: int) -> str:
        result = planes
        for axis in axes:
            result = take(graph, result, axis, recipe, [graph.item(value, axis) for value in (have, size, first)])
        return result

    if take is _resampled and TALL_FIRST:
        planes = graph.either(_tall(graph, have, size), lambda: passes(0, 1), lambda: passes(1, 0))
    else:
        planes = passes(1, 0)
    scaled = graph.op("Div", graph.op("Cast", planes, to=TensorProto.FLOAT), graph.constant(np.float32(255)))
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (recipe.mean, recipe.std))
    normal = graph.op("Div", graph.op("Sub", scaled, graph.constant(mean)), graph.constant(std))
    sample = graph.op("Unsqueeze", normal, graph.constant(np.array([0])))
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.nodes.append(helper.make_node("Cast", [sample], [output], to=to))
    image = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3])
    result = helper.make_tensor_value_info(output, to, [1, len(recipe.mean), *recipe.crop])
    return graph.model("preprocessing", image, [result])


def labels_to_onnx(labels: Sequence[str], *, logits: str, dtype: str, most: int) -> onnx.ModelProto:
    """The graph from logits to the names of the most probable classes.

    Args:
        labels: a name for every class.
        logits: name of the input, the model's output.
        dtype: of the input.
        most: names to give.

    Returns:
        A model that takes ``logits`` (batch, classes) and gives ``label``, strings, and ``probability``, float32, both
        (batch, most), the most probable first.
    """
    graph = _Graph()
    weights = graph.op("Softmax", graph.op("Cast", logits, to=TensorProto.FLOAT), axis=-1)
    most = min(most, len(labels))
    count = graph.constant(np.array([most]))
    graph.nodes.append(helper.make_node("TopK", [weights, count], ["probability", "index"], axis=-1))
    graph.nodes.append(helper.make_node("Gather", [graph.constant(np.array(labels, object)), "index"], ["label"]))
    taken = helper.make_tensor_value_info(
        logits, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["batch", len(labels)]
    )
    given = [
        helper.make_tensor_value_info("label", TensorProto.STRING, ["batch", most]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", most]),
    ]
    return graph.model("labels", taken, given)


class _Graph:
    """Nodes with names that nobody has to think of."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._names = itertools.count()
        self._constants: list[onnx.TensorProto] = []

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{next(self._names)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def item(self, vector: str, index: int) -> str:
        """One element, as a scalar."""
        return self.op("Gather", vector, self.constant(index))

    def double(self, value: str) -> str:
        return self.op("Cast", value, to=TensorProto.DOUBLE)

    def whole(self, value: str) -> str:
        """Truncated, as int64."""
        return self.op("Cast", value, to=TensorProto.INT64)

    def floored(self, value: str, divisor: float) -> str:
        """Divided by a power of two and rounded down."""
        return self.op("Floor", self.op("Div", value, self.constant(divisor)))

    def span(self, stop: str) -> str:
        """0, 1 … stop - 1 in float64."""
        return self.double(self.op("Range", self.constant(0), stop, self.constant(1)))

    def either(self, condition: str, yes: Callable[[], str], no: Callable[[], str]) -> str:
        """What one of two parts of the graph gives; only that one runs."""
        return self.op("If", condition, then_branch=self._branch(yes), else_branch=self._branch(no))

    def _branch(self, build: Callable[[], str]) -> onnx.GraphProto:
        outer, self.nodes = self.nodes, []
        result = helper.make_value_info(build(), helper.make_tensor_type_proto(TensorProto.DOUBLE, None))
        nodes, self.nodes = self.nodes, outer
        return helper.make_graph(nodes, result.name, [], [result])

    def model(self, name: str, taken: onnx.ValueInfoProto, given: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, [taken], given, self._constants)
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR, producer_name="deploy"
        )
        onnx.checker.check_model(made, full_check=True)
        return made


def _resized(graph: _Graph, have: str, short: int) -> str:
    """Height and width after the shorter side became ``short``: the other is truncated, as torchvision does."""
    least = graph.op("ReduceMin", have, keepdims=0)
    most = graph.op("ReduceMax", have, keepdims=0)
    product = graph.double(graph.op("Mul", most, graph.constant(short)))
    other = graph.whole(graph.op("Div", product, graph.double(least)))
    is_least = graph.op("Equal", have, least)  # of a square both are, and both become the same
    return graph.op("Where", is_least, graph.constant(short), other)


def _first(graph: _Graph, size: str, want: str) -> str:
    """Where the crop begins in the resized picture; below zero where that is smaller and is padded."""
    room = graph.op("Sub", size, want)
    half = graph.whole(graph.op("Round", graph.op("Div", graph.double(room), graph.constant(2.0))))
    lack = graph.op("Neg", graph.op("Div", graph.op("Neg", room), graph.constant(2)))
    return graph.op("Where", graph.op("Less", room, graph.constant(0)), lack, half)


def _tall(graph: _Graph, have: str, size: str) -> str:
    """Whether the height shrinks, and by more than twice the pixels that the width does."""
    lost = graph.op("Sub", have, size)
    rows, columns = graph.item(lost, 0), graph.item(lost, 1)
    more = graph.op("Greater", rows, graph.op("Mul", columns, graph.constant(2)))
    return graph.op("And", graph.op("Greater", rows, graph.constant(0)), more)


def _resampled(graph: _Graph, planes: str, axis: int, recipe: Preprocessing, sizes: Sequence[str]) -> str:
    """One pass: every line becomes sums of its pixels times weights, rounded to bytes."""
    have, size, first = sizes
    weights = _weights(graph, recipe, axis, have, size, first)
    if axis == 1:
        sums = graph.op("MatMul", planes, graph.op("Transpose", weights, perm=[1, 0]))
    else:
        sums = graph.op("MatMul", weights, planes)
    rounded = graph.floored(graph.op("Add", sums, graph.constant(2.0 ** (_BITS - 1))), 2.0**_BITS)
    return graph.op("Clip", rounded, graph.constant(0.0), graph.constant(255.0))


def _weights(graph: _Graph, recipe: Preprocessing, axis: int, have: str, size: str, first: str) -> str:
    """Integers (crop, have), in 2^-22: of the pixels of a line in each pixel that the crop takes."""
    support, curve = _FILTERS[recipe.interpolation]
    half = graph.constant(0.5)
    scale = graph.op("Div", graph.double(have), graph.double(size))
    stretch = graph.op("Max", scale, graph.constant(1.0))
    reach = graph.op("Mul", graph.constant(support), stretch)
    pixels = graph.constant(np.arange(recipe.crop[axis], dtype=np.float64)[:, None])
    place = graph.op("Add", pixels, graph.double(first))
    center = graph.op("Mul", graph.op("Add", place, half), scale)
    low = graph.op("Floor", graph.op("Add", graph.op("Sub", center, reach), half))
    high = graph.op("Floor", graph.op("Add", graph.op("Add", center, reach), half))
    pixel = graph.span(have)
    away = graph.op("Div", graph.constant(1.0), stretch)
    offset = graph.op("Mul", graph.op("Add", graph.op("Sub", pixel, center), half), away)
    inside = graph.op("And", graph.op("GreaterOrEqual", pixel, low), graph.op("Less", pixel, high))
    there = graph.op(
        "And",
        graph.op("GreaterOrEqual", place, graph.constant(0.0)),
        graph.op("Less", place, graph.double(size)),
    )
    zero = graph.constant(0.0)
    raw = graph.op("Where", graph.op("And", inside, there), curve(graph, offset), zero)
    total = graph.op("ReduceSum", raw, graph.constant(np.array([1])), keepdims=1)
    total = graph.op("Where", graph.op("Equal", total, zero), graph.constant(1.0), total)  # black beside the picture
    fixed = graph.op("Mul", graph.op("Div", raw, total), graph.constant(2.0**_BITS))
    away_from_zero = graph.op("Floor", graph.op("Add", graph.op("Abs", fixed), half))
    return graph.op("Mul", graph.op("Sign", fixed), away_from_zero)


def _nearest(graph: _Graph, planes: str, axis: int, recipe: Preprocessing, sizes: Sequence[str]) -> str:
    """The pixel below each center; Pillow adds the step up, pixel after pixel, and so does the graph."""
    have, size, first = sizes
    step = graph.op("Div", graph.double(have), graph.double(size))
    steps = graph.op("Expand", step, graph.op("Unsqueeze", size, graph.constant(np.array([0]))))
    begin = graph.op("Mul", step, graph.constant(0.5))
    rest = graph.op("Slice", steps, graph.constant(np.array([1])), graph.constant(np.array([np.iinfo(np.int64).max])))
    joined = graph.op("Concat", graph.op("Unsqueeze", begin, graph.constant(np.array([0]))), rest, axis=0)
    source = graph.whole(graph.op("CumSum", joined, graph.constant(np.int64(0))))
    place = graph.op("Add", graph.constant(np.arange(recipe.crop[axis])), first)
    last = graph.op("Sub", size, graph.constant(1))
    held = graph.op("Min", graph.op("Max", place, graph.constant(0)), last)
    taken = graph.op("Gather", planes, graph.op("Gather", source, held), axis=axis + 1)
    there = graph.op("Cast", graph.op("Equal", place, held), to=TensorProto.DOUBLE)
    mask = there if axis == 1 else graph.op("Unsqueeze", there, graph.constant(np.array([1])))
    return graph.op("Mul", taken, mask)


def _triangle(graph: _Graph, offset: str) -> str:
    one = graph.constant(1.0)
    return graph.op("Max", graph.op("Sub", one, graph.op("Abs", offset)), graph.constant(0.0))


def _box(graph: _Graph, offset: str) -> str:
    inside = graph.op(
        "And",
        graph.op("Greater", offset, graph.constant(-0.5)),
        graph.op("LessOrEqual", offset, graph.constant(0.5)),
    )
    return graph.double(inside)


def _cubic(graph: _Graph, offset: str) -> str:
    """Keys' curve with a = -1/2, the polynomials nested as Pillow nests them."""
    x = graph.op("Abs", offset)

    def polynomial(*steps: tuple[str, float | str]) -> str:
        value = x
        for operator, operand in steps:
            value = graph.op(operator, value, operand if isinstance(operand, str) else graph.constant(operand))
        return value

    near = polynomial(("Mul", 1.5), ("Sub", 2.5), ("Mul", x), ("Mul", x), ("Add", 1.0))
    far = polynomial(("Sub", 5.0), ("Mul", x), ("Add", 8.0), ("Mul", x), ("Sub", 4.0), ("Mul", -0.5))
    beyond = graph.op("Where", graph.op("Less", x, graph.constant(2.0)), far, graph.constant(0.0))
    return graph.op("Where", graph.op("Less", x, graph.constant(1.0)), near, beyond)


_FILTERS: dict[str, tuple[float, Callable[[_Graph, str], str]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "box": (0.5, _box),
}
"""Support in pixels, and the curve, by interpolation."""
