"""Pooling: over windows, over whole images, over regions, and over channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from deploy.onnx_graph.node import OnnxNode, operator
from deploy.onnx_graph.windows import Windows, windows

Tensor = torch.Tensor

_MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_SUM = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _windows(node: OnnxNode, x: Tensor) -> Windows:
    moves = windows(node, x.shape[2:], node.get("kernel_shape"))
    return moves.rounded_up() if node.get("ceil_mode", 0) and node.get("auto_pad", "NOTSET") == "NOTSET" else moves


@operator("MaxPool")
def maximum(node: OnnxNode, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maxima, and their indices in the whole input if the node has that output."""
    moves = _windows(node, x)
    values = x if x.is_floating_point() else x.to(torch.float32)  # 8-bit integers: exact
    padding: int | tuple[int, ...] = moves.begin
    sizes, begin = list(moves.sizes), (0,) * len(moves.sizes)
    if not moves.native:
        values, padding, begin = moves.padded(values, -math.inf), 0, moves.begin
        sizes = list(values.shape[2:])
    pool = _MAXIMUM[len(sizes)]
    if not node.uses(1):
        return pool(values, moves.kernel, moves.strides, padding, moves.dilations).to(x.dtype)
    result, places = pool(values, moves.kernel, moves.strides, padding, moves.dilations, return_indices=True)
    axes: list[Tensor] = []
    for size, before in zip(reversed(sizes), reversed(begin), strict=True):
        axes.insert(0, places % size - before)
        places = torch.div(places, size, rounding_mode="floor")
    order = list(range(len(sizes)))
    if node.get("storage_order", 0):
        order.reverse()
    batch, channels = x.shape[:2]
    flat = torch.arange(batch * channels).reshape(batch, channels, *(1 for _ in sizes))
    for axis in order:
        flat = flat * moves.sizes[axis] + axes[axis]
    return result.to(x.dtype), flat


def _sums(x: Tensor, moves: Windows) -> Tensor:
    """Return the sum of each window over an input that has its padding."""
    kernel = torch.ones((1, 1, *moves.kernel), dtype=x.dtype)
    single = x.reshape(-1, 1, *x.shape[2:])
    sums = _SUM[len(moves.kernel)](single, kernel, None, moves.strides, 0, moves.dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@operator("AveragePool")
def average(node: OnnxNode, x: Tensor) -> Tensor:
    """Return the means; padding counts if the node says so, the excess of ``ceil_mode`` never."""
    moves, whole = _windows(node, x), bool(node.get("count_include_pad", 0))
    if moves.native and set(moves.dilations) == {1} and not node.get("ceil_mode", 0):
        return _AVERAGE[len(moves.sizes)](x, moves.kernel, moves.strides, moves.begin, False, whole)
    counted = torch.ones((1, 1, *moves.sizes), dtype=x.dtype)
    if whole:
        stated = windows(node, moves.sizes, moves.kernel)
        counted = stated.padded(counted, 1.0)
        moves_counted = replace(
            moves, begin=(0,) * len(moves.sizes), end=tuple(map(int.__sub__, moves.end, stated.end))
        )
    else:
        moves_counted = moves
    return _sums(moves.padded(x), moves) / _sums(moves_counted.padded(counted), moves)


@operator("LpPool")
def power(node: OnnxNode, x: Tensor) -> Tensor:
    """Return the p-norm of each window."""
    moves, p = _windows(node, x), node.get("p", 2)
    return _sums(moves.padded(x.abs().pow(p)), moves).pow(1.0 / p)


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def whole_image(node: OnnxNode, x: Tensor) -> Tensor:
    """Reduce all spatial axes."""
    axes = list(range(2, x.dim()))
    if node.operator == "GlobalAveragePool":
        return x.mean(axes, keepdim=True)
    if node.operator == "GlobalMaxPool":
        return x.amax(axes, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), axes, keepdim=True)
    return norm


