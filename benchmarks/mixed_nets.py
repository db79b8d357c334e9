"""Networks of `benchmarks.mixed_precision`: seeded, settled, and with planted outlier channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

PEAK = 1.5e5
"""What the values of a planted channel reach."""


def network(name: str) -> nn.Module:
    """Return a network with random weights that are neither degenerate nor unsettled."""
    torch.manual_seed(0)
    if name.startswith("timm/"):
        import timm

        sizes = {"img_size": 224} if "dinov2" in name else {}
        module: nn.Module = timm.create_model(name.removeprefix("timm/"), pretrained=False, **sizes)
    elif name.startswith("deeplab"):
        module = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    else:
        module = torchvision.models.get_model(name, weights=None)
    for part in module.modules():  # heads and scales that start at zero would hide everything
        if isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.02)
    for key, value in module.named_parameters():
        if key.endswith(("gamma", "layer_scale")):
            nn.init.constant_(value, 0.3)
    sample = torch.cat([torch.rand(4, 3, 224, 224), torch.randn(4, 3, 224, 224), torch.zeros(1, 3, 224, 224)])
    if name != "raft_small" and any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.train()
                part.momentum = None
        with torch.no_grad():
            module(sample)
    return module.eval()


def planted(name: str) -> nn.Module:
    """Return the network with three channels that reach `PEAK`; the function stays the same."""
    module = network(name)
    sample = torch.rand(2, 3, 224, 224)
    for site, row, writers, readers in list(PLANTS[name](module))[:3]:
        with torch.no_grad():
            scale = PEAK / (_peak(module, site, row, sample) if site is not None else 1.0)
            for value in writers:
                value *= scale
            for value in readers:
                value /= scale
    return module


def _peak(module: nn.Module, site: nn.Module, row: int, sample: torch.Tensor) -> float:
    """Return the largest magnitude of a channel of a module's result."""
    peaks: list[float] = []

    def record(part: nn.Module, args: Any, result: torch.Tensor) -> None:
        peaks.append(float(_channel(result, row).abs().max()))

    with site.register_forward_hook(record):
        module(sample)
    return max(peaks)


def _channel(value: torch.Tensor, row: int) -> torch.Tensor:
    return value[:, row] if value.dim() == 4 and value.shape[1] != value.shape[2] else value[..., row]


Plant = tuple[nn.Module | None, int, list[torch.Tensor], list[torch.Tensor]]


def _resnet(module: Any) -> list[Plant]:
    """Between a batch normalization with ReLU and the next convolution."""
    blocks = [module.layer1[0], module.layer2[1], module.layer3[1]]
    return [(block.bn1, 3, [block.bn1.weight[3], block.bn1.bias[3]], [block.conv2.weight[:, 3]]) for block in blocks]


def _densenet(module: Any) -> list[Plant]:
    layers = [module.features.denseblock1.denselayer2, module.features.denseblock2.denselayer3]
    return [(part.norm2, 3, [part.norm2.weight[3], part.norm2.bias[3]], [part.conv2.weight[:, 3]]) for part in layers]


def _vit(module: Any) -> list[Plant]:
    """Between the values of an attention, about 1 here, and its output projection, which are linear."""
    found: list[Plant] = []
    for layer in list(module.encoder.layers)[2:10:3]:
        part = layer.self_attention
        row = 2 * part.embed_dim + 5
        found.append((None, 5, [part.in_proj_weight[row], part.in_proj_bias[row]], [part.out_proj.weight[:, 5]]))
    return found


def _swin(module: Any) -> list[Plant]:
    found: list[Plant] = []
    for block in (module.features[1][0], module.features[3][1], module.features[5][2]):
        part = block.attn
        row = 2 * part.proj.in_features + 5
        found.append((None, 5, [part.qkv.weight[row], part.qkv.bias[row]], [part.proj.weight[:, 5]]))
    return found


def _convnext(module: Any) -> list[Plant]:
    """Between the last linear layer of a block and the scale of its channels."""
    blocks = [module.features[1][1], module.features[3][1], module.features[5][4]]
    return [
        (block.block[5], 5, [block.block[5].weight[5], block.block[5].bias[5]], [block.layer_scale[5]])
        for block in blocks
    ]


PLANTS: dict[str, Callable[[Any], list[Plant]]] = {
    "resnet18": _resnet,
    "resnet50": _resnet,
    "densenet121": _densenet,
    "vit_b_16": _vit,
    "swin_t": _swin,
    "convnext_tiny": _convnext,
}
