"""A model behind a name of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.core.tensors import TensorSpec
from deploy.serving.batching import Batcher
from deploy.serving.protocol import describe

VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A file that answers, or PyTorch.

    Attributes:
        name: what it is counted under; it may answer to others as well.
        platform: as the protocol names it, ``onnxruntime_onnx``.
        about: plain values for the metadata: the file, its digest, its verdict.
    """

    name: str
    platform: str
    batcher: Batcher
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, name: str) -> dict[str, Any]:
        """The model's metadata, as the protocol has it, under the name that was asked for."""
        return {
            "name": name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [describe(spec) for spec in self.inputs],
            "outputs": [describe(spec) for spec in self.outputs],
            "parameters": {**self.about, "max_batch": self.batcher.limits.max_batch if self.batcher.batched else 0},
        }
