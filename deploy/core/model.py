"""A model: a network with everything that must be known to run it, and where its weights came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.core.errors import ModelError
from deploy.core.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

UNTRAINED = "untrained"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Where the values of the parameters came from.

    Attributes:
        source: ``untrained``, the name of published weights, or the file they were read from.
        trained: whether they mean anything.
        seed: what untrained weights were drawn with.
        sha256: digest of the file they were read from.
    """

    source: str
    trained: bool
    seed: int | None = None
    sha256: str | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for weights that are the same, different for others."""
        return (self.sha256,) if self.sha256 else (self.source, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """From an image to an input tensor: resize, center-crop, scale to [0, 1], then ``(x - mean) / std``.

    Attributes:
        resize: the shorter side in pixels before the crop, or None to resize straight to ``crop``.
        crop: height and width in pixels of the input.
    """

    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    gray: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A network in evaluation mode and all that is needed to call it.

    Attributes:
        name: the full name, ``torchvision/resnet18``.
        slug: the name of its folder and files, ``resnet18``.
        inputs: every input with all the dimensions that could be dynamic as symbols.
        sizes: a size for each symbol, used to trace.
        keywords: inputs passed by keyword; the others are passed in order.
        untraceable: why torch.export is known to fail, so that it need not be tried; empty where it is not.
        listed: the inputs are samples of a list (torchvision's detectors), not arguments.
        reference: rebuilds the model in another process or on another day: what was asked for.
    """

    name: str
    slug: str
    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]
    weights: Weights
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    keywords: frozenset[str] = frozenset()
    listed: bool = False
    untraceable: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of ``module`` from tensors by input name."""
        positional = [tensors[spec.name] for spec in self.inputs if spec.name not in self.keywords]
        keyword = {spec.name: tensors[spec.name] for spec in self.inputs if spec.name in self.keywords}
        return ((positional,), keyword) if self.listed else (tuple(positional), keyword)

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Run the module and name what it returns (see `name_outputs`)."""
        positional, keyword = self.arguments(tensors)
        return name_outputs(self.module(*positional, **keyword))

    def replace(self, **changes: Any) -> Model:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def name_outputs(result: Any) -> dict[str, Any]:
    """Flatten whatever a module returns into named tensors, in the order exporters flatten it.

    One tensor is ``logits`` when it is a matrix of floats (samples, classes) and ``output`` otherwise.
    Dictionaries and dataclasses keep their keys, sequences are numbered ``output_0``, ``output_1`` …;
    nested ones are joined by a dot. None is left out.

    Raises:
        ModelError: something in the result is not a tensor, or there is no tensor at all.
    """
    if _is_tensor(result):
        return {"logits" if len(result.shape) == 2 and result.is_floating_point() else "output": result}
    if isinstance(result, (list, tuple)) and len(result) == 1:
        return name_outputs(result[0])
    named = dict(_walk(result, ()))
    if not named:
        raise ModelError(f"the model returned no tensor but {type(result).__name__}.")
    return named


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _children(value: Any) -> Sequence[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (list, tuple)):
        return [(f"{index}", item) for index, item in enumerate(value)]
    return None


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if _is_tensor(value):
        name = ".".join(path)
        yield (f"output_{name}" if name[:1].isdigit() else name), value
        return
    children = _children(value)
    if children is None:
        raise ModelError(f"the model returned a {type(value).__name__} at {'.'.join(path) or 'the top'}, not a tensor.")
    for key, item in children:
        yield from _walk(item, (*path, key))
