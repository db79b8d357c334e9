"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server; a registry of their own, so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(name, text, ["model"], registry=registry, buckets=buckets)

        self._requests = Counter(
            "deploy_requests", "Requests to infer, by status.", ["model", "status"], registry=registry
        )
        self._samples = Counter("deploy_samples", "Samples that were run.", ["model"], registry=registry)
        self._queue = Gauge("deploy_queue_samples", "Samples that wait.", ["model"], registry=registry)
        self._batch = histogram("deploy_batch_samples", "Samples of a batch.", _SIZES)
        self._waited = histogram("deploy_waiting_seconds", "From the arrival of a request until its batch began.")
        self._ran = histogram("deploy_run_seconds", "A batch in its runtime.")
        self._whole = histogram("deploy_request_seconds", "From the head of a request until its answer is written.")
        self.answered = 0
        self.refused = 0

    def request(self, model: str, status: int, seconds: float) -> None:
        """A request was answered or refused."""
        self._requests.labels(model, str(status)).inc()
        if status == 200:
            self.answered += 1
            self._whole.labels(model).observe(seconds)
        else:
            self.refused += 1

    def batch(self, model: str, samples: int, ran_s: float, waited_s: list[float]) -> None:
        """A batch was run."""
        self._samples.labels(model).inc(samples)
        self._batch.labels(model).observe(samples)
        self._ran.labels(model).observe(ran_s)
        waited = self._waited.labels(model)
        for seconds in waited_s:
            waited.observe(seconds)

    def text(self, waiting: dict[str, int]) -> bytes:
        """All of it; the queue as it is now."""
        for model, samples in waiting.items():
            self._queue.labels(model).set(samples)
        return generate_latest(self.registry)
