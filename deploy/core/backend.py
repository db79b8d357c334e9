"""Declarations of backends, and the list of all backends.

Each plug-in of ``deploy.backends`` is a folder. Its ``__init__.py`` imports no runtime and defines ``BACKEND``, a
`Backend`. Its ``runner.py`` imports the runtime and opens models. Third-party backends register through an entry point
in the group ``deploy.backends`` that loads a module with ``BACKEND``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from deploy.core import registry
from deploy.core.environment import version
from deploy.core.errors import BackendError, MissingPackageError, UnknownNameError
from deploy.core.tensors import TensorSpec

PACKAGE = "deploy.backends"
ONNX, ENGINE = "onnx", "engine"
"""File formats that backends open."""

LOW_MEMORY_BYTES = 2**30
"""Files of at least this size are opened with one copy of their weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How to run a model, in the same terms for every backend.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: threads within an operator; 0 leaves the choice to the runtime.
        precision: precision of the arithmetic, for a backend that runs the model itself.
        cuda_graph: replay a captured CUDA graph.
        low_memory: keep one copy of the weights, at the cost of latency.
        shared_cores: other work runs on the same cores, so idle threads must not spin.
        fusion: False runs every operator as it is written in the file.
    """

    device: str = "cpu"
    threads: int = 0
    precision: str = "fp32"
    cuda_graph: bool = False
    low_memory: bool = False
    shared_cores: bool = False
    fusion: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Another way for a backend to run the same file or model, which may be faster.

    Attributes:
        name: a few words, ``fixed sizes``.
        options: options of the runner, in place of those of `RunSettings`.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """A backend's declaration.

    Attributes:
        name: name on the command line, ``torch-compile``.
        title: display name, ``ONNX Runtime``.
        runner: module with ``open(path, **options)`` or, for a backend that runs the PyTorch model,
            ``from_model(model, **options)``; with ``profile`` or ``profile_model`` where `profiler` is set.
        packages: distributions whose version decides latencies; the first one installed counts.
        modules: import names; one of them must be importable.
        install: argument of ``pip install``.
        formats: formats of the files it opens; empty for a backend that runs the PyTorch model.
        targets: quantization targets whose files it runs as intended, its own first.
        default_for: formats it runs where no backend is named.
        cuda_graphs: it can replay CUDA graphs.
        profiler: it can time single operators.
        default: ``deploy bench`` includes it when no backend is named and it is installed.
        reference: its float32 run on the CPU is what every other configuration is checked against.
        color: of its bars in plots, ``#RRGGBB``; None takes a neutral one.
        options: translates `RunSettings` to the options of ``runner``.
        variants: from the inputs and the size of every symbolic dimension to the variants that ``deploy optimize``
            tries.
    """

    name: str
    title: str
    runner: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    install: str
    formats: tuple[str, ...] = (ONNX,)
    targets: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    devices: tuple[str, ...] = ("cpu",)
    cuda_graphs: bool = False
    profiler: bool = False
    default: bool = False
    reference: bool = False
    color: str | None = None
    options: Callable[[RunSettings], dict[str, Any]] = lambda settings: {}
    variants: Callable[[Sequence[TensorSpec], Mapping[str, int]], tuple[Variant, ...]] = lambda inputs, sizes: ()

    @property
    def runs_files(self) -> bool:
        """Whether it opens files; otherwise it runs the PyTorch model."""
        return bool(self.formats)

    @property
    def installed(self) -> bool:
        """Whether its runtime can be imported."""
        return any(importlib.util.find_spec(module) is not None for module in self.modules)

    def opens(self, format: str, target: str | None) -> bool:
        """Return whether it runs files of a format that were quantized for a target; None is no quantization."""
        return format in self.formats and (target is None or target in self.targets)

    def versions(self) -> dict[str, str]:
        """Return the installed version that decides latencies, by distribution name; empty if not installed."""
        installed = [(package, text) for package in self.packages if (text := version(package))]
        return dict(installed[:1])

    def require(self) -> Backend:
        """Return itself.

        Raises:
            MissingPackageError: its runtime is not installed.
        """
        if not self.installed:
            raise self._missing
        return self

    @property
    def fix(self) -> str:
        """The command that installs its runtime."""
        return self._missing.hint or ""

    @property
    def _missing(self) -> MissingPackageError:
        return MissingPackageError(self.modules[0], f"the backend {self.name}", self.install)


@cache
def backends() -> Mapping[str, Backend]:
    """Return all declared backends by name, the reference first, then alphabetically."""
    declared = [_declared(plugin) for plugin in registry.names(PACKAGE)]
    return {item.name: item for item in sorted(declared, key=lambda item: (not item.reference, item.name))}


def _declared(plugin: str) -> Backend:
    return registry.declaration(PACKAGE, plugin, Backend, "backend")


def find_backend(name: str) -> Backend:
    """Return a backend by its name.

    Raises:
        UnknownNameError: no backend has this name.
    """
    plugin = name.replace("-", "_")
    if plugin in registry.names(PACKAGE):
        backend = _declared(plugin)
        if backend.name == name:
            return backend
    known = backends()
    if name not in known:
        raise UnknownNameError("backend", name, known, f"known: {', '.join(known)}")
    return known[name]


def default_backend(format: str) -> Backend:
    """Return the backend that runs a format by default."""
    for plugin in registry.names(PACKAGE):
        backend = _declared(plugin)
        if format in backend.default_for:
            return backend
    raise BackendError(f"no backend runs files of the format {format!r}.", "deploy doctor")


def title_of(name: str) -> str:
    """Return the display name of a backend; the name itself for one that is not installed any more."""
    try:
        return find_backend(name).title
    except UnknownNameError:
        return name
