"""A plan of precision: the nodes of a graph that stay in float32, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.core.artifact import Payload
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.plain import from_plain, to_plain

Half = Literal["fp16", "bf16"]
"""One of `deploy.core.model.HALVES`."""

MIN_SQNR = 40.0
"""Signal over noise in dB that half precision is held to where PyTorch's own run in it is of no use."""

Reason = Literal[
    "overflow", "underflow", "cancellation", "noise", "no kernel", "wrong kernel", "crash", "choice", "asked"
]

REASONS: dict[str, str] = {
    "overflow": "values too large for half precision",
    "underflow": "values that half precision rounds to 0",
    "cancellation": "differences of large values",
    "noise": "rounding that adds up",
    "no kernel": "operators without half precision",
    "wrong kernel": "operators whose float16 kernel on a GPU is wrong",
    "crash": "nodes on which ONNX Runtime crashes",
    "choice": "discrete choices and the decoding around them",
    "asked": "--keep-float",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptNode:
    """A node that stays in float32.

    Attributes:
        node: name of its first result.
        module: the module that it belongs to, as the exporter recorded it; empty if it did not.
        detail: the largest value, or the share of the noise that is avoided.
    """

    node: str
    name: str
    operator: str
    module: str = ""
    reason: Reason
    detail: str = ""

    def text(self) -> str:
        """Return one line."""
        where = f" in {self.module}" if self.module else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.operator} {self.name or self.node}{where}, {REASONS[self.reason]}{detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPrecision:
    """What a block of a network computes in half precision.

    Attributes:
        module: path of the module up to its first index, such as ``encoder.layers.3``; empty for nodes without one.
        nodes: number of its nodes that compute with floating-point values.
        kept: number of these in float32.
        share: share of its operations that are in half precision, from 0 to 1.
    """

    module: str
    nodes: int
    kept: int
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescaled:
    """A group of channels that are multiplied by a power of two.

    Attributes:
        node: a node that makes a channel of the group, by its first result.
        channel: the index of this channel.
        channels: number of channels in the group.
        exponent: the power of two.
    """

    node: str
    channel: int
    channels: int
    exponent: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionPlan:
    """What a graph computes in half precision.

    Attributes:
        precision: ``fp16`` or ``bf16``.
        graph: SHA-256 of the structure of the float32 graph that it is for; weights do not count.
        nodes: number of nodes that compute with floating-point values.
        kept: those that stay in float32, in execution order.
        share: share of the operations that are in half precision, from 0 to 1; a multiply-add counts as two. None where
            the graph was not run.
        min_sqnr: bound in dB that the search held the graph to, where PyTorch's own run did not count.
        runs: how many converted graphs were run to find the plan.
        margin: by what factor the noise of the last one was below the bound.
        rescaled: channels that are brought into the range of half precision, see `deploy.precision.rescale`.
        blocks: the same facts for each block of the network, in execution order; empty where the graph was not run.
    """

    precision: str
    graph: str
    nodes: int
    kept: tuple[KeptNode, ...]
    share: float | None
    min_sqnr: float
    runs: int
    margin: float | None
    rescaled: tuple[Rescaled, ...] = ()
    blocks: tuple[BlockPrecision, ...] = ()

    def summary(self) -> str:
        """Return one sentence."""
        text = f"{self.precision}: {self.nodes - len(self.kept)} of {self.nodes} nodes"
        if self.share is not None:
            text += f" with {100 * self.share:.1f} % of the operations"
        text += " in half precision"
        counts = Counter(item.reason for item in self.kept)
        why = ", ".join(f"{count} for {REASONS[reason]}" for reason, count in counts.most_common())
        if why:
            text += f"; in float32: {why}"
        count = sum(item.channels for item in self.rescaled)
        return f"{text}; {count} channels multiplied by a power of two" if count else text

    def block_lines(self) -> Iterator[str]:
        """Yield a line for each block with nodes in float32, and one for the others."""
        mixed = [block for block in self.blocks if block.kept]
        for block in mixed:
            count = "all" if block.kept == block.nodes else f"{block.kept} of {block.nodes}"
            where = block.module or "no module"
            yield f"{where}: {count} nodes in float32, {100 * block.share:.1f} % of the operations in half precision"
        rest = len(self.blocks) - len(mixed)
        if mixed and rest:
            yield f"{rest} other block{'s'[: rest > 1]}: all nodes in half precision"

    def names(self) -> frozenset[str]:
        """Return the nodes that a conversion must be told to keep."""
        return frozenset(item.node for item in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values: dict[str, Any] = to_plain(self)
        return values

    @classmethod
    def from_dict(cls, values: Any) -> PrecisionPlan:
        """Build a plan from what `to_dict` returned.

        Raises:
            ValueError: it is not a plan.
        """
        return from_plain(cls, values)

    def write(self, beside: Path) -> Path:
        """Write the plan as JSON beside an ONNX file, and return its path."""
        path = beside.with_suffix(".precision.json")
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> PrecisionPlan:
        """Read a plan that was written as JSON.

        Raises:
            UsageError: there is no such file.
            ArtifactError: it is not a plan.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as exc:
            raise UsageError(f"{path}: cannot be read: {exc.strerror or exc}.") from exc
        except ValueError as exc:
            raise ArtifactError(f"{path}: not a plan of precision: {exc}.") from exc


def recorded_plan(options: Mapping[str, Any]) -> PrecisionPlan | None:
    """Return the plan in the options of a manifest; None if there is none, or it is damaged."""
    try:
        return PrecisionPlan.from_dict(options["precision_plan"]) if "precision_plan" in options else None
    except ValueError:
        return None


def payloads(path: Path, plan: PrecisionPlan | None) -> tuple[Payload, ...]:
    """Return the files of an ONNX artifact: the graph, its external data, and its plan, which is written beside it."""
    beside = [path.with_name(f"{path.name}.data"), *([plan.write(path)] if plan else [])]
    return tuple(Payload.of(item) for item in (path, *beside) if item.exists())
