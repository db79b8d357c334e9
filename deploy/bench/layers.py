"""Where the time of a call goes, operator by operator, in one form for every backend's own profiler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["compute", "qdq", "reformat"]

QDQ = ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Convert", "Cast")
REFORMAT = ("Reorder", "ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Split")
"""Operators that round or cast, and that only move; every other computes."""

SUFFIXES = ("_nchwc", "_quant", "/WithoutBiases", "/fq_input_0")
"""What runtimes append to the name of the layer they made a node of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTime:
    """A node as it ran, after whatever the runtime fused.

    Attributes:
        layer: its name.
        operator: its type, in the runtime's words.
        ns: nanoseconds of one call of the model.
        arithmetic: ``int8``, ``float``, or empty where the profiler does not tell.
    """

    layer: str
    operator: str
    ns: float
    arithmetic: str = ""

    @property
    def kind(self) -> Kind:
        """What the time goes to."""
        if self.operator in QDQ:
            return "qdq"
        return "reformat" if self.operator in REFORMAT else "compute"

    @property
    def origin(self) -> str:
        """The name without what runtimes append, to find the same layer in another profile."""
        name = self.layer
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A profiled cell; nanoseconds of one call.

    Attributes:
        layers: the longest first.
        wall_ns: the median of calls without a profiler.
    """

    layers: tuple[LayerTime, ...]
    wall_ns: float

    @classmethod
    def of(cls, items: Iterable[Mapping[str, Any]], wall_ns: float) -> Profile:
        """From what a backend's profiler gave; nodes of one name are put together."""
        found: dict[tuple[str, str, str], float] = {}
        for item in items:
            key = (item["layer"], item["operator"], item.get("arithmetic", ""))
            found[key] = found.get(key, 0.0) + float(item["ns"])
        layers = [
            LayerTime(layer=name, operator=operator, ns=value, arithmetic=arithmetic)
            for (name, operator, arithmetic), value in found.items()
        ]
        return cls(layers=tuple(sorted(layers, key=lambda item: -item.ns)), wall_ns=wall_ns)

    @property
    def total_ns(self) -> float:
        """Of all layers."""
        return sum(item.ns for item in self.layers)

    def by_operator(self) -> dict[str, float]:
        """Nanoseconds by operator type, the longest first."""
        found: dict[str, float] = {}
        for item in self.layers:
            found[item.operator] = found.get(item.operator, 0.0) + item.ns
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def share(self, kind: Kind) -> float:
        """Of the layers' time that goes to a kind."""
        total = self.total_ns
        return sum(item.ns for item in self.layers if item.kind == kind) / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "wall_ns": self.wall_ns,
            "layers_ns": self.total_ns,
            "outside_layers_ns": self.wall_ns - self.total_ns,
            "by_operator_ns": self.by_operator(),
            "qdq_share": self.share("qdq"),
            "reformat_share": self.share("reformat"),
            "layers": [{**asdict(item), "kind": item.kind} for item in self.layers],
        }


def slower(before: Profile, after: Profile) -> list[tuple[LayerTime, float]]:
    """Layers of the second profile that take longer than those of the same origin in the first, the worst first.

    Returns:
        The layer, and the nanoseconds it took before. What a runtime fused into another layer has no name to be found
        by, and is left out.
    """
    known: dict[str, float] = {}
    for item in before.layers:
        known[item.origin] = known.get(item.origin, 0.0) + item.ns
    worse = [(item, known[item.origin]) for item in after.layers if item.ns > known.get(item.origin, float("inf"))]
    return sorted(worse, key=lambda pair: pair[1] - pair[0].ns)
