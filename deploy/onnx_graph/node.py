"""A node of an ONNX graph, and the functions that compute operators."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

FAMILIES = "deploy.onnx_graph.operators"
DOMAINS = ("", "ai.onnx")
"""Names of the standard operators' domain; the first one is used here."""

Values = Mapping[str, Any]
"""Values by name: tensors, lists of tensors (sequences), or None (an absent optional)."""

Compute = Callable[..., Any]
"""Called with the `OnnxNode` and its inputs, None for an omitted one; returns the output, or a tuple of the outputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxNode:
    """What a function needs to know of the node that it computes.

    Attributes:
        operator: ``Conv``.
        domain: empty for the standard operators.
        version: of the operator set that the file uses for this domain.
        attributes: plain values; tensors as `torch.Tensor`, graphs as `deploy.onnx_graph.graph.Graph`.
        inputs: names; empty for an omitted input.
        outputs: names; empty for an output that is not used.
    """

    name: str
    operator: str
    domain: str
    version: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute, or the default where the node has none."""
        return self.attributes.get(attribute, default)

    def uses(self, output: int) -> bool:
        """Return whether an output is used."""
        return output < len(self.outputs) and bool(self.outputs[output])


Function = TypeVar("Function", bound=Compute)

_FUNCTIONS: dict[tuple[str, str], Compute] = {}
_SCOPED: set[tuple[str, str]] = set()


def operator(*names: str, domain: str = "", scoped: bool = False) -> Callable[[Function], Function]:
    """Register a function for operators; a ``scoped`` one gets the `Values` around the node before its inputs."""

    def register(function: Function) -> Function:
        for name in names:
            _FUNCTIONS[domain, name] = function
            if scoped:
                _SCOPED.add((domain, name))
        return function

    return register


@cache
def _load() -> None:
    for module in pkgutil.iter_modules(importlib.import_module(FAMILIES).__path__):
        importlib.import_module(f"{FAMILIES}.{module.name}")


def function_of(domain: str, name: str) -> tuple[Compute, bool]:
    """Return the function of an operator that is `known`, and whether it is scoped."""
    return _FUNCTIONS[domain, name], (domain, name) in _SCOPED


def known() -> list[tuple[str, str]]:
    """Return the domains and names of the operators that have a function."""
    _load()
    return [*_FUNCTIONS, ("", "Constant")]
