"""Batches made of requests: whatever waits when a runner is free goes in together, up to a size and an age.

Requests are taken in order. The queue is bounded in samples, and a request that waited too long is refused, not run.
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
from deploy.serving.refusal import Refusal

STOPPING = "the server is stopping."


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchingLimits:
    """What bounds waiting; sizes in samples, times in seconds.

    Attributes:
        max_batch: samples of a batch.
        max_delay_s: how long a request waits for others while a runner is free.
        queue: samples that wait; more are refused at once.
        timeout_s: a request that waited longer is refused.
    """

    max_batch: int = 32
    max_delay_s: float = 0.0
    queue: int = 1024
    timeout_s: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a request gets; times in seconds.

    Attributes:
        fetches: arrays by output name, of this request's samples only.
        waited_s: from its arrival until its batch began.
        ran_s: of the whole batch.
        batch: samples that ran together.
    """

    fetches: Fetches
    waited_s: float
    ran_s: float
    batch: int


Observer = Callable[[int, float, list[float]], None]
"""Told of every batch: samples, seconds it ran, seconds each of its requests waited."""


@dataclass(eq=False, slots=True)
class _Waiting:
    feeds: Feeds
    samples: int
    shape: tuple[object, ...]
    arrived: float
    future: asyncio.Future[Answer]


class Batcher:
    """Runs requests on runners, a thread each; to be used from one event loop.

    Args:
        runners: equal ones; closed by `close`.
        batched: requests may be put together along their first dimension.
        limits: of waiting.
        observe: called in a runner's thread.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        *,
        batched: bool,
        limits: BatchingLimits,
        observe: Observer = lambda samples, ran, waited: None,
    ) -> None:
        self.limits = limits
        self.batched = batched
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._samples = 0
        self._changed = threading.Condition()
        self._closing = False
        self._delay_s = limits.max_delay_s
        self._runners = list(runners)
        self._threads = [
            threading.Thread(target=self._work, args=(runner,), name=f"runner-{number}", daemon=True)
            for number, runner in enumerate(self._runners)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Samples in the queue."""
        return self._samples

    @property
    def alive(self) -> bool:
        """Whether every runner's thread is there to answer."""
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    async def answer(self, feeds: Feeds, samples: int) -> Answer:
        """Wait for the answer to one request.

        Args:
            feeds: arrays by input name, the shapes as the runner takes them.
            samples: how many there are in it.

        Raises:
            Refusal: the queue is full, it waited too long, it is larger than a batch, or the server stops.
            DeployError: the runner failed on this very request.
        """
        if self.batched and samples > self.limits.max_batch:
            raise Refusal(400, f"{samples} samples in a request: the most is {self.limits.max_batch}.")
        loop = asyncio.get_running_loop()
        shape = tuple((name, value.shape[1:]) for name, value in feeds.items())
        item = _Waiting(feeds, samples, shape, time.monotonic(), loop.create_future())
        with self._changed:
            if self._closing:
                raise Refusal(503, STOPPING)
            if self._samples + samples > self.limits.queue:
                raise Refusal(429, f"{self._samples} samples wait already: the most is {self.limits.queue}.", 1)
            self._queue.append(item)
            self._samples += samples
            self._changed.notify()
        return await item.future

    def hurry(self) -> None:
        """From now on no request waits for others."""
        with self._changed:
            self._delay_s = 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Answer what waits, then free the runners."""
        with self._changed:
            self._closing = True
        self.hurry()
        for thread in self._threads:
            thread.join()
        for runner in self._runners:
            runner.close()

    def _work(self, runner: Runner) -> None:
        while group := self._take():
            self._answer(runner, group)

    def _take(self) -> list[_Waiting]:
        """The next batch, as soon as it is full or its first request is old enough; nothing when closed."""
        with self._changed:
            while True:
                self._drop()
                if self._queue:
                    group = self._together()
                    patience = self._queue[0].arrived + self._delay_s - time.monotonic()
                    if patience <= 0 or not self.batched or len(group) < len(self._queue):
                        break
                    if sum(item.samples for item in group) >= self.limits.max_batch:
                        break
                    self._changed.wait(patience)
                elif self._closing:
                    return []
                else:
                    self._changed.wait()
            for item in group:
                self._queue.popleft()
                self._samples -= item.samples
            return group

    def _together(self) -> list[_Waiting]:
        """The requests at the head that can run as one batch; one that does not fit ends it, for order is kept."""
        group: list[_Waiting] = []
        room = self.limits.max_batch
        for item in self._queue:
            if group and (not self.batched or item.samples > room or item.shape != group[0].shape):
                break
            group.append(item)
            room -= item.samples
        return group

    def _drop(self) -> None:
        """Refuse at the head what waited too long; forget whose client has gone."""
        oldest = time.monotonic() - self.limits.timeout_s
        while self._queue and (self._queue[0].future.cancelled() or self._queue[0].arrived < oldest):
            item = self._queue.popleft()
            self._samples -= item.samples
            late = Refusal(503, f"waited longer than {self.limits.timeout_s:g} s.", 1)
            _deliver([(item, late)])

    def _answer(self, runner: Runner, group: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            fetches = runner.run(_joined(group))
        except Exception as exc:
            if len(group) > 1:  # one of them may be to blame: the others are answered
                for item in group:
                    self._answer(runner, [item])
                return
            _deliver([(group[0], exc if isinstance(exc, DeployError) else DeployError(f"{type(exc).__name__}: {exc}"))])
            return
        ran = time.monotonic() - began
        size = sum(item.samples for item in group)
        waited = [began - item.arrived for item in group]
        delivered: list[tuple[_Waiting, Answer | Exception]] = []
        start = 0
        for item, seconds in zip(group, waited, strict=True):
            stop = start + item.samples
            own = fetches if len(group) == 1 else {name: value[start:stop] for name, value in fetches.items()}
            delivered.append((item, Answer(fetches=own, waited_s=seconds, ran_s=ran, batch=size)))
            start = stop
        _deliver(delivered)
        self._observe(size, ran, waited)


def _joined(group: Sequence[_Waiting]) -> Feeds:
    if len(group) == 1:
        return group[0].feeds
    return {name: np.concatenate([item.feeds[name] for item in group]) for name in group[0].feeds}


def _deliver(items: Sequence[tuple[_Waiting, Answer | Exception]]) -> None:
    """Hand results to the event loop, all of a batch in one call."""

    def settle() -> None:
        for item, result in items:
            if item.future.done():
                continue
            if isinstance(result, Exception):
                item.future.set_exception(result)
            else:
                item.future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        items[0][0].future.get_loop().call_soon_threadsafe(settle)
