"""Everything of a quantization that runs a float graph, in a process of its own: a crash there is an error here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from typing_extensions import Self

from calibration import Observations
from calibration.layers import LayerNoise
from calibration.observations import unpack
from deploy.core.child import Child
from deploy.core.errors import ArtifactError, DataError, DeployError, DigestError
from deploy.core.runner import Feeds, Fetches

MODULE = "deploy.quantization.worker"
GRAPH, REFUSED = "graph", "refused"
KINDS: Mapping[str, type[DeployError]] = {
    "ArtifactError": ArtifactError,
    "DataError": DataError,
    "DigestError": DigestError,
}
"""What the process may refuse."""


class GraphChild:
    """A context manager; the process is started at once, so that its imports cost no time later."""

    def __init__(self) -> None:
        self._child = Child(MODULE, "ONNX Runtime")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def prepare(self, path: Path) -> onnx.ModelProto:
        """`calibration.prepare`; the graph stays in the process for what follows.

        Raises:
            ArtifactError: as there.
            BackendCrashedError: the process died.
        """
        arrays = self._call({"do": "prepare", "path": str(path)})[1]
        return onnx.load_model_from_string(arrays[GRAPH].tobytes())

    def collect(self, feeds: Iterable[Feeds], *, samples: int, advance: Callable[[int, int], None]) -> Observations:
        """`calibration.collect` over the prepared graph.

        Args:
            feeds: batches.
            samples: in all of them.
            advance: told after every batch how many samples of how many were sent.

        Raises:
            DataError: as there.
            BackendError: as there.
            BackendCrashedError: the process died.
        """
        self._call({"do": "collect", "samples": samples})
        return unpack(*self._over(feeds, lambda done: advance(done, samples)))

    def layer_noise(self, quantized: onnx.ModelProto, feeds: Iterable[Feeds]) -> list[LayerNoise]:
        """`calibration.layers.layer_noise` of the prepared graph and one that was made from it.

        Raises:
            BackendError: ONNX Runtime refused one of them.
            BackendCrashedError: the process died.
        """
        self._call({"do": "compare"}, {GRAPH: np.frombuffer(quantized.SerializeToString(), np.uint8)})
        reply, arrays = self._over(feeds)
        return [
            LayerNoise(layer=layer, operator=operator, tensor=tensor, sqnr_db=float(value))
            for (layer, operator, tensor), value in zip(reply["layers"], arrays["sqnr_db"], strict=True)
        ]

    def _over(
        self, feeds: Iterable[Feeds], advance: Callable[[int], None] = lambda done: None
    ) -> tuple[dict[str, Any], Fetches]:
        """Send every batch, the next of which is read while the process is busy with one; what came of them."""
        sent = 0
        for batch in feeds:
            if sent:
                self._answer()
                advance(sent)
            self._child.send({"do": "add"}, batch)
            sent += len(next(iter(batch.values())))
        if sent:
            self._answer()
            advance(sent)
        return self._call({"do": "finish"})

    def _call(self, request: dict[str, Any], arrays: Feeds | None = None) -> tuple[dict[str, Any], Fetches]:
        self._child.send(request, arrays)
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], Fetches]:
        reply, fetched = self._child.receive()
        if REFUSED in reply:
            kind, message, hint = reply[REFUSED]
            raise KINDS[kind](message, hint)
        return {name: value for name, value in reply.items() if name != "peak_bytes"}, fetched
