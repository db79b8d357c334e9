"""Dynamic batching: requests that are queued when a runner is free run together, up to a size and a delay.

Requests run in the order of their arrival. The queue's size is bounded in samples, and a request that waited too long
is rejected instead of run.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.core.errors import DeployError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.serving.options import ServeOptions
from deploy.serving.protocol import RequestError

CLOSE_S = 0.1
"""Time that a runner has to finish when its queue is closed."""
BatchResult = tuple[Fetches, float]
"""Arrays by output name for the samples of one request, and the run time of the whole batch in seconds."""


@dataclass(eq=False, slots=True)
class _QueuedRequest:
    feeds: Feeds
    samples: int
    shape: tuple[object, ...]
    arrived: float
    future: asyncio.Future[BatchResult]


class Batcher:
    """A queue of requests and the runners that serve it, one thread each; to be used from one event loop.

    Requests are concatenated along their first dimension if ``batched``. ``observe`` is called after every batch, in a
    runner's thread, with the batch's samples, its run time and the times its requests waited, in seconds.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        *,
        batched: bool,
        options: ServeOptions,
        observe: Callable[[int, float, list[float]], None],
    ) -> None:
        self.options = options
        self.batched = batched
        self._observe = observe
        self._queue: deque[_QueuedRequest] = deque()
        self.queued_samples = 0
        self._changed = threading.Condition()
        self._closing = False
        self._delay_s = options.max_delay_ms / 1000
        self._timeout_s = options.timeout_ms / 1000
        self._runners = list(runners)
        self._threads = [
            threading.Thread(target=self._work, args=(runner,), name=f"runner-{number}", daemon=True)
            for number, runner in enumerate(self._runners)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every runner's thread is running."""
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    async def run(self, feeds: Feeds, samples: int) -> BatchResult:
        """Queue one request and wait for its result: its own arrays by output name, and the run time of its batch.

        Raises:
            RequestError: the request is larger than a batch, the queue is full, the request waited too long, or the
                server is stopping.
            DeployError: the runner failed on this request.
        """
        if self.batched and samples > self.options.max_batch:
            raise RequestError(400, f"the request has {samples} samples; the maximum is {self.options.max_batch}.")
        loop = asyncio.get_running_loop()
        shape = tuple((name, value.shape[1:]) for name, value in feeds.items())
        request = _QueuedRequest(feeds, samples, shape, time.monotonic(), loop.create_future())
        with self._changed:
            if self._closing:
                raise RequestError(503, "the server is stopping.")
            if self.queued_samples + samples > self.options.queue:
                message = f"the queue is full: {self.queued_samples} of at most {self.options.queue} samples."
                raise RequestError(429, message, 1)
            self._queue.append(request)
            self.queued_samples += samples
            self._changed.notify()
        return await request.future

    def stop_delaying(self) -> None:
        """Run requests without waiting for others from now on."""
        with self._changed:
            self._delay_s = 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Run the queued requests, then close the runners, except those that are still busy."""
        with self._changed:
            self._closing = True
        self.stop_delaying()
        for thread, runner in zip(self._threads, self._runners, strict=True):
            thread.join(CLOSE_S)
            if not thread.is_alive():
                runner.close()

    def _work(self, runner: Runner) -> None:
        while batch := self._next_batch():
            self._run(runner, batch)

    def _next_batch(self) -> list[_QueuedRequest]:
        """Return the next batch once it is full or its first request waited long enough; empty when closed."""
        with self._changed:
            while True:
                self._drop_expired()
                if self._queue:
                    batch = self._collect()
                    remaining_s = self._queue[0].arrived + self._delay_s - time.monotonic()
                    if remaining_s <= 0 or not self.batched or len(batch) < len(self._queue):
                        break
                    if sum(request.samples for request in batch) >= self.options.max_batch:
                        break
                    self._changed.wait(remaining_s)
                elif self._closing:
                    return []
                else:
                    self._changed.wait()
            for request in batch:
                self._queue.popleft()
                self.queued_samples -= request.samples
            return batch

    def _collect(self) -> list[_QueuedRequest]:
        """Return the first requests that can run as one batch; the first that does not fit ends it."""
        batch: list[_QueuedRequest] = []
        free = self.options.max_batch
        for request in self._queue:
            if batch and (not self.batched or request.samples > free or request.shape != batch[0].shape):
                break
            batch.append(request)
            free -= request.samples
        return batch

    def _drop_expired(self) -> None:
        """Remove canceled requests from the head of the queue, and reject those that waited too long."""
        oldest = time.monotonic() - self._timeout_s
        while self._queue and (self._queue[0].future.cancelled() or self._queue[0].arrived < oldest):
            request = self._queue.popleft()
            self.queued_samples -= request.samples
            expired = RequestError(503, f"the request waited longer than {self._timeout_s:g} s.", 1)
            _deliver([(request, expired)])

    def _run(self, runner: Runner, batch: list[_QueuedRequest]) -> None:
        began = time.monotonic()
        try:
            feeds = batch[0].feeds
            if len(batch) > 1:
                feeds = {name: np.concatenate([request.feeds[name] for request in batch]) for name in feeds}
            fetches = runner.run(feeds)
        except Exception as exc:
            if len(batch) > 1:  # one request may cause the failure: run each alone
                for request in batch:
                    self._run(runner, [request])
                return
            _deliver([(batch[0], exc if isinstance(exc, DeployError) else DeployError(f"{type(exc).__name__}: {exc}"))])
            return
        ran_s = time.monotonic() - began
        samples = sum(request.samples for request in batch)
        results: list[tuple[_QueuedRequest, BatchResult | Exception]] = []
        start = 0
        for request in batch:
            stop = start + request.samples
            own = fetches if len(batch) == 1 else {name: value[start:stop] for name, value in fetches.items()}
            results.append((request, (own, ran_s)))
            start = stop
        _deliver(results)
        self._observe(samples, ran_s, [began - request.arrived for request in batch])


def _deliver(results: Sequence[tuple[_QueuedRequest, BatchResult | Exception]]) -> None:
    """Pass the results of a batch to the event loop in one call."""

    def settle() -> None:
        for request, result in results:
            if request.future.done():
                continue
            if isinstance(result, Exception):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed, so no client waits
        results[0][0].future.get_loop().call_soon_threadsafe(settle)
