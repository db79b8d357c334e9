"""A child process that reads ONNX files of others, within limits of time and memory.

Every command examines a file here before it or a runtime opens it. Neither this module nor its caller imports ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Self

from deploy.core.artifact import Artifact
from deploy.core.backend import ONNX
from deploy.core.errors import ArtifactError, BackendCrashedError
from deploy.core.limits import how_to_raise, limits
from deploy.core.plain import from_plain
from deploy.core.remote import Remote
from deploy.support.costs import Costs


class OnnxChild:
    """The parent's side; a context manager that ends the process.

    The process starts at once, so that its imports overlap with what the parent does next. All methods raise
    `ArtifactError` for a file that is damaged or exceeds a limit.
    """

    def __init__(self) -> None:
        self._remote = Remote("deploy.support.onnx_worker:OnnxWorker", name="ONNX")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.close()

    def examine(self, path: Path) -> None:
        """Check that a file can be read: its size, its texts, every tensor in it, and which node reads what."""
        self._call("examine", path)

    def outline(self, path: Path) -> dict[str, Any]:
        """`examine` a file; return its external files, inputs, outputs and precision, as plain values."""
        return self._call("outline", path)

    def validate(self, path: Path) -> None:
        """Check a file against the ONNX specification."""
        self._call("validate", path)

    def costs(self, path: Path, sizes: Mapping[str, int]) -> Costs:
        """Count operations and bytes; see `deploy.support.onnx_costs.costs`."""
        return from_plain(Costs, self._call("costs", path, sizes=dict(sizes)))

    def describe(self, path: Path, **arguments: Any) -> dict[str, Any]:
        """Return what `deploy.tools.inspect` reports of a graph, as plain values."""
        return self._call("describe", path, **arguments)

    def _call(self, method: str, path: Path, **arguments: Any) -> dict[str, Any]:
        seconds = limits().onnx_open_seconds
        try:
            return self._remote.call(method, timeout_s=seconds, path=str(path), **arguments)[0]
        except BackendCrashedError as exc:
            slow = self._remote.timed_out
            limit = "onnx_open_seconds" if slow else "onnx_memory_bytes"
            what = f"reading it took more than {seconds} s" if slow else exc.message.rstrip(".")
            raise ArtifactError(f"{path}: {what}.", how_to_raise(limit)) from exc


def examine(artifacts: Iterable[Artifact]) -> None:
    """Examine the ONNX files among some artifacts in a child process; see `OnnxChild.examine`.

    Raises:
        ArtifactError: a file is damaged, exceeds a limit, or has external data outside its folder.
    """
    paths = [artifact.path for artifact in artifacts if artifact.manifest.format == ONNX]
    if paths:
        with OnnxChild() as child:
            for path in paths:
                child.examine(path)
