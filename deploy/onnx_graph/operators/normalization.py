"""Normalization with stored or measured statistics."""

from __future__ import annotations

import torch
from torch.nn import functional

from deploy.core.errors import ModelError
from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that statistics are computed in: float32 for the 16-bit types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@operator("BatchNormalization")
def batch_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalize by stored statistics.

    Raises:
        ModelError: the node is in training mode.
    """
    if node.get("training_mode", 0):
        raise ModelError(f"the node {node.name or node.outputs[0]!r} is a BatchNormalization in training mode.")
    epsilon = node.get("epsilon", 1e-5)
    if not node.get("spatial", 1):  # before version 9: statistics for each element
        return (x - mean) * torch.rsqrt(variance + epsilon) * scale + bias
    scale, bias = scale.to(mean.dtype), bias.to(mean.dtype)
    result = functional.batch_norm(x.to(mean.dtype), mean, variance, scale, bias, False, 0.0, epsilon)
    return result.to(x.dtype)


@operator("InstanceNormalization")
def instance_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize each channel of each sample."""
    # functional.instance_norm refuses channels of one element
    return torch.group_norm(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize groups of channels; before version 21 the scale and bias are those of groups, not of channels."""
    groups = node.get("num_groups")
    if node.version < 21:
        scale, bias = (value.repeat_interleave(x.shape[1] // groups) for value in (scale, bias))
    work = _wide(x.dtype)
    result = torch.group_norm(x.to(work), groups, scale.to(work), bias.to(work), node.get("epsilon", 1e-5))
    return result.to(x.dtype)


@operator("LayerNormalization")
def layer_norm(
    node: OnnxNode, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize the axes from ``axis`` on; also return the means and the inverse deviations."""
    shape = list(x.shape[node.get("axis", -1) % x.dim() :])
    work = _wide(x.dtype)
    scale, bias = (None if value is None else value.to(work).expand(shape) for value in (scale, bias))
    result, mean, deviation = torch.native_layer_norm(x.to(work), shape, scale, bias, node.get("epsilon", 1e-5))
    return result.to(x.dtype), mean, deviation


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(node: OnnxNode, x: Tensor, scale: Tensor) -> Tensor:
    """Divide the axes from ``axis`` on by the root of their mean square."""
    shape = list(x.shape[node.get("axis", -1) % x.dim() :])
    result = functional.rms_norm(x.to(_wide(x.dtype)), shape, None, node.get("epsilon", 1e-5))
    return result.to(x.dtype) * scale


@operator("LpNormalization")
def lp_norm(node: OnnxNode, x: Tensor) -> Tensor:
    """Divide by the p-norm of an axis; what has the norm 0 stays 0."""
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("MeanVarianceNormalization")
def mean_variance_norm(node: OnnxNode, x: Tensor) -> Tensor:
    """Give axes the mean 0 and the variance 1."""
    axes = node.get("axes", (0, 2, 3))
    deviation = x.std(axes, correction=0, keepdim=True)
    return (x - x.mean(axes, keepdim=True)) / (deviation + 1e-9)
