"""Modules with a method ``export()`` that prepares them, as RF-DETR and LW-DETR have it.

The method takes no arguments and returns nothing. Methods with parameters write files, and are left alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from deploy.core.errors import ModelError

WHAT = "prepared by its own export()"
_DONE = "_export"
"""Attribute that is true once the method was called; modules without it get it."""


def applies(module: torch.nn.Module) -> bool:
    """Return whether a module has such a method, which was not called yet."""
    method = getattr(module, "export", None)
    if not inspect.ismethod(method) or isinstance(module, torch.fx.GraphModule) or getattr(module, _DONE, False):
        return False
    return not inspect.signature(method).parameters


def apply(module: torch.nn.Module) -> None:
    """Call the method.

    Raises:
        ModelError: it returned something, so it is not a method of this kind.
    """
    method: Any = module.export
    if method() is not None:
        raise ModelError("it returned a value")
    setattr(module, _DONE, True)
