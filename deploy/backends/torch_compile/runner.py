"""The model compiled by ``torch.compile``, at the sizes it is run at."""

from __future__ import annotations

from typing import Any

import torch

from deploy.backends.torch.runner import ModuleRunner, TorchOptions
from deploy.core.model import Model


def from_model(model: Model, **options: Any) -> ModuleRunner:
    """Compile a model; the compilation itself happens in the first run."""
    return ModuleRunner(model, TorchOptions(**options), lambda module: torch.compile(module, dynamic=False))
