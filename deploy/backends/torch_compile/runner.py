"""The model compiled by ``torch.compile`` for fixed shapes."""

from __future__ import annotations

from typing import Any

import torch

from deploy.backends.torch.runner import ModuleRunner, TorchOptions
from deploy.core.model import Model
from deploy.core.options import read_options


def from_model(model: Model, **options: Any) -> ModuleRunner:
    """Open a model with ``torch.compile``; the first run of each shape compiles it.

    The model is converted in place; the options are those of `deploy.backends.torch.runner.TorchOptions`.
    """
    settings = read_options(TorchOptions, options, "torch.compile")
    return ModuleRunner(model, settings, lambda module: torch.compile(module, dynamic=False))
