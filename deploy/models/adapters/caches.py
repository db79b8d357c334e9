"""Models of transformers that return caches of keys and values for the next call of a decoder."""

from __future__ import annotations

from typing import Any

import torch

WHAT = "config.use_cache = False"


def applies(module: torch.nn.Module) -> bool:
    """Return whether the configuration of a module asks for caches."""
    return getattr(getattr(module, "config", None), "use_cache", None) is True


def apply(module: torch.nn.Module) -> None:
    """Ask for no caches."""
    config: Any = module.config
    config.use_cache = False
