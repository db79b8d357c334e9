"""The name of the module that is running."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from typing_extensions import Self


class RunningModules:
    """Follows which part of a module runs; a context manager.

    Like `torch.utils.module_tracker.ModuleTracker`, without its look at the gradients of all arguments, which takes
    longer than a small operator. A part that is no part of the module has the name of what calls it.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._names = {id(part): name for name, part in module.named_modules()}
        self._running = [""]

    @property
    def innermost(self) -> str:
        """Name of the part that runs, as in ``named_modules``; empty for the module itself."""
        return self._running[-1]

    def __enter__(self) -> Self:
        self._hooks = (
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, always_call=True),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: torch.nn.Module, args: Any) -> None:
        self._running.append(self._names.get(id(module), self._running[-1]))

    def _end(self, module: torch.nn.Module, args: Any, result: Any) -> None:
        if len(self._running) > 1:
            self._running.pop()
