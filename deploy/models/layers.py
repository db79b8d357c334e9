"""The layers of one model, built without memory for its weights (``deploy models MODEL --layers``).

The layer table is our own: ``torchinfo`` counts biases and normalization as multiply-adds, counts a linear layer once
per sample instead of once per token (0.17 G instead of 11.3 G for ViT-B/16), and counts tied parameters twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from deploy.core.errors import UsageError
from deploy.core.model import Model
from deploy.models.given import as_request
from deploy.models.in_memory import ExampleInputs, ModelLike, build
from deploy.models.known import ModelLine
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.models.resolve import architecture

OTHER = "(other)"
"""Name of the row with the parameters of modules that have children (attention) or do not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """One leaf module of a model, or a second run of it.

    Attributes:
        shape: of the output, without the batch.
        multiply_adds: for one sample; None if the cost of the layer is not known.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int | None


def measured(line: ModelLine) -> ModelLine:
    """Return a line with the parameters and the input of the model."""
    model = _without_weights(ModelRequest(name=line.name))
    sizes = {symbol: size for symbol, size in model.sizes.items() if symbol != "batch"}
    shapes = (spec.bind(sizes).shape for spec in model.inputs)
    text = "; ".join("×".join(str(dim) for dim in shape if dim != "batch") for shape in shapes)
    return replace(line, parameters=count_parameters(model.module.parameters()), input=text)


def _without_weights(request: ModelRequest) -> Model:
    """Build a model without memory for its weights."""
    if isinstance(request, ModuleRequest):
        model = build(request)
        return model.replace(module=model.module.to("meta"))
    request = replace(request, weights="none")
    try:
        with torch.device("meta"):
            return architecture(request)[0]
    except (RuntimeError, NotImplementedError):
        with _EmptyOnMeta():
            return architecture(request)[0]


class _EmptyOnMeta(TorchFunctionMode):
    """Put only empty, zero and one tensors, as weights begin, on the meta device.

    Other tensors keep their values: RegNet computes its widths with them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, on the meta device if it creates such a tensor."""
        device = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **device})


def count_parameters(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Return the number of values, counting each shared parameter once."""
    return sum(item.numel() for item in {id(item): item for item in parameters}.values())


def layers(
    name: ModelLike, options: dict[str, str] | None = None, *, inputs: ExampleInputs | None = None
) -> list[LayerSummary]:
    """List the leaf modules of a model in the order they run, with their cost.

    A module that runs twice is listed twice, its parameters only the first time. Parameters of other modules are in
    the last row (`OTHER`), if there are any.

    Args:
        name: of the model; or a request, or a module in memory.
        options: of the architecture, as texts.
        inputs: of a module in memory, see `deploy.ExampleInputs`; of a name: texts.

    Raises:
        UnknownNameError: no model has this name.
        UsageError: the model does not run without values for its weights.
    """
    rows: list[LayerSummary] = []
    counted: set[int] = set()

    def record(module: torch.nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            return
        new = [item for item in module.parameters() if id(item) not in counted]
        counted.update(map(id, new))
        rows.append(
            LayerSummary(
                name=names[module] or "(model)",
                kind=type(module).__name__,
                shape=tuple(output.shape[1:]),
                parameters=count_parameters(new),
                multiply_adds=_multiply_adds(module, output),
            )
        )

    request = as_request(name, inputs)
    if options:
        request = replace(request, options={**request.options, **options})
    try:
        model = _without_weights(request)
        names = {module: path for path, module in model.module.named_modules() if not list(module.children())}
        for module in names:
            module.register_forward_hook(record)
        with torch.device("meta"), torch.inference_mode():
            sizes = {**model.sizes, "batch": 1}
            model.call({spec.name: torch.zeros(spec.concrete(sizes)) for spec in model.inputs})
    except (NotImplementedError, RuntimeError) as exc:
        raise UsageError(f"{request.name}: the layers cannot be listed without weights: {exc}") from exc
    rest = count_parameters(item for item in model.module.parameters() if id(item) not in counted)
    if rest:
        rows.append(LayerSummary(name=OTHER, kind="", shape=(), parameters=rest, multiply_adds=None))
    return rows


def _multiply_adds(module: torch.nn.Module, output: torch.Tensor) -> int | None:
    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return output.numel() * (module.weight.numel() // module.weight.shape[0])
    if isinstance(module, torch.nn.Linear):
        return output.numel() * module.in_features
    return None if list(module.parameters()) else 0
