"""A mode that sees every operator of PyTorch, without the import of torch._dynamo that PyTorch's own mode brings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Result = TypeVar("Result")


def beside_compiler(run: Callable[[], Result]) -> Result:
    """Run a model within modes; once more if it failed and was the first to import the compiler.

    ``torch.cond`` and its like import it, and it then meets modes that it was not kept out of.
    """
    known = "torch._dynamo" in sys.modules
    try:
        return run()
    except Exception:
        if known or "torch._dynamo" not in sys.modules:
            raise
    return run()


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A ``TorchDispatchMode`` whose first operator does not take seconds.

    PyTorch keeps its compiler out of a mode, and imports the compiler for that. Here this is done where something has
    imported it: without it nothing is compiled.
    """

    _disabled: ClassVar[bool] = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Any:
        kind = type(self)
        if not kind._disabled and hasattr(sys.modules.get("torch._dynamo"), "disable"):
            outside: Any = torch.compiler.disable(kind.__torch_dispatch__)  # type: ignore[no-untyped-call]
            kind.__torch_dispatch__ = outside  # type: ignore[method-assign]
            kind._disabled = True
        return super().__enter__()  # type: ignore[no-untyped-call]
