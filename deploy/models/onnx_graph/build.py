"""An ONNX file as a model, the reference of other files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from deploy.core.artifact import join_digests, sha256
from deploy.core.errors import InputSpecError, ModelError, UsageError
from deploy.core.model import Model, Weights
from deploy.core.tensors import TensorSpec, symbols
from deploy.models.onnx_graph.graph import OnnxModule
from deploy.models.python import with_inputs
from deploy.models.request import ModelRequest
from deploy.support import onnx_file
from deploy.support.onnx_child import OnnxChild

SAMPLES = 2
"""Size of the first dimension of an input, if it is open."""

TRIED = (64, 224, 16, 32, 8, 128, 256, 640, 1)
"""Sizes that are tried for other open dimensions."""


def build_graph(request: ModelRequest) -> Model:
    """Read an ONNX file; its open dimensions become those of the model.

    Raises:
        ArtifactError: the file is missing or damaged, or exceeds a limit.
        ModelError: an operator cannot be evaluated in PyTorch.
        InputSpecError: ``--input`` does not fit the file, or no size was found at which it runs.
    """
    path = Path(request.name)
    if request.options:
        raise UsageError(f"{path}: an ONNX file takes no options.")
    with OnnxChild() as child:
        child.examine(path)
    graph = onnx_file.load(path)
    specs, _ = onnx_file.input_output_specs(path)
    digest = join_digests(sha256(item) for item in (path, *onnx_file.external_files(graph, path)))
    try:
        module = OnnxModule(graph, path.parent)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc.message}", exc.hint) from exc
    model = Model(
        name=path.name,
        slug=path.stem,
        module=module.eval(),
        inputs=specs,
        sizes={},
        weights=Weights(source=path.name, trained=True, sha256=digest),
    )
    given = with_inputs(model, request)
    open_sizes = [name for name in symbols(given.inputs) if name not in given.sizes]
    return given.replace(sizes={**_sizes(given, open_sizes), **given.sizes})


def _sizes(model: Model, names: Sequence[str]) -> dict[str, int]:
    """Return sizes of open dimensions at which the graph runs."""
    leading = {spec.shape[0] for spec in model.inputs if spec.shape}
    others = [name for name in names if name not in leading]
    problem = ""
    for size in TRIED:
        sizes = {name: SAMPLES if name in leading else size for name in names}
        if problem and not others:
            break
        try:
            with torch.inference_mode():
                model.call({spec.name: _values(spec, {**sizes, **model.sizes}) for spec in model.inputs})
        except Exception as exc:  # whatever an operator raises for a size that does not fit
            problem = problem or str(exc).splitlines()[0]
        else:
            return sizes
    wanted = ", ".join(f"{name}=SIZE" for name in others) or "sizes"
    raise InputSpecError(
        f"{model.name}: does not run with {', '.join(map(str, TRIED))} for each of its open dimensions "
        f"({', '.join(names)}): {problem}",
        f"give their sizes: --input {model.inputs[0].name}:{','.join(map(str, model.inputs[0].shape))} with {wanted}",
    )


def _values(spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    shape = spec.concrete(sizes)
    dtype = getattr(torch, spec.dtype)
    values = torch.rand(math.prod(shape), generator=torch.Generator().manual_seed(0)).reshape(shape)
    return values.to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)
