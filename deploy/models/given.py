"""A model as a caller of the Python API gives it: its name, a request, or a module in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.artifact import Artifact
from deploy.core.errors import InputSpecError, UsageError
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.support.deployment import chosen_file, is_deployment, load

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike, WeightsLike

Named = str | Path | Artifact
"""A model by its name as on the command line, or by the path of a file, or by an artifact."""


def as_request(
    model: ModelLike,
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
    weights: WeightsLike | None = None,
) -> ModelRequest:
    """Return the request of a model that is given by its name or path, as an artifact, a request or a module.

    Args:
        model: the model.
        inputs: of a module: see `deploy.models.in_memory.module_request`; of a name: texts of ``--input``.
        name: of the model's folder and files.
        outputs: names of the outputs that count; None for those of the request, else all.
        weights: a checkpoint file, or of a module also a state dict.

    Raises:
        UsageError: not a model, or ``inputs`` or ``weights`` would have no effect.
        InputSpecError: see `deploy.models.in_memory.module_request`.
    """
    request = _as_request(model, inputs, name, weights)
    return request if outputs is None else dataclasses.replace(request, outputs=tuple(outputs))


def _as_request(
    model: ModelLike, inputs: ExampleInputs | None, name: str | None, weights: WeightsLike | None
) -> ModelRequest:
    if not isinstance(model, Named | ModelRequest):
        from deploy.models.in_memory import module_request  # imports PyTorch

        return module_request(model, inputs, name=name, weights=weights)
    if weights is not None and not (isinstance(model, Named) and isinstance(weights, str | Path)):
        raise UsageError(
            f"weights= has no effect on {model.name if isinstance(model, ModelRequest) else model}.",
            "a name takes a checkpoint file; a ModelRequest has weights of its own",
        )
    if isinstance(model, Named):
        text = text_of(model)
        chosen = "auto" if weights is None else str(weights)
        return ModelRequest(name=text, weights=chosen, inputs=_texts(text, inputs), slug=name)
    if inputs is not None:
        raise UsageError(f"inputs= has no effect: the request of {model.name} has its own.")
    if name is None:
        return model
    if isinstance(model, ModuleRequest):
        return dataclasses.replace(model, name=name)
    return dataclasses.replace(model, slug=name)


def text_of(model: Named) -> str:
    """Return a model that is given by its name or path, or the file of an artifact, as on the command line.

    The path of a ``deployment.json`` stands for the file that ``deploy optimize`` chose.

    Raises:
        DeployError: the choice is PyTorch, or its file has changed.
        UsageError: a module in memory or something else; the function takes files.
    """
    if isinstance(model, Artifact):
        return str(model.path)
    if isinstance(model, str | Path):
        path = Path(model)
        return str(chosen_file(path, load(path))) if is_deployment(path) else str(model)
    raise UsageError(
        f"{type(model).__name__} is not a file or the name of a model.",
        "export it, and give the file: deploy.export(…).artifact",
    )


def as_requests(models: Sequence[ModelLike], inputs: ExampleInputs | None = None) -> list[ModelRequest]:
    """Return the requests of several models; ``inputs`` are those of the modules among them.

    Raises:
        UsageError: two modules have one name, or as for `as_request`.
    """
    modules = [item for item in models if not isinstance(item, Named | ModelRequest)]
    if inputs is not None and not modules:
        raise UsageError("inputs= has no effect: none of the models is a module in memory.")
    requests = [
        as_request(item) if isinstance(item, Named | ModelRequest) else as_request(item, inputs) for item in models
    ]
    seen: dict[str, Any] = {}
    for request in requests:
        if isinstance(request, ModuleRequest) and seen.setdefault(request.name, request.module) is not request.module:
            raise UsageError(
                f"two modules have the name {request.name}.", "name them: module_request(module, inputs, name=…)"
            )
    return requests


def given_source(
    model: ModelLike | None, inputs: ExampleInputs | None = None, name: str | None = None
) -> str | ModelRequest | None:
    """Return the model of a command that starts from an export: a name, file or None as text, else its request.

    Raises:
        UsageError: as for `as_request`.
    """
    if model is not None and not isinstance(model, Named):
        return as_request(model, inputs, name)
    if inputs is not None:
        raise UsageError(f"inputs= has no effect: {model or 'the model'} is not a module in memory.")
    return model if model is None else text_of(model)


def _texts(name: str, inputs: ExampleInputs | None) -> tuple[str, ...]:
    items = () if inputs is None else (inputs,) if isinstance(inputs, str) else inputs
    if isinstance(items, Sequence) and all(isinstance(item, str) for item in items):
        return tuple(str(item) for item in items)
    raise InputSpecError(f"{name}: the inputs of a model given by name are texts, such as 'x:batch,3,224,224'.")
