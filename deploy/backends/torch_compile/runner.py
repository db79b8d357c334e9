"""The model compiled by ``torch.compile`` for fixed shapes."""

from __future__ import annotations

from typing import Any

import torch

from deploy.backends.torch.runner import ModuleRunner, TorchOptions
from deploy.core.model import Model
from deploy.core.options import read_options


def from_model(model: Model, **options: Any) -> ModuleRunner:
    """Open a model with ``torch.compile``; the first run of each shape compiles it.

    Args:
        model: the model; its module is converted in place.
        options: fields of `TorchOptions`.

    Raises:
        BackendError: no CUDA device is available.
        UsageError: an unknown option, or a value of the wrong type.
    """
    settings = read_options(TorchOptions, options, "torch.compile")
    return ModuleRunner(model, settings, lambda module: torch.compile(module, dynamic=False))
