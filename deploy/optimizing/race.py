"""Time candidates in rounds until the fastest is known."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.bench.elimination import KEEP_ROUNDS, LOOKS, Elimination
from deploy.bench.sequential import paired
from deploy.bench.statistics import Interval, geometric
from deploy.bench.turns import opener, take_turns
from deploy.core.memory import available_bytes
from deploy.core.progress import Progress
from deploy.optimizing.candidates import Configuration

TOGETHER = 6
"""Largest number of processes that take turns."""

TURNS_S = 0.2
"""Seconds of turns per process and round, at least."""

WARM_S = 1.0
"""Seconds that a process warms up, at most: the turns of the others follow, and medians ignore a first slow turn."""

RUNTIME_BYTES, COPIES = 700_000_000, 4
"""Memory that a process is expected to take: a fixed part, and a multiple of its file."""


@dataclass(slots=True)
class Race:
    """What a race has found.

    Attributes:
        medians: median nanoseconds of a call in each round, by candidate.
        failures: why a candidate could not be timed.
        flags: interference seen, by kind.
    """

    elimination: Elimination
    medians: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)

    def latency(self, name: str) -> Interval:
        """Return the latency of a call in nanoseconds, with its 95 % interval over processes."""
        return geometric(self.medians[name])


def race(
    candidates: Sequence[Configuration],
    *,
    keep: Sequence[str],
    keep_rounds: int = KEEP_ROUNDS,
    margin: float,
    max_latency_ms: float | None = None,
    seed: int,
    deadline: float,
    progress: Progress,
) -> Race:
    """Time candidates until one is left, the rest are shown to be equal, or the time is up.

    The time of a candidate is that of a sample: batches of several samples are compared by what each sample takes.
    A candidate that fails in the middle leaves with the reason.

    Args:
        candidates: in order of preference among equals.
        keep: names of those that stay for ``keep_rounds`` rounds even if they are slower, for an interval of use.
        keep_rounds: the number of these rounds.
        max_latency_ms: a candidate whose calls take longer leaves at the next look, unless all do.
        margin: share below which a difference counts as none.
        seed: seed of the order.
        deadline: no round starts after this value of ``time.perf_counter``; the rounds before the first look do.
        progress: receives progress messages.
    """
    by_name = {item.name: item for item in candidates}
    found = Race(Elimination(list(by_name), margin=margin, keep=keep, keep_rounds=keep_rounds))
    state, order = found.elimination, random.Random(seed)
    while state.left and not state.over:
        if state.rounds >= LOOKS[0] and time.perf_counter() > deadline:
            break
        left = f"{len(state.left)} candidate{'s' * (len(state.left) > 1)}"
        progress.advance(state.rounds, LOOKS[-1], f"round {state.rounds + 1} of at most {LOOKS[-1]}, {left}")
        _round([by_name[name] for name in state.left], found, order, seed)
        if max_latency_ms is not None and state.rounds in LOOKS:
            _drop_late(found, max_latency_ms)
        state.look()
    return found


def _drop_late(found: Race, max_latency_ms: float) -> None:
    state = found.elimination
    late = [name for name in state.left if found.latency(name).value > max_latency_ms * 1e6]
    for name in late if len(late) < len(state.left) else ():
        state.fail(name)
        found.failures[name] = f"{found.latency(name).value / 1e6:.3g} ms, above {max_latency_ms:g} ms"


def _round(candidates: Sequence[Configuration], found: Race, order: random.Random, seed: int) -> None:
    """Time every candidate once; if one fails, it leaves, and the round is repeated without it."""
    state = found.elimination
    reference = state.leader() if state.rounds else candidates[0].name
    head = next(item for item in candidates if item.name == reference)
    others = [item for item in candidates if item is not head]
    order.shuffle(others)
    together = _together(candidates)
    ratios, medians = {reference: 1.0}, {}
    for start in range(0, max(len(others), 1), together - 1):
        heat = [head, *others[start : start + together - 1]]
        lanes = order.sample(range(len(heat)), len(heat))
        turns = take_turns([opener(item.plan, seed) for item in heat], lanes, TURNS_S * len(heat), warm_s=WARM_S)
        found.flags.update(turns.flags)
        for index, failure in turns.failures.items():
            state.fail(heat[index].name)
            found.failures[heat[index].name] = failure.message
        if 0 in turns.failures:
            return
        for index, times in turns.medians.items():
            item = heat[index]
            medians[item.name] = float(np.median(times))
            if index:
                samples = item.plan.cell.batch / head.plan.cell.batch
                ratios[item.name] = paired(turns.medians[0], times) / samples
    for name, median in medians.items():
        found.medians.setdefault(name, []).append(median)
    state.add(ratios)


def _together(candidates: Sequence[Configuration]) -> int:
    """Return how many processes fit into memory at once; at least two."""
    largest = max(int(item.plan.about.get("bytes") or 0) for item in candidates)
    free = available_bytes()
    if free is None:
        return TOGETHER
    return max(2, min(TOGETHER, int(0.6 * free) // (RUNTIME_BYTES + COPIES * largest)))
