"""The model exported by ``torch.export`` and compiled by AOTInductor, for fixed shapes.

What runs is the compiled library: no code of the model and no Python of PyTorch's compiler is called.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from deploy.backends.torch.runner import ModuleRunner
from deploy.backends.torch_compile.runner import CompileOptions
from deploy.core.errors import BackendError, UsageError
from deploy.core.model import Model
from deploy.core.options import read_options
from deploy.core.runner import Feeds
from deploy.support.runtime_errors import first_line


class AheadRunner(ModuleRunner):
    """Compiles the module when inputs of new shapes are bound."""

    def __init__(self, model: Model, options: CompileOptions) -> None:
        if options.graph:
            raise UsageError("AOTInductor's library is not replayed as a CUDA graph.")
        super().__init__(model, options)
        self._eager, self._freezing = self._module, options.freezing
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs to the device, and compile the module for their shapes unless that was done.

        Raises:
            BackendError: ``torch.export`` or the compiler refuses the module, or there is no C++ compiler.
        """
        super().bind(feeds)
        shapes = tuple((name, tuple(item.shape), item.dtype) for name, item in self._tensors.items())
        if shapes not in self._compiled:
            self._compiled[shapes] = self._compile()
        self._module = self._compiled[shapes]

    def _compile(self) -> Any:
        positional, keyword = self._arguments
        configs = {"freezing": True} if self._freezing else {}
        try:
            with torch.no_grad(), tempfile.TemporaryDirectory(prefix="deploy-aot-") as scratch:
                program = torch.export.export(self._eager, tuple(positional), dict(keyword))
                path = str(Path(scratch) / "model.pt2")
                torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=configs)
                return torch._inductor.aoti_load_package(path)
        except Exception as exc:
            raise BackendError(
                f"{self.model.name}: AOTInductor cannot compile it: {first_line(exc)}",
                "it needs a C++ compiler, such as g++, and a model that torch.export takes",
            ) from exc


def from_model(model: Model, **options: Any) -> AheadRunner:
    """Open a model that is compiled for the shapes of its first inputs; the options are those of `CompileOptions`."""
    return AheadRunner(model, read_options(CompileOptions, options, "AOTInductor"))
