"""``deploy models``: what can be exported."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from deploy.core import registry
from deploy.core.errors import DeployError, UnknownNameError, UsageError
from deploy.core.model import Model
from deploy.models.request import ModelRequest
from deploy.models.resolve import PRECEDENCE, SOURCES, architecture, known_names

ELSEWHERE = "(elsewhere)"
"""Where the table has parameters of modules with children, as attention has, and of modules that never run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLine:
    """One model that can be exported; ``parameters`` and ``input`` are None where it was not built.

    Attributes:
        summary: what it is, in one line; empty where its source does not say.
    """

    name: str
    source: str
    parameters: int | None
    input: str | None
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """One leaf module of a model, in the order they run.

    Attributes:
        shape: of its output, the batch left out.
        multiply_adds: of one sample; None where the layer's cost is not known.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int | None


def list_models(pattern: str = "*", *, sizes: bool = True) -> list[ModelLine]:
    """Models whose bare or full name matches a shell pattern.

    Args:
        pattern: ``resnet*``, ``zoo/*``, or a name.
        sizes: count parameters, by building each model without memory for its weights.

    Raises:
        UnknownNameError: none matches.
    """
    sources = [*PRECEDENCE, *(name for name in registry.names(SOURCES) if name not in PRECEDENCE)]
    found = [
        (source, bare)
        for source in sources
        for bare in known_names(source)
        if fnmatch.fnmatch(bare, pattern) or fnmatch.fnmatch(f"{source}/{bare}", pattern)
    ]
    if not found:
        raise UnknownNameError("model", pattern, [bare for source in sources for bare in known_names(source)])
    return [_line(source, bare, sizes) for source, bare in found]


def _line(source: str, bare: str, sizes: bool) -> ModelLine:
    summary = registry.load(SOURCES, source).summary(bare)
    line = ModelLine(name=f"{source}/{bare}", source=source, parameters=None, input=None, summary=summary)
    if not sizes:
        return line
    try:
        model = _weightless(ModelRequest(name=line.name))
    except (DeployError, RuntimeError, NotImplementedError):  # a constructor that computes with its weights
        return line
    shapes = "; ".join("×".join(map(str, _fixed(model, spec.shape))) for spec in model.inputs)
    return replace(line, parameters=count_parameters(model.module.parameters()), input=shapes)


def _weightless(request: ModelRequest) -> Model:
    """The model without memory for its weights."""
    try:
        with torch.device("meta"):
            return architecture(request)[0]
    except (RuntimeError, NotImplementedError):
        with _BlanksOnMeta():
            return architecture(request)[0]


class _BlanksOnMeta(TorchFunctionMode):
    """Blank tensors, as weights begin, have no memory; others have, for RegNet computes its widths with them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, on the meta device if it makes a blank tensor."""
        blank = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **blank})


def _fixed(model: Model, shape: tuple[int | str, ...]) -> list[int]:
    return [int(model.sizes[dim]) if isinstance(dim, str) else dim for dim in shape if dim != "batch"]


def count_parameters(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Number of values, each shared parameter once."""
    return sum(item.numel() for item in {id(item): item for item in parameters}.values())


def layers(name: str, options: dict[str, str] | None = None) -> list[LayerSummary]:
    """The layer table of one model; what its layers do not hold of its parameters is the last row, if anything.

    A layer that runs twice is listed twice, and its parameters only the first time.

    Raises:
        UnknownNameError: no such model.
        UsageError: its layers cannot be listed without its weights.
    """
    rows: list[LayerSummary] = []
    counted: set[int] = set()
    try:
        model = _weightless(ModelRequest(name=name, options=options or {}))
        with torch.device("meta"):

            def record(module: torch.nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor):
                    fresh = [item for item in module.parameters() if id(item) not in counted]
                    counted.update(map(id, fresh))
                    rows.append(_layer(names[module], module, output, count_parameters(fresh)))

            names = {module: path for path, module in model.module.named_modules() if not list(module.children())}
            for module in names:
                module.register_forward_hook(record)
            tensors = {spec.name: torch.zeros(spec.concrete({**model.sizes, "batch": 1})) for spec in model.inputs}
            with torch.inference_mode():
                model.call(tensors)
        rest = count_parameters(item for item in model.module.parameters() if id(item) not in counted)
        if rest:
            rows.append(LayerSummary(name=ELSEWHERE, kind="", shape=(), parameters=rest, multiply_adds=None))
    except (NotImplementedError, RuntimeError) as exc:
        raise UsageError(f"{name}: its layers cannot be listed without its weights: {exc}") from exc
    return rows


def _layer(name: str, module: torch.nn.Module, output: torch.Tensor, parameters: int) -> LayerSummary:
    return LayerSummary(
        name=name or "(the network)",
        kind=type(module).__name__,
        shape=tuple(output.shape[1:]),
        parameters=parameters,
        multiply_adds=_multiply_adds(module, output),
    )


def _multiply_adds(module: torch.nn.Module, output: torch.Tensor) -> int | None:
    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return output.numel() * (module.weight.numel() // module.weight.shape[0])
    if isinstance(module, torch.nn.Linear):
        return output.numel() * module.in_features
    return 0 if not list(module.parameters()) else None


def to_dict(lines: Iterable[ModelLine | LayerSummary]) -> list[dict[str, Any]]:
    """Plain values for JSON."""
    return [asdict(line) for line in lines]
