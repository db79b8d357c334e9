"""Resampling of images on other grids."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor

_MANY = 8
"""Weights of one element from which on a product with a matrix is faster than a sum of selected slices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """How one axis is resampled.

    Attributes:
        length: of the axis before, ``target`` after.
        width: the length after, before it is rounded; the ratio of both lengths is ``width / length``.
        region: start and end of the part that ``tf_crop_and_resize`` samples; 0 and 1 are the whole axis.
    """

    length: int
    target: int
    width: float
    region: tuple[float, float]

    def unchanged(self, coordinates: str) -> bool:
        """Return whether each element samples itself."""
        whole = coordinates != "tf_crop_and_resize" or self.region == (0.0, 1.0)
        return self.length == self.target == self.width and whole

    def source(self, index: int, coordinates: str) -> float:
        """Return where an element of the result lies on the axis, as the specification of Resize defines it."""
        length, target, width = self.length, self.target, self.width
        if coordinates == "asymmetric":
            return index * length / width
        if coordinates == "align_corners":
            return index * (length - 1) / (target - 1) if target > 1 else 0.0
        if coordinates == "tf_crop_and_resize":
            start, end = self.region
            if target == 1:
                return 0.5 * (start + end) * (length - 1)
            return start * (length - 1) + index * (end - start) * (length - 1) / (target - 1)
        if coordinates == "tf_half_pixel_for_nn":  # version 11 only
            return (2 * index + 1) * length / (2 * width)
        if coordinates == "pytorch_half_pixel" and target == 1:
            return 0.0
        cut = width - target if coordinates == "half_pixel_symmetric" else 0.0
        return (length * (2 * index + 1 + cut) / width - 1) / 2


def _axes(node: OnnxNode, x: Tensor, roi: Tensor | None, scales: list[float], sizes: list[int]) -> dict[int, Axis]:
    """Return how the axes that a node names are resampled."""
    chosen = [axis % x.dim() for axis in node.get("axes") or range(x.dim())]
    regions = [] if roi is None else roi.tolist()
    lengths = [x.shape[axis] for axis in chosen]
    widths: list[float] = []
    if sizes:
        policy, targets = node.get("keep_aspect_ratio_policy", "stretch"), sizes
        if policy == "stretch":
            widths = [float(size) for size in sizes]
        else:
            choose = min if policy == "not_larger" else max
            size, length = choose(zip(sizes, lengths, strict=True), key=lambda pair: pair[0] / pair[1])
            widths = [other * size / length for other in lengths]
            targets = [int(width + 0.5) for width in widths]
    else:
        # Sizes are products in float32. A scale whose product is whole stands for that ratio: 0.33333334 for 1/3.
        products = [ctypes.c_float(scale * length).value for scale, length in zip(scales, lengths, strict=True)]
        targets = [math.floor(product) for product in products]
        widths = [
            product if product == target else scale * length
            for product, target, scale, length in zip(products, targets, scales, lengths, strict=True)
        ]
    count = len(chosen)
    return {
        axis: Axis(
            length=lengths[i],
            target=targets[i],
            width=widths[i],
            region=(regions[i], regions[count + i]) if regions else (0.0, 1.0),
        )
        for i, axis in enumerate(chosen)
    }


_NEAREST: dict[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda place: math.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: math.floor(place + 0.5),
    "floor": math.floor,
    "ceil": math.ceil,
}


def _default_rounding(node: OnnxNode, change: Axis) -> str:
    """Return how places are rounded; before version 11 as ONNX Runtime does it, since no specification says it."""
    if node.operator == "Resize" and node.version >= 11:
        return "round_prefer_floor"
    return "ceil" if change.width < change.length else "floor"


def _triangle(distance: float) -> float:
    return max(0.0, 1.0 - abs(distance))


def _cubic(a: float) -> Callable[[float], float]:
    """Return the kernel of R. Keys, "Cubic convolution interpolation for digital image processing", 1981."""

    def kernel(distance: float) -> float:
        d = abs(distance)
        if d <= 1:
            return ((a + 2) * d - (a + 3)) * d * d + 1
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0

    return kernel


