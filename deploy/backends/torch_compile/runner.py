"""The model compiled by ``torch.compile`` for fixed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from deploy.backends.torch.runner import ModuleRunner, TorchOptions
from deploy.core.model import Model
from deploy.core.options import read_options


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileOptions(TorchOptions):
    """Options of a compiled module.

    Attributes:
        freezing: compile the weights in as constants, which lets them be laid out for the kernels.
    """

    freezing: bool = False


def from_model(model: Model, **options: Any) -> ModuleRunner:
    """Open a model with ``torch.compile``; the first run of each shape compiles it.

    The model is converted in place; the options are the fields of `CompileOptions`.
    """
    settings = read_options(CompileOptions, options, "torch.compile")
    compiler: dict[str, Any] = {"freezing": True} if settings.freezing else {}
    return ModuleRunner(model, settings, lambda module: torch.compile(module, dynamic=False, options=compiler or None))
