"""An ONNX file as a model, the reference of other files."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from deploy.core.artifact import join_digests, sha256
from deploy.core.errors import InputSpecError, ModelError
from deploy.core.model import Model, Weights
from deploy.core.tensors import TensorSpec, symbols
from deploy.models.python import with_inputs
from deploy.models.request import ModelRequest
from deploy.onnx_graph.graph import OnnxModule
from deploy.onnx_graph.view import View, ViewedModule, cut
from deploy.support import onnx_file
from deploy.support.onnx_child import OnnxChild

SAMPLES = 2
"""Size of the first dimension of an input, if it is open."""

TRIED = (64, 224, 16, 32, 8, 128, 256, 512, 640, 1, 2048, 16000)
"""Sizes that are tried for other open dimensions: of pictures, sequences and sounds."""

MOST_VALUES = 1 << 24
"""Sizes at which an input would have more values are not tried."""

MOST_TIED = 2
"""Number of open dimensions, besides the first, that may have to be as large as it is."""


def build_graph(request: ModelRequest) -> Model:
    """Read an ONNX file; its open dimensions become those of the model, and the options are a `View` of it.

    Raises:
        ArtifactError: the file is missing or damaged, or exceeds a limit.
        ModelError: an operator cannot be evaluated in PyTorch.
        InputSpecError: ``--input`` does not fit the file, or no size was found at which it runs.
        UsageError: an option is unknown.
    """
    path = Path(request.name)
    view = View.from_options(request.options, path)
    with OnnxChild() as child:
        child.examine(path)
    graph = onnx_file.load(path)
    onnx_file.specs_of(graph, path)  # refuses sequences, maps and unknown types
    digest = join_digests(sha256(item) for item in (path, *onnx_file.external_files(graph, path)))
    try:
        shown = cut(graph, view)
        stored = {tensor.name for tensor in shown.graph.initializer}
        values = [value for value in shown.graph.input if value.name not in stored]
        specs = tuple(onnx_file.tensor_spec(value, path) for value in values)
        module = ViewedModule(shown, path.parent, view) if view != View() else OnnxModule(shown, path.parent)
        model = Model(
            name=path.name,
            slug=path.stem,
            module=module.eval(),
            inputs=specs,
            sizes={},
            weights=Weights(source=path.name, trained=True, sha256=digest),
        )
        given = with_inputs(model, request)
        given = given.replace(inputs=view.specs(given.inputs))
    except ModelError as exc:
        raise ModelError(f"{path}: {exc.message}", exc.hint) from exc
    open_sizes = [name for name in symbols(given.inputs) if name not in given.sizes]
    sizes, tied = _sizes(given, open_sizes)
    inputs = tuple(
        dataclasses.replace(spec, shape=tuple(tied.get(str(dim), dim) for dim in spec.shape)) for spec in given.inputs
    )
    return given.replace(inputs=inputs, sizes={**sizes, **given.sizes})


def _sizes(model: Model, names: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Find sizes of open dimensions at which the graph runs.

    Returns:
        The sizes; and for each dimension that has to be as large as the first one, the name of that.

    Raises:
        InputSpecError: none was found.
    """
    leading = next((str(spec.shape[0]) for spec in model.inputs if spec.shape and spec.shape[0] in names), "")
    first = {str(spec.shape[0]) for spec in model.inputs if spec.shape}
    others = [name for name in names if name not in first]
    problem = ""
    for size in TRIED if others else TRIED[:1]:
        for count in range(min(len(others), MOST_TIED) + 1 if leading else 1):
            for alike in itertools.combinations(others, count):
                sizes = {name: SAMPLES if name in first or name in alike else size for name in names}
                every = {**sizes, **model.sizes}
                if any(math.prod(spec.concrete(every)) > MOST_VALUES for spec in model.inputs):
                    continue
                error = _error_at(model, every)
                if error is None:
                    return sizes, dict.fromkeys(alike, leading)
                problem = problem or error
    spec = model.inputs[0]
    shape = ",".join(f"{dim}={SAMPLES if dim in first else 'SIZE'}" if dim in names else str(dim) for dim in spec.shape)
    raise InputSpecError(
        f"{model.name}: does not run with {', '.join(map(str, TRIED))} for each of its open dimensions "
        f"({', '.join(names) or 'none'}): {problem}",
        f"give their sizes for every input: --input {spec.name}:{shape}",
    )


def _error_at(model: Model, sizes: dict[str, int]) -> str | None:
    """Return why the graph does not run at some sizes; None if it does."""
    try:
        with torch.inference_mode():
            model.call({spec.name: example_value(spec, spec.concrete(sizes)) for spec in model.inputs})
    except Exception as exc:  # whatever an operator raises for a size that does not fit
        return (str(exc).splitlines() or [type(exc).__name__])[0]
    return None


def example_value(spec: TensorSpec, shape: tuple[int, ...]) -> torch.Tensor:
    """Return seeded values for an input: floats from 0 to 1, integers 1."""
    dtype = getattr(torch, spec.dtype)
    values = torch.rand(math.prod(shape), generator=torch.Generator().manual_seed(0)).reshape(shape)
    return values.to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)
