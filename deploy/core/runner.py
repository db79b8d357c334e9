"""The interface of everything that runs a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from numpy.typing import NDArray
from typing_extensions import Self

from deploy.core.tensors import TensorSpec

Feeds = Mapping[str, NDArray[Any]]
Fetches = dict[str, NDArray[Any]]


class Runner(ABC):
    """An open artifact, ready to run; a context manager that frees its resources.

    Attributes:
        inputs: specifications of the inputs, in order.
        outputs: specifications of the outputs, in order; shapes are empty where the backend does not report them.
        gpu: index of the GPU that runs it, in the driver's order; None on a CPU.
        nodes: number of nodes of the graph by what runs them, where the backend reports it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    gpu: int | None = None
    nodes: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def run(self, feeds: Feeds) -> Fetches:
        """Run once, from arrays by input name to arrays by output name.

        Raises:
            BackendError: the runtime refused the inputs or failed.
        """

    def bind(self, feeds: Feeds) -> None:
        """Copy arrays by input name to where `launch` reads them; not part of the measured latency.

        Raises:
            BackendError: the runtime refused the inputs.
        """
        self._bound: Feeds = feeds

    def launch(self) -> None:
        """Start a run on the bound inputs."""
        self._fetched = self.run(self._bound)

    def synchronize(self) -> None:  # noqa: B027  (most runs are complete when `launch` returns)
        """Wait for the run that `launch` started."""

    def fetch(self) -> Fetches:
        """Return the outputs of the last run, arrays by output name."""
        return self._fetched

    def close(self) -> None:  # noqa: B027  (many backends have nothing to free)
        """Free all resources; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
