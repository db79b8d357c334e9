"""Metrics of a server, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(name, text, ["model"], registry=registry, buckets=buckets)

        self._requests = Counter(
            "deploy_requests", "Inference requests by status.", ["model", "status"], registry=registry
        )
        self._samples = Counter("deploy_samples", "Samples that were run.", ["model"], registry=registry)
        self._queue = Gauge("deploy_queue_samples", "Samples in the queue.", ["model"], registry=registry)
        self._batch = histogram("deploy_batch_samples", "Samples per batch.", _SIZES)
        self._waited = histogram("deploy_waiting_seconds", "Time from a request's arrival to the start of its batch.")
        self._ran = histogram("deploy_run_seconds", "Run time of a batch.")
        self._total = histogram("deploy_request_seconds", "Time from a request's headers to its complete response.")
        self._refusals = Counter(
            "deploy_refused_connections", "Requests that were refused before they were complete.", ["status"],
            registry=registry,
        )  # fmt: skip
        self.answered = 0
        self.refused = 0

    def request(self, model: str, status: int, seconds: float) -> None:
        """Count a finished request: its HTTP status and its total time."""
        self._requests.labels(model, str(status)).inc()
        if status == 200:
            self.answered += 1
            self._total.labels(model).observe(seconds)
        else:
            self.refused += 1

    def refuse(self, status: int) -> None:
        """Count a request that was refused before it was complete."""
        self._refusals.labels(str(status)).inc()
        self.refused += 1

    def batch(self, model: str, samples: int, ran_s: float, waited_s: list[float]) -> None:
        """Count a batch: its samples, its run time, and the time each of its requests waited."""
        self._samples.labels(model).inc(samples)
        self._batch.labels(model).observe(samples)
        self._ran.labels(model).observe(ran_s)
        waited = self._waited.labels(model)
        for seconds in waited_s:
            waited.observe(seconds)

    def text(self, queued: dict[str, int]) -> bytes:
        """Return all metrics."""
        for model, samples in queued.items():
            self._queue.labels(model).set(samples)
        return generate_latest(self.registry)
