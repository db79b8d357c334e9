"""A model: a PyTorch module with what is needed to run it, and where its weights came from."""

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
    """Where a model's weights came from.

    Attributes:
        source: ``untrained``, the name of published weights, or the checkpoint file.
        seed: random seed of untrained weights.
        sha256: digest of the checkpoint file.
    """

    source: str
    trained: bool
    seed: int | None = None
    sha256: str | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that is equal for equal weights."""
        return (self.sha256,) if self.sha256 else (self.source, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """From an image to an input tensor: resize, center-crop, scale to [0, 1], then ``(x - mean) / std``.

    Attributes:
        crop: height and width of the input in pixels.
        mean, std: per channel.
        resize: length in pixels of the shorter side before the crop; None resizes directly to ``crop``.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        gray: convert the image to one channel.
    """

    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    gray: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A module in evaluation mode and what is needed to call it.

    Attributes:
        name: full name, ``torchvision/resnet18``.
        slug: name of the model's folder and files, ``resnet18``.
        inputs: every dimension that may be dynamic is a symbol.
        sizes: size of each symbol for tracing.
        preprocessing: from an image to the input; None where the input is no image.
        labels: class names.
        keywords: inputs passed by keyword; the others are positional.
        listed: the inputs are passed as one list of samples, as torchvision's detectors expect.
        untraceable: why torch.export is known to fail, so that it is not tried; empty otherwise.
        reference: plain values of the request, which rebuild the model in another process.
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

    @property
    def precision(self) -> str:
        """``fp16`` if some of the weights are float16, ``fp64`` if all are float64, else ``fp32``.

        Raises:
            ModelError: some are bfloat16, which neither NumPy nor ONNX Runtime's operators support.
        """
        state = [*self.module.parameters(), *self.module.buffers()]
        dtypes = {str(value.dtype).removeprefix("torch.") for value in state if value.is_floating_point()}
        if "bfloat16" in dtypes:
            raise ModelError(f"{self.name} has bfloat16 weights, which are not supported.", "convert it with .float()")
        if "float16" in dtypes:
            return "fp16"
        return "fp64" if dtypes == {"float64"} else "fp32"

    def arguments(self, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments of ``module`` from tensors by input name."""
        positional = [tensors[spec.name] for spec in self.inputs if spec.name not in self.keywords]
        keyword = {spec.name: tensors[spec.name] for spec in self.inputs if spec.name in self.keywords}
        return ((positional,), keyword) if self.listed else (tuple(positional), keyword)

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Run the module and return its outputs by name (see `name_outputs`)."""
        positional, keyword = self.arguments(tensors)
        return name_outputs(self.module(*positional, **keyword))

    def replace(self, **changes: Any) -> Model:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def name_outputs(result: Any) -> dict[str, Any]:
    """Flatten the result of a module into named tensors, in the order in which exporters flatten it.

    A single tensor is named ``logits`` if it is a float matrix [samples, classes], else ``output``. Items of
    dictionaries and dataclasses keep their keys; items of sequences are named ``output_0``, ``output_1`` and so on;
    nested names are joined by a dot. None is omitted.

    Raises:
        ModelError: a leaf of the result is not a tensor, or there is no tensor.
    """
    if _is_tensor(result):
        return {"logits" if len(result.shape) == 2 and result.is_floating_point() else "output": result}
    if isinstance(result, (list, tuple)) and len(result) == 1:
        return name_outputs(result[0])
    tensors = dict(_walk(result, ()))
    if not tensors:
        raise ModelError(f"the model returned {type(result).__name__}, which contains no tensor.")
    return tensors


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
        name = ".".join(path) or "the top level"
        raise ModelError(f"the model returned {type(value).__name__} at {name}, not a tensor.")
    for key, item in children:
        yield from _walk(item, (*path, key))
