"""PyTorch's fast path of attention layers, which may answer otherwise than the layers do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds
from deploy.support.attention import plain_attention

_LAYERS = (torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer, torch.nn.MultiheadAttention)

_ROUNDING = 1e-3
"""Relative difference of two float32 runs that is more than rounding."""


def fast_path_fault(model: Model, feeds: Sequence[Feeds]) -> str | None:
    """Return a fault if the model answers otherwise with the fast path, which exported graphs do not have.

    ``nn.TransformerEncoder`` with a padding mask answers zeros at padded positions on the fast path only.
    """
    layers = [name for name, module in model.module.named_modules() if isinstance(module, _LAYERS)]
    if not layers or model.precision != "fp32" or not torch.backends.mha.get_fastpath_enabled():
        return None
    runner = PyTorchRunner(model)
    for item in feeds:
        fast = runner.run(item)
        with plain_attention():
            plain = runner.run(item)
        for name, value in plain.items():
            if value.dtype.kind == "f" and value.shape == fast[name].shape:
                gap = np.linalg.norm((fast[name] - value).ravel().astype(np.float64))
                if gap > _ROUNDING * np.linalg.norm(value.ravel().astype(np.float64)):
                    return (
                        f"{name}: PyTorch's fast path of {layers[0]!r} answers otherwise at padded positions, and the "
                        "file answers as the layers do without it; build nn.TransformerEncoder with "
                        "enable_nested_tensor=False"
                    )
    return None
