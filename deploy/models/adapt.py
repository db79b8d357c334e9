"""Prepare a model for export by the adapters that fit its modules, and say what that changed."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import torch

from deploy.core import registry
from deploy.core.model import Model
from deploy.models.calling import ones, with_form
from deploy.support.state import unchanged

ADAPTERS = "deploy.models.adapters"
_RTOL, _ATOL = 1e-3, 1e-4
"""Differences, relative to a value and to the largest one, below which an output before is the same one after."""

Outputs = dict[str, Any] | None
"""Tensors by name; None if the model did not run."""


def adapt(model: Model) -> Model:
    """Return a model prepared by every adapter that applies to one of its modules, with notes.

    An adapter that fails, or after which the model does not run although it did before, changes nothing.
    """
    if any(value.is_meta for value in model.module.parameters()):
        return model
    for name in registry.names(ADAPTERS):
        adapter = registry.load(ADAPTERS, name, "adapter")
        if any(adapter.applies(part) for part in model.module.modules()):
            model = _adapted(model, adapter)
    return model


def _adapted(model: Model, adapter: ModuleType) -> Model:
    before = _outputs(model)
    parts: list[str] = []
    try:
        changed = model.replace(module=_copy(model.module))
        for path, part in changed.module.named_modules():
            if adapter.applies(part):
                adapter.apply(part)
                parts.append(path or type(part).__name__)
        changed.module.eval()
        after = _outputs(changed)
        if after is None and before is not None:  # its forward may have other parameters now
            changed = with_form(changed.replace(form=None))
            after = _outputs(changed)
            if after is None:
                raise RuntimeError("the model does not run after it")
    except Exception as exc:
        note = f"exported without the adapter {adapter.__name__.rpartition('.')[2]}, which failed: {exc}"
        return model.replace(notes=(*model.notes, note))
    difference = _difference(before, after)
    if difference is None:
        return changed
    more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return changed.replace(notes=(*model.notes, f"{parts[0]}{more}: {adapter.WHAT}{difference}"))


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy that shares the parameters."""
    return copy.deepcopy(module, {id(value): value for value in module.parameters()})


def _outputs(model: Model) -> Outputs:
    try:
        with unchanged(model.module), torch.inference_mode():
            return model.call(ones(model))
    except Exception:
        return None


def _difference(before: Outputs, after: Outputs) -> str | None:
    """Return what became of the outputs, in the words of a note; None if they are the same."""
    if before is None or after is None:
        return "; its outputs before that are not known"
    kept = {name for name, value in after.items() if any(_same(value, other) for other in before.values())}
    new = [name for name in after if name not in kept]
    left = len(before) - len(kept)
    if not new and not left:
        return None
    parts = [f"; {left} of its {len(before)} outputs are not returned any more"] if left > 0 else []
    if new:
        listed = ", ".join(new[:5])
        parts.append(f"; parity is judged against the model after that, which returns other values as {listed}")
    return "".join(parts)


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not left.is_floating_point():
        return torch.equal(left, right)
    scale = float(right.abs().max()) if right.numel() else 0.0
    return torch.allclose(left, right, rtol=_RTOL, atol=_ATOL * scale, equal_nan=True)
