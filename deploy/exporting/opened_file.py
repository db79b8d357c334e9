"""A file that a backend opened to be compared with a model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.backends.torch.rounded import ROUNDED
from deploy.core.artifact import sha256
from deploy.core.backend import LOW_MEMORY_BYTES, RunSettings
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import HALVES, Model
from deploy.core.tensors import TensorSpec
from deploy.support import onnx_file

if TYPE_CHECKING:
    import onnx

RUNTIME = "onnxruntime"
"""The runtime that may leave out conversions to half precision, so that files are run node by node in its place."""


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """A file, and the process that opened it.

    Attributes:
        candidate: the process of the backend.
        size: bytes of the file and its external data.
        options: that the backend opened it with.
        runner: module that runs it in place of the backend's; empty for the backend's own.
        rename: the file's name of each input of the model.
        inputs: what to draw probes from: the model's names, the file's dimensions.
        faults: reasons why the inputs of the file do not fit the model.
    """

    path: Path
    candidate: IsolatedRunner
    size: int
    settings: RunSettings
    options: Mapping[str, Any]
    runner: str
    rename: Mapping[str, str]
    inputs: Sequence[TensorSpec]
    faults: Sequence[str]

    @classmethod
    def open(
        cls, path: Path, candidate: IsolatedRunner, model: Model, precision: str, device: str = "cpu"
    ) -> OpenedFile:
        """Open a file in a started process.

        Half precision on a CPU is run by nodes, each rounded, since ONNX Runtime computes it in float32 there. On a GPU
        the backend's own kernels are judged.

        Raises:
            BackendError: the backend cannot open it.
        """
        files = [item for item in (path, path.with_name(f"{path.name}.data")) if item.is_file()]
        size = sum(item.stat().st_size for item in files)
        settings = RunSettings(device=device, low_memory=size >= LOW_MEMORY_BYTES, shared_cores=True)
        options = candidate.backend.options(settings)
        on_cpu = device == "cpu" and candidate.backend.name == RUNTIME
        by_nodes = on_cpu and precision in HALVES and path.suffix == ".onnx"
        runner = ROUNDED if by_nodes else ""
        candidate.open(path, runner=runner, **options)
        rename, inputs, faults = match_inputs(model, candidate.inputs)
        return cls(
            path=path,
            candidate=candidate,
            size=size,
            settings=settings,
            options=options,
            runner=runner,
            rename=rename,
            inputs=inputs,
            faults=faults,
        )

    def open_in_runtime(self) -> None:
        """Open it again, in the backend's own runner."""
        self.candidate.open(self.path, **self.options)

    @functools.cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph of an ONNX file, without external data."""
        return onnx_file.load(self.path)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


def match_inputs(model: Model, given: Sequence[TensorSpec]) -> tuple[dict[str, str], list[TensorSpec], list[str]]:
    """Match the inputs of a file with those of its model, by name if all names agree, else by position.

    Returns:
        The file's input name for each of the model's; the specs to draw probes from, with the model's names and the
        file's dimensions; and the reasons why the inputs do not match.
    """
    by_name = {spec.name: spec for spec in given}
    named = all(spec.name in by_name for spec in model.inputs)
    if len(given) != len(model.inputs):
        return {}, [], [f"the file has {len(given)} inputs, the model {len(model.inputs)}"]
    pairs = [(own, by_name[own.name] if named else theirs) for own, theirs in zip(model.inputs, given, strict=True)]
    faults, specs, rename = [], [], {}
    symbols: dict[str, str] = {}
    for own, theirs in pairs:
        mismatch = f"input {theirs} of the file does not match {own} of the model"
        if len(own.shape) != len(theirs.shape) or own.dtype != theirs.dtype:
            faults.append(mismatch)
            continue
        for expected, dim in zip(own.shape, theirs.shape, strict=True):
            if isinstance(dim, str):
                symbols[dim] = expected if isinstance(expected, str) else dim
            elif isinstance(expected, int) and expected != dim:
                faults.append(mismatch)
        shape = tuple(symbols[dim] if isinstance(dim, str) else dim for dim in theirs.shape)
        spec = dataclasses.replace(own, shape=shape)
        for expected, dim in zip(own.shape, shape, strict=True):
            if isinstance(expected, int) and isinstance(dim, str):  # dynamic in the file only: probe the model's size
                spec = spec.bind({dim: expected})
        specs.append(spec)
        rename[own.name] = theirs.name
    return rename, specs, faults