def _weights(
    places: Sequence[float], length: int, reach: int, kernel: Callable[[float], float], ratio: float, exclude: bool
) -> tuple[list[list[int]], list[list[float]]]:
    """Return, for each place, the indices of its neighbors and their weights, which add up to 1.

    ``reach`` is half the width of the kernel, which is stretched by the inverse of ``ratio``. Neighbors outside the
    axis repeat the first or last element; those that are excluded have no weight.
    """
    radius = math.ceil(reach / ratio)
    indices, weights = [], []
    for place in places:
        first = math.floor(place) - radius + 1
        near = range(first, first + 2 * radius)
        row = [kernel((index - place) * ratio) for index in near]
        if exclude:
            row = [weight if 0 <= index < length else 0.0 for index, weight in zip(near, row, strict=True)]
        total = sum(row) or 1.0
        indices.append([min(max(index, 0), length - 1) for index in near])
        weights.append([weight / total for weight in row])
    return indices, weights


def _resample(x: Tensor, axis: int, indices: list[list[int]], weights: list[list[float]]) -> Tensor:
    """Return the weighted sums of elements of an axis."""
    if len(indices[0]) >= _MANY:
        rows = torch.zeros((len(indices), x.shape[axis]), dtype=x.dtype)
        rows = rows.scatter_add(1, torch.tensor(indices), torch.tensor(weights, dtype=x.dtype))
        return torch.matmul(x.movedim(axis, -1), rows.T).movedim(-1, axis)
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    result = None
    for near, column in zip(zip(*indices, strict=True), zip(*weights, strict=True), strict=True):
        part = x.index_select(axis, torch.tensor(near)).mul_(torch.tensor(column, dtype=x.dtype).reshape(shape))
        result = part if result is None else result.add_(part)
    assert result is not None
    return result


@operator("Resize", "Upsample")
def resize(node: OnnxNode, x: Tensor, *rest: Tensor | None) -> Tensor:
    """Resample axes one after the other; places and weights are computed in float64."""
    roi, scales, sizes = (*rest[:3], *(None,) * (3 - len(rest)))[:3]
    if node.operator == "Upsample" or node.version < 11:
        roi, scales, sizes = None, rest[0] if rest else None, None
    factors = list(node.get("scales", ())) if scales is None else scales.tolist()
    if node.get("height_scale"):
        factors = [1.0, 1.0, node.get("height_scale"), node.get("width_scale")]
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(kind := node.get("mode", "nearest"), kind)
    default = "half_pixel" if node.version >= 11 and node.operator == "Resize" else "asymmetric"
    coordinates = node.get("coordinate_transformation_mode", default)
    crop = coordinates == "tf_crop_and_resize"
    kernel = _triangle if mode == "linear" else _cubic(node.get("cubic_coeff_a", -0.75))

    plan = _axes(node, x, roi if crop else None, factors, [] if sizes is None else sizes.tolist())
    result = x if mode == "nearest" or x.is_floating_point() else x.to(torch.float32)
    for axis, change in plan.items():
        if change.unchanged(coordinates):
            continue
        places = [change.source(index, coordinates) for index in range(change.target)]
        if not places:
            result = result.narrow(axis, 0, 0)
        elif mode == "nearest":
            rounded = _NEAREST[node.get("nearest_mode", _default_rounding(node, change))]
            # In float32, as scales are: a place that the scale puts just below an element is at the element
            near = [rounded(ctypes.c_float(place).value) for place in places]
            chosen = [min(max(index, 0), change.length - 1) for index in near]
            result = result.index_select(axis, torch.tensor(chosen))
        else:
            ratio = min(change.width / change.length, 1.0) if node.get("antialias", 0) else 1.0
            reach, exclude = 1 if mode == "linear" else 2, bool(node.get("exclude_outside", 0))
            result = _resample(result, axis, *_weights(places, change.length, reach, kernel, ratio, exclude))
        outside = [crop and not 0 <= place <= change.length - 1 for place in places]
        if any(outside):
            shape = [-1 if i == axis else 1 for i in range(x.dim())]
            result = result.masked_fill(torch.tensor(outside).reshape(shape), node.get("extrapolation_value", 0.0))
    if result.dtype != x.dtype:
        limits = torch.iinfo(x.dtype)
        result = result.round().clamp(limits.min, limits.max).to(x.dtype)
    return result


@operator("GridSample")
def grid_sample(node: OnnxNode, x: Tensor, grid: Tensor) -> Tensor:
    """Sample at the places of a grid, normalized to -1 and 1."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(kind := node.get("mode", "bilinear"), kind)
    padding, corners = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    return functional.grid_sample(x, grid, mode, padding, corners)


@operator("AffineGrid")
def affine_grid(node: OnnxNode, theta: Tensor, size: Tensor) -> Tensor:
    """Return the grid of an affine transformation."""
    return functional.affine_grid(theta, size.tolist(), bool(node.get("align_corners", 0)))
