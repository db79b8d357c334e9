"""A model: a PyTorch module with what is needed to run it, and where its weights came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.core.errors import ModelError, UnknownNameError
from deploy.core.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

UNTRAINED = "untrained"

EXTRA_STATE = "_extra_state"
"""End of the names under which modules save what ``get_extra_state`` returns, which need not be a tensor."""

CallForm = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of a module, with the names of inputs in place of tensors: ``((["p3", "p4"],), {})``
passes two inputs as one list."""


class NamedOutputs(dict[str, Any]):
    """The result of a module whose outputs have names of their own, such as ``33`` or that of an input; they stay."""


HALVES = ("fp16", "bf16")
"""The precisions of two bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Where a model's weights came from.

    Attributes:
        source: ``untrained``, the name of published weights, or the checkpoint file.
        seed: random seed of untrained weights.
        sha256: digest of the checkpoint file; of a factory, a program or a module, that of the tensors.
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
        letterbox: gray value, 0 to 255, around an image that keeps its shape and is centered in ``crop``; None: the
            image is stretched, or its center is cropped.
    """

    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    gray: bool = False
    letterbox: int | None = None


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
        task: what the outputs are, see `deploy.tasks.task`; None: as they show.
        form: how the inputs are passed; None: positional, in order.
        outputs: names of the outputs that count; empty for all.
        dynamic: dimensions that an export leaves open unless the user chooses others.
        notes: what was decided about the module and its call, for the user.
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
    task: str | None = None
    form: CallForm | None = None
    outputs: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ("batch",)
    notes: tuple[str, ...] = ()
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

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX file, which PyTorch evaluates node by node."""
        return str(self.reference.get("name", "")).endswith(".onnx")

    def arguments(self, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments of ``module`` from tensors by input name."""
        if self.form is None:
            return tuple(tensors[spec.name] for spec in self.inputs), {}
        positional, keyword = fill_form(self.form, tensors)
        return positional, keyword

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Run the module and return its outputs by name (see `name_outputs`)."""
        positional, keyword = self.arguments(tensors)
        return self.name_outputs(self.result_of(self.module, positional, keyword))

    def result_of(self, module: Any, positional: Sequence[Any], keyword: Mapping[str, Any]) -> Any:
        """Call a form of the module, and return its result, or what it wrote into a dictionary instead of returning."""
        result = module(*positional, **keyword)
        if result is not None:
            return result
        given = {spec.name for spec in self.inputs}
        filled = [item for item in (*positional, *keyword.values()) if isinstance(item, Mapping)]
        return {key: value for item in filled for key, value in item.items() if key not in given}

    def name_outputs(self, result: Any) -> dict[str, Any]:
        """Return the outputs that count by name; one that has the name of an input gets the suffix ``_out``.

        Raises:
            UnknownNameError: the model has no output of a name in ``outputs``.
        """
        if isinstance(result, NamedOutputs):
            every = dict(result)
        else:
            inputs = {spec.name for spec in self.inputs}
            every = {f"{name}_out" if name in inputs else name: value for name, value in name_outputs(result).items()}
        unknown = next((name for name in self.outputs if name not in every), None)
        if unknown is not None:
            raise UnknownNameError("output", unknown, every, f"{self.name} has the outputs {', '.join(every)}")
        return {name: value for name, value in every.items() if name in self.outputs or not self.outputs}

    def replace(self, **changes: Any) -> Model:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def state_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the state dict."""
    return {name: value for name, value in module.state_dict().items() if not name.endswith(EXTRA_STATE)}


def fill_form(form: Any, tensors: Mapping[str, Any]) -> Any:
    """Return a call form with tensors, or other values, in place of the names of inputs."""
    from torch.utils._pytree import tree_map

    return tree_map(lambda leaf: tensors.get(leaf, leaf) if isinstance(leaf, str) else leaf, form)


def name_outputs(result: Any) -> dict[str, Any]:
    """Flatten the result of a module into named tensors, in the order in which exporters flatten it.

    A single tensor is named ``logits`` if it is a float matrix [samples, classes], else ``output``. Items of
    dictionaries and dataclasses keep their keys; items of sequences are named ``output_0``, ``output_1`` and so on;
    nested names are joined by a dot. Numbers become tensors without dimensions; None and caches are omitted, see
    `caches`.

    Raises:
        ModelError: a leaf of the result is neither a tensor nor a number, two have one name, or there is no tensor.
    """
    import torch

    if isinstance(result, torch.Tensor):
        return {"logits" if result.dim() == 2 and result.is_floating_point() else "output": result}
    if isinstance(result, (list, tuple)) and len(result) == 1:
        return name_outputs(result[0])
    tensors: dict[str, Any] = {}
    for path, leaf in _leaves(result, ()):
        if _is_cache(leaf):
            continue
        name = ".".join(path) or "output"
        name = f"output_{name}" if name[:1].isdigit() else name
        if name in tensors:
            raise ModelError(f"the model returned two outputs with the name {name}.")
        value = leaf if isinstance(leaf, torch.Tensor) else _number(leaf)
        if value is None:
            raise ModelError(f"the model returned {type(leaf).__name__} at {'.'.join(path) or 'the top level'}.")
        tensors[name] = value
    if not tensors:
        raise ModelError(f"the model returned {type(result).__name__}, which contains no tensor.")
    return tensors


def caches(result: Any) -> list[str]:
    """Return the places in a result of caches: objects for the next call of a decoder, which are no outputs."""
    return [".".join(path) or "the result" for path, leaf in _leaves(result, ()) if _is_cache(leaf)]


def _is_cache(value: Any) -> bool:
    """Return whether a value is a cache by its class, such as ``DynamicCache`` of transformers."""
    return any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)


def _number(value: Any) -> Any:
    """Return a number as a tensor without dimensions; None if it is no number."""
    import torch

    kinds: tuple[tuple[tuple[Any, ...], torch.dtype], ...] = (
        ((bool, torch.SymBool), torch.bool),
        ((int, torch.SymInt), torch.int64),
        ((float, torch.SymFloat), torch.float32),
    )
    for (plain, symbolic), dtype in kinds:
        if isinstance(value, symbolic):  # a size, while torch.export records: torch.tensor would fix it
            return torch.scalar_tensor(value, dtype=dtype)
        if isinstance(value, plain):
            return torch.tensor(value, dtype=dtype)
    return None


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


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what is neither None nor a container, with its place in the result."""
    children = _children(value)
    if children is None:
        if value is not None:
            yield path, value
        return
    for key, item in children:
        yield from _leaves(item, (*path, key))