@operator("MaxUnpool")
def unpool(node: OnnxNode, x: Tensor, places: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """Put elements where `MaxPool` found them.

    The indices refer to the size that the attributes give; a larger ``output_shape`` adds zeros at the end.
    """
    kernel = node.get("kernel_shape")
    moves = windows(node, x.shape[2:], kernel)
    sizes = [
        (size - 1) * stride + width - begin - end
        for size, stride, width, begin, end in zip(
            x.shape[2:], moves.strides, kernel, moves.begin, moves.end, strict=True
        )
    ]
    shape = [*x.shape[:2], *sizes]
    flat = torch.zeros(math.prod(shape), dtype=x.dtype)
    result = flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return result
    more = [target - size for target, size in zip(output_shape.tolist(), shape, strict=True)]
    return functional.pad(result, [amount for extra in reversed(more) for amount in (0, extra)])


@operator("MaxRoiPool")
def region_maximum(node: OnnxNode, x: Tensor, rois: Tensor) -> Tensor:
    """Return the maxima of regions, [batch index, x1, y1, x2, y2]."""
    import torchvision  # takes seconds, as it imports torch._dynamo

    result: Tensor = torchvision.ops.roi_pool(x, rois, node.get("pooled_shape"), node.get("spatial_scale", 1.0))
    return result


@operator("RoiAlign")
def region_samples(node: OnnxNode, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Sample regions, [x1, y1, x2, y2], of the images that ``batch`` names."""
    import torchvision  # takes seconds, as it imports torch._dynamo

    size = (node.get("output_height", 1), node.get("output_width", 1))
    scale, ratio = node.get("spatial_scale", 1.0), node.get("sampling_ratio", 0)
    half = node.version >= 16 and node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    if node.get("mode", "avg") == "avg":
        boxes = torch.cat([batch.to(rois.dtype).unsqueeze(1), rois], dim=1)
        result: Tensor = torchvision.ops.roi_align(x, boxes, size, scale, ratio, aligned=half)
        return result
    parts = [
        _sampled_maximum(x[image], (box * scale - 0.5 * half).tolist(), size, ratio, half)
        for image, box in zip(batch.tolist(), rois, strict=True)
    ]
    return torch.stack(parts) if parts else x.new_zeros((0, x.shape[1], *size))


def _sampled_maximum(image: Tensor, box: list[float], size: tuple[int, int], ratio: int, half: bool) -> Tensor:
    """Return [C, *size]: the greatest of the four weighted neighbors of all samples, as the specification has it."""
    lows, highs, weights = [], [], []
    for axis in (0, 1):  # rows, columns
        start, length = box[1 - axis], box[3 - axis] - box[1 - axis]
        step = (length if half else max(length, 1.0)) / size[axis]
        count = ratio or math.ceil(step)
        limit = image.shape[1 + axis]
        places = [start + step * (part + (i + 0.5) / count) for part in range(size[axis]) for i in range(count)]
        low = [min(max(int(place), 0), limit - 1) for place in places]
        lows.append(torch.tensor(low, dtype=torch.int64))
        highs.append(torch.tensor([min(place + 1, limit - 1) for place in low], dtype=torch.int64))
        inside = [
            -1.0 <= place <= limit and (1 - (part := max(place, 0.0) - at if at < limit - 1 else 0.0), part)
            for place, at in zip(places, low, strict=True)
        ]
        weights.append(torch.tensor([pair or (0.0, 0.0) for pair in inside], dtype=image.dtype).reshape(-1, 2))
    corners = [
        image[:, rows][:, :, columns] * weights[0][:, i].unsqueeze(1) * weights[1][:, j]
        for i, rows in enumerate((lows[0], highs[0]))
        for j, columns in enumerate((lows[1], highs[1]))
    ]
    best = torch.stack(corners).amax(0)
    if best.numel() == 0:
        return image.new_zeros((image.shape[0], *size))
    counts = [rows.numel() // width for rows, width in zip(lows, size, strict=True)]
    return best.reshape(-1, size[0], counts[0], size[1], counts[1]).amax((2, 4))


@operator("LRN")
def local_response(node: OnnxNode, x: Tensor) -> Tensor:
    """Divide by a power of the mean square of neighboring channels."""
    size = node.get("size")
    squares = functional.pad(x.square().reshape(x.shape[0], 1, x.shape[1], -1), (0, 0, (size - 1) // 2, size // 2))
    means = functional.avg_pool2d(squares, (size, 1), stride=1).reshape(x.shape)
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    result: Tensor = x / (bias + alpha * means) ** beta
    return result
