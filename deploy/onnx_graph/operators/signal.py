"""Fourier transforms and the weights of mel spectrograms. Complex numbers are pairs in the last axis."""

from __future__ import annotations

import math

import torch

from deploy.onnx_graph.constants import dtype_of
from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor


def _transformed(x: Tensor, length: int | None, axis: int, onesided: bool, inverse: bool = False) -> Tensor:
    """Return the transform of [..., 1 or 2] along an axis; that of a onesided inverse is [..., 1]."""
    value = x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    result: Tensor
    if inverse and onesided:
        result = torch.fft.irfft(value, length, axis)
        return result.unsqueeze(-1)
    result = torch.fft.ifft(value, length, axis) if inverse else torch.fft.fft(value, length, axis)
    return torch.view_as_real(result.narrow(axis, 0, result.shape[axis] // 2 + 1) if onesided else result)


@operator("DFT")
def fourier(node: OnnxNode, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Transform one axis; before version 20 it is an attribute."""
    along = node.get("axis", 1) if node.version < 20 else -2 if axis is None else int(axis.item())
    size = None if length is None else int(length.item())
    onesided, inverse = bool(node.get("onesided", 0)), bool(node.get("inverse", 0))
    return _transformed(x, size, along % x.dim(), onesided, inverse)


@operator("STFT")
def short_time_fourier(
    node: OnnxNode, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """Return the transforms of frames, [batch, frames, bins, 2]."""
    x = x.unsqueeze(-1) if x.dim() == 2 else x
    size = int(length.item()) if length is not None else x.shape[1] if window is None else window.shape[0]
    frames = x.unfold(1, size, int(step.item())).transpose(2, 3)  # [batch, frames, size, 1 or 2]
    if window is not None:
        frames = frames * window.unsqueeze(1)
    return _transformed(frames, None, 2, bool(node.get("onesided", 1)))


@operator("MelWeightMatrix")
def mel_weights(node: OnnxNode, *inputs: Tensor) -> Tensor:
    """Return the weights, [bins of the spectrogram, bins of the mel scale], as the specification computes them."""
    bins, length, rate, low, high = (value.item() for value in inputs)
    first, last = (2595 * math.log10(1 + frequency / 700) for frequency in (low, high))
    step = (last - first) / (bins + 2)
    edges = [
        int((length + 1) * (700 * (10 ** ((first + index * step) / 2595) - 1)) // rate)
        for index in range(int(bins) + 2)
    ]
    rows = [[0.0] * int(bins) for _ in range(int(length) // 2 + 1)]
    for column, (left, center, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        if left == center:
            rows[center][column] = 1.0
        for row in range(left, center + 1 if left < center else left):
            rows[row][column] = (row - left) / (center - left)
        for row in range(center, right):
            rows[row][column] = (right - row) / (right - center)
    return torch.tensor(rows, dtype=dtype_of(node.get("output_datatype", 1)))
