"""The one interface of everything that runs a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from typing_extensions import Self

from deploy.core.tensors import TensorSpec

Feeds = Mapping[str, NDArray[Any]]
Fetches = dict[str, NDArray[Any]]


class Runner(ABC):
    """An open artifact, ready to run; a context manager that frees what it holds.

    Attributes:
        inputs: what it takes, in order.
        outputs: what it gives, in order; shapes may be unknown (empty) where the backend does not say.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, feeds: Feeds) -> Fetches:
        """Run once: arrays by input name in, arrays by output name out.

        Raises:
            BackendError: the runtime refused the feeds or failed.
        """

    def bind(self, feeds: Feeds) -> None:
        """Lay arrays by input name where `launch` finds them; not part of what is timed.

        Raises:
            BackendError: they do not fit.
        """
        self._bound: Feeds = feeds

    def launch(self) -> None:
        """Begin a run of what was bound."""
        self._given = self.run(self._bound)

    def synchronize(self) -> None:  # noqa: B027  (most backends are done when `launch` returns)
        """Wait until what was launched is done."""

    def fetch(self) -> Fetches:
        """Outputs of what was launched last, as `run` gives them."""
        return self._given

    def close(self) -> None:  # noqa: B027  (freeing nothing is a valid way to close)
        """Free what is held; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
