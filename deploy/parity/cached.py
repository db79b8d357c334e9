"""A runner that caches outputs, for a reference that many candidates are compared with."""

from __future__ import annotations

from deploy.core.runner import Feeds, Fetches, Runner


class CachedRunner(Runner):
    """A runner that runs each feeds object once and returns the same outputs afterwards."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self._cache: dict[int, tuple[Feeds, Fetches]] = {}

    def run(self, feeds: Feeds) -> Fetches:
        """Return the outputs for ``feeds``, looked up by object identity."""
        if id(feeds) not in self._cache:
            self._cache[id(feeds)] = (feeds, self.inner.run(feeds))  # a reference to feeds keeps its id from reuse
        return self._cache[id(feeds)][1]
