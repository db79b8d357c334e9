"""Processes that take turns: what interferes with one of them for longer than a turn interferes with all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deploy.bench.cells import PlannedCell
from deploy.bench.process import BenchProcess
from deploy.core.errors import DeployError
from deploy.parity.probes import probes_at

TURN_S = 0.03
TURN_CALLS = 3
"""A turn lasts at least this many seconds and calls."""

MIN_TURNS = 5
"""Every process has at least this many turns."""

FLAGS_IGNORED = ("others", "stolen")
"""Kinds of interference that mean nothing over one turn: the kernel counts them in ticks of 10 ms."""

Opener = Callable[[], BenchProcess]
"""Starts a process that begins to open what is timed."""


def opener(plan: PlannedCell, seed: int, *, python: Path | None = None) -> Opener:
    """Return what starts a process for a cell, with another interpreter than this one if it is given."""
    feeds = probes_at(plan.inputs, plan.cell.sizes, seed=seed)[0].feeds

    def start() -> BenchProcess:
        process = BenchProcess(plan.backend.runner, plan.cell.threads, python=python)
        process.submit_open(feeds, path=plan.path, model=plan.model, options=plan.options)
        return process

    return start


@dataclass(slots=True)
class Turns:
    """What was measured.

    Attributes:
        medians: median nanoseconds of each turn, by index of the process; in equal turns of all processes.
        failures: why a process could not be timed, by its index.
        flags: interference seen, by kind.
    """

    medians: dict[int, list[float]] = field(default_factory=dict)
    failures: dict[int, DeployError] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)


def take_turns(openers: Sequence[Opener], order: Sequence[int], seconds: float, *, warm_s: float = 3.0) -> Turns:
    """Start processes in an order, and time them in turns; the order is reversed with every turn.

    ``seconds`` is how long the turns of all processes take together, at least; ``warm_s`` how long each warms up, at
    most.
    """
    found = Turns()
    with ExitStack() as stack:
        processes = {index: stack.enter_context(openers[index]()) for index in order}
        for index, process in list(processes.items()):
            try:
                process.opened()
                process.warm(warm_s)
            except DeployError as exc:
                found.failures[index] = exc
                del processes[index]
        present = list(processes)
        end = time.perf_counter() + seconds
        turns = 0
        while present and (turns < MIN_TURNS or time.perf_counter() < end):
            present.reverse()
            for index in list(present):
                try:
                    timing, samples = processes[index].time(TURN_S, min_calls=TURN_CALLS)
                except DeployError as exc:
                    found.failures[index] = exc
                    present.remove(index)
                    continue
                found.medians.setdefault(index, []).append(float(np.median(samples)))
                flags = timing["interference"]["flags"]
                found.flags.update({kind: text for kind, text in flags.items() if kind not in FLAGS_IGNORED})
            turns += 1
    for index in found.failures:
        found.medians.pop(index, None)
    return found
