"""The description of a model: from which another process can build the same model, or of a module in memory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.errors import UsageError, WeightsError
from deploy.core.names import RESERVED
from deploy.core.plain import from_plain, to_plain
from deploy.tasks.pipeline import GraphPipeline

if TYPE_CHECKING:
    import torch

WEIGHT_NAMES = ("auto", "default", "none")
"""Sources of weights that are no files."""

INDEX = ".index.json"
"""End of the name of a file that lists the shards of a checkpoint and their tensors."""
CHECKPOINTS = (".safetensors", ".pt", ".pth.tar", ".pth", ".ckpt", ".bin", INDEX)
SUFFIXES = (*CHECKPOINTS, ".pt2", ".onnx", ".engine")
"""Ends of names that are files; the name of a model has none of them."""
_MOST_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRequest:
    """A model as the user describes it.

    Attributes:
        name: ``resnet18``, ``zoo/lenet5``, ``path/nets.py:factory``, ``model.pt2`` or a checkpoint file.
        weights: ``auto``, ``default``, ``none`` or a file, see `split_key`.
        arch: the architecture, if ``name`` is a checkpoint.
        seed: of untrained weights.
        inputs: texts of ``--input``, for models that do not declare their inputs.
        options: options of the architecture, such as ``num_classes=10``.
        outputs: names of the outputs that count; empty for all.
        slug: name of the model's folder and files (``--name``); None: see `folder`.
        pipeline: steps before and after the model that are part of it.
    """

    name: str
    weights: str = "auto"
    arch: str | None = None
    seed: int = 0
    inputs: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    slug: str | None = None
    pipeline: GraphPipeline | None = None

    @property
    def folder(self) -> str | None:
        """Name of the model's folder: ``slug``, else the checkpoint's stem; None: the model's own name decides.

        Raises:
            UsageError: ``slug`` cannot be used.
        """
        if self.slug is not None:
            check_slug(self.slug)
            return self.slug
        return checkpoint_slug(self.name, self.weights)

    @property
    def lookup(self) -> str:
        """The name under which the model's artifacts are found."""
        return self.folder or self.name

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX file."""
        return self.name.endswith(".onnx")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        values: dict[str, Any] = to_plain(self)
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelRequest:
        """Build a request from the values of `to_dict`.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        return from_plain(cls, dict(data))

    def typed_options(self) -> dict[str, Any]:
        """Return the options with their texts parsed by `typed`."""
        return {key: typed(value) for key, value in self.options.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleRequest(ModelRequest):
    """A module in memory, which no other process can build.

    The functions of ``deploy`` copy the module and leave it as it is. They judge and export it in evaluation mode, on
    the CPU. `deploy.module_request` makes the request from example inputs.

    Attributes:
        name: name of the model's folder: letters, digits, ``_`` and ``-``.
        inputs: texts of ``--input``; empty takes those that an export of the module recorded.
        module: the module. ``weights``, ``arch`` and ``options`` do not apply to it.

    Raises:
        UsageError: the name cannot be used, or there are weights, an architecture or options.
    """

    module: torch.nn.Module

    def __post_init__(self) -> None:
        check_slug(self.name, "A-Za-z0-9_-")
        if (self.weights, self.arch, dict(self.options), self.slug) != ("auto", None, {}, None):
            raise UsageError(f"{self.name}: a module in memory takes no weights, architecture, options or slug.")

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest records: the class, the inputs and outputs, from which no module can be built."""
        kind = type(self.module)
        return {
            "module": f"{kind.__module__}.{kind.__qualname__}",
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "pipeline": to_plain(self.pipeline),
        }


def check_slug(name: str, allowed: str = "A-Za-z0-9_.-") -> None:
    """Check that a name can be that of a model's folder and files.

    Raises:
        UsageError: it has other characters, begins with a dot, looks like a file, or is the name of another folder.
    """
    plain = re.fullmatch(f"[{allowed}]+", name) and not name.startswith((".", "-"))
    if not plain or name.endswith(SUFFIXES) or name in RESERVED:
        characters = "letters, digits, _ and -" if "." not in allowed else "letters, digits, _, - and ."
        raise UsageError(
            f"the name {name!r} cannot be used: a name has {characters} only, does not look like a file, "
            f"and is none of {', '.join(sorted(RESERVED))}."
        )


def checkpoint_slug(name: str, weights: str) -> str | None:
    """Return the name of the folder of a checkpoint's model: the stem of its file; None if there is no checkpoint.

    ``runs/best.pt`` gives ``best``, ``last.pt#ema`` gives ``last-ema``, and a checkpoint of ``deploy train``, such as
    ``lenet5.fp32.safetensors``, gives ``lenet5``.
    """
    source = name if is_checkpoint(name) else weights
    if source in WEIGHT_NAMES:
        return None
    path, key = split_key(source)
    name = path.name.removesuffix(INDEX)
    suffix = next((item for item in CHECKPOINTS if name.endswith(item)), Path(name).suffix)
    stem = name.removesuffix(suffix).removesuffix(".fp32") + (f"-{key}" if key else "")
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip(".-")[:_MOST_CHARACTERS] or "model"
    if slug.endswith(SUFFIXES) or slug in RESERVED:
        slug = f"{slug.replace('.', '-')}-model"
    return slug


def is_checkpoint(name: str) -> bool:
    """Return whether a model name is the path of a checkpoint file."""
    return str(split_key(name)[0]).endswith(CHECKPOINTS) and ":" not in name


def checkpoint_as_weights(request: ModelRequest) -> ModelRequest:
    """Rewrite ``model.safetensors --arch resnet18`` as ``resnet18 --weights model.safetensors``.

    Raises:
        UsageError: a checkpoint without an architecture or with other weights, or an architecture without a checkpoint.
    """
    if not is_checkpoint(request.name):
        if request.arch is not None:
            raise UsageError(f"--arch needs a checkpoint file as MODEL; {request.name!r} is not one.")
        return request
    if not split_key(request.name)[0].is_file():
        raise WeightsError(f"{request.name}: no such file.")
    if request.arch is None:
        raise UsageError(
            f"{request.name}: a checkpoint contains only weights.", "name its architecture, such as --arch resnet18"
        )
    if request.weights != "auto":
        raise UsageError(f"--weights {request.weights}: the weights are those of {request.name}.")
    return dataclasses.replace(request, name=request.arch, weights=request.name, arch=None)


def split_key(source: str) -> tuple[Path, str]:
    """Split ``last.pt#ema`` into the file and the place of the tensors in it, which may be empty."""
    path, _, key = source.rpartition("#")
    return (Path(path), key) if path and not Path(source).is_file() else (Path(source), "")


def typed(text: str) -> Any:
    """Parse a text as integer, float, true, false or none; return any other text unchanged."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_options(items: tuple[str, ...], name: str = "-o") -> dict[str, str]:
    """Parse the ``key=value`` texts of an option.

    Raises:
        UsageError: a text has another form.
    """
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            is_file = name == "-o" and not equals and Path(item).suffix
            hint = "the files are named by --name NAME, in the folder --artifacts DIR" if is_file else None
            raise UsageError(f"{name} {item!r} is not of the form key=value.", hint)
        options[key] = value
    return options
