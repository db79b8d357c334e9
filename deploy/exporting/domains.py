"""What values a model takes, found by observing and by trying it: ranges of integers, patterns of masks, lengths."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deploy.backends.torch.reference import OperatorCall, PyTorchRunner
from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import TensorSpec
from deploy.parity.kinds import MASKS, Domain, domain_of, draw

TRIED = (1000, 100, 10, 2)
"""Numbers of different values that are tried for integers of unknown meaning, the largest first."""

PIXEL_SCALE = 50.0
"""A model that starts by subtracting or dividing by more than this takes raw pixel values."""

FIRST_OPERATORS = 8
"""Number of operators at the start of a model that are searched for the preparation of a picture."""

_LENGTH = re.compile(r"(^|_|x)(len|lens|length|lengths)$")
_TABLES: Mapping[str, tuple[int, int | None]] = {
    # positions of the indices and of the indexed axis among the operands; without an axis, it is the first one
    "embedding": (1, None),
    "_embedding_bag": (1, None),
    "_embedding_bag_forward_only": (1, None),
    "index_select": (2, 1),
    "gather": (2, 1),
    "scatter": (2, 1),
    "scatter_": (2, 1),
}
_FOLLOWED = (
    *("add", "sub", "rsub", "clamp", "_to_copy", "clone", "alias", "detach", "view", "_unsafe_view", "reshape", "flip"),
    *("unsqueeze", "squeeze", "expand", "slice", "select", "permute", "transpose", "t", "unbind", "split"),
)
"""Operators whose result is still the values of an input, perhaps moved by a constant."""


class _Enough(Exception):
    """Ends a run from which nothing more can be learned."""


@dataclass(slots=True)
class _Observed:
    """Follows the values of the inputs through a run, to the tables that integers index.

    Attributes:
        inputs: the inputs, in the memory that the run uses.
        integers: whether to follow the whole run.
        rows: exclusive upper bound of each input, from the smallest table that it indexes.
        pixels: inputs that the model prepares as raw pixel values.
    """

    inputs: dict[str, torch.Tensor]
    integers: bool
    rows: dict[str, int] = field(default_factory=dict)
    pixels: set[str] = field(default_factory=set)
    followed: list[tuple[torch.Tensor, str]] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        self.followed = [(value, name) for name, value in self.inputs.items()]

    def __call__(self, call: OperatorCall) -> None:
        """Observe one operator."""
        self.calls += 1
        if self.calls > FIRST_OPERATORS and not self.integers:
            raise _Enough
        operands = call.operands
        if call.operator in _TABLES:
            indices, axis = _TABLES[call.operator]
            self._index(operands[indices], operands[0].shape[0 if axis is None else int(operands[axis])])
        elif call.operator == "index":
            for axis, values in enumerate(operands[1]):
                self._index(values, operands[0].shape[axis])
        elif call.operator in ("div", "mul", "sub"):
            self._prepared(call.operator, operands)
        source = next((name for value in operands if (name := self._name(value))), None)
        if source is not None and call.operator in _FOLLOWED:
            results = call.result if isinstance(call.result, (tuple, list)) else [call.result]
            self.followed += [(value, source) for value in results if isinstance(value, torch.Tensor)]

    def _index(self, indices: Any, rows: int) -> None:
        name = self._name(indices)
        if name is None or not indices.numel():
            return
        given = self.inputs[name]
        moved = (
            indices - given.reshape(indices.shape) if indices.numel() == given.numel() else indices.max() - given.max()
        )
        offset = int(moved.max())  # what the model adds before it looks values up
        self.rows[name] = min(self.rows.get(name, rows - offset), rows - offset)

    def _prepared(self, operator: str, operands: Sequence[Any]) -> None:
        name = self._name(operands[0])
        if (
            name is None
            or not self.inputs[name].is_floating_point()
            or not isinstance(operands[1], (int, float, torch.Tensor))
        ):
            return
        constant = torch.as_tensor(operands[1])
        if constant.numel() in range(1, 17):
            size = float(constant.abs().max())
            if size > PIXEL_SCALE if operator != "mul" else 0 < size < 1 / PIXEL_SCALE:
                self.pixels.add(name)

    def _name(self, value: Any) -> str | None:
        if not isinstance(value, torch.Tensor):
            return None
        return next(
            (
                name
                for other, name in self.followed
                if value is other or (value.data_ptr() == other.data_ptr() and value.shape == other.shape)
            ),
            None,
        )


def find_domains(model: Model, inputs: Sequence[TensorSpec]) -> tuple[dict[str, Domain], list[str]]:
    """Find the values that each input takes, and describe in notes what had to be tried.

    Integers that index a table take its rows; others keep the bounds of ``--input``, have the range of their dtype, or
    the largest range that the model accepts. Masks keep the patterns that give finite results. Lengths are at most the
    size of a dimension that the model accepts.
    """
    finder = _Finder(model, inputs)
    for spec in inputs:
        finder.find(spec)
    return finder.domains, finder.notes


class _Finder:
    """Runs the model in float32 at the traced sizes to find the values of its inputs, one after the other."""

    def __init__(self, model: Model, inputs: Sequence[TensorSpec]) -> None:
        self.model, self.inputs = model, inputs
        self.domains = {spec.name: domain_of(spec) for spec in inputs}
        self.notes: list[str] = []
        self.rng = np.random.default_rng(0)
        self.observed = self._observe()

    def _observe(self) -> _Observed:
        feeds = self._feeds(self.domains)
        integers = any(not spec.dtype.startswith(("float", "bool")) and spec.bounds is None for spec in self.inputs)
        if not integers and not any(domain.signed for domain in self.domains.values()):
            return _Observed({}, integers)
        observed = _Observed({name: torch.from_numpy(value) for name, value in feeds.items()}, integers)
        with contextlib.suppress(DeployError):  # it was ended, or the model refuses values that are not known yet
            PyTorchRunner(self.model, "fp32", observed).run(feeds)
        return observed

    def find(self, spec: TensorSpec) -> None:
        """Find the domain of one input."""
        domain = self.domains[spec.name]
        if domain.role == "floats":
            self.domains[spec.name] = self._floats(spec, domain)
        elif domain.role == "mask":
            fine = [item for item in MASKS if self._finite(spec, dataclasses.replace(domain, patterns=(item,)))]
            self.domains[spec.name] = dataclasses.replace(domain, patterns=tuple(fine) or ("random",))
        elif spec.bounds is None:
            self.domains[spec.name] = self._integers(spec, domain)

    def _floats(self, spec: TensorSpec, domain: Domain) -> Domain:
        recipe = self.model.preprocessing
        if not domain.signed or len(spec.shape) < 3:
            return domain
        pixels = spec.name in self.observed.pixels
        if recipe is None or len(self.inputs) > 1:
            return dataclasses.replace(domain, pixels=pixels)
        return dataclasses.replace(
            domain, mean=recipe.mean, std=recipe.std, pixels=pixels or min(recipe.std) < 1 / PIXEL_SCALE
        )

    def _integers(self, spec: TensorSpec, domain: Domain) -> Domain:
        rows = self.observed.rows.get(spec.name)
        if rows is not None and rows > 0 and self._accepts(spec, rows - 1):
            return Domain(role="numbers", low=0, high=rows)
        if _LENGTH.search(spec.name.lower()):
            others = [other.concrete(self.model.sizes) for other in self.inputs if other is not spec]
            for most in sorted({size for shape in others for size in shape}, reverse=True):
                if self._run({**self.domains, spec.name: Domain(role="length", high=most)}) is not None:
                    return Domain(role="length", high=most)
        vocabulary = getattr(getattr(self.model.module, "config", None), "vocab_size", None)
        if isinstance(vocabulary, int) and "ids" in spec.name and self._accepts(spec, vocabulary - 1):
            return Domain(role="numbers", low=0, high=vocabulary)
        if spec.dtype in ("uint8", "int8"):
            limits = np.iinfo(spec.dtype)
            if self._accepts(spec, limits.max) and self._accepts(spec, limits.min):
                return dataclasses.replace(domain, low=int(limits.min), high=int(limits.max) + 1)
        count = next((count for count in TRIED if self._accepts(spec, count - 1)), 2)
        self.notes.append(
            f"input {spec.name!r}: no table that it indexes was found, so integers from 0 to {count - 1}, which the "
            f"model accepts, were probed; state the range with --input {spec.name}:…:{spec.dtype}:0..N"
        )
        return Domain(role="numbers", low=0, high=count)

    def _accepts(self, spec: TensorSpec, value: int) -> bool:
        return self._run({**self.domains, spec.name: Domain(role="numbers", low=value, high=value + 1)}) is not None

    def _finite(self, spec: TensorSpec, domain: Domain) -> bool:
        outputs = self._run({**self.domains, spec.name: domain})
        return outputs is not None and all(
            value.dtype.kind != "f" or bool(np.isfinite(value).all()) for value in outputs.values()
        )

    def _run(self, domains: Mapping[str, Domain]) -> Fetches | None:
        try:
            return PyTorchRunner(self.model, "fp32").run(self._feeds(domains))
        except DeployError:
            return None

    def _feeds(self, domains: Mapping[str, Domain]) -> Feeds:
        return {
            spec.name: np.ascontiguousarray(
                draw(spec, domains[spec.name], "normal", 0, spec.concrete(self.model.sizes), self.rng)
            )
            for spec in self.inputs
        }
