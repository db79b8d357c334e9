"""Simulate a sweep of a thousand models on 1, 10 and 100 nodes with the schedule of ``deploy sweep``.

    python -m benchmarks.sweep_simulation [--models 1000] [--seeds 5]

1,000 models × 4 backends (two of them also in INT8) × 3 kinds of machines: one export, two quantizations, one
evaluation and three benchmarks per model. `deploy.sweeps.schedule` places the tasks; a discrete-event clock replaces
the work. Durations are log-normal around the medians in results/sweep.json (sigma 0.8 between models); the schedule
sees them with an error (sigma 0.3), like estimates from earlier records. Each node has 8 cores; a single node belongs
to all three kinds.

The lower bound of the makespan is the maximum of: the longest chain of a model; the benchmarks on one kind of machine
divided by the nodes of that kind; all work divided by all cores, where a benchmark takes a whole node. Writes
results/sweep_simulation.json.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write
from deploy.sweeps.executor import Node
from deploy.sweeps.schedule import Schedule
from deploy.sweeps.task import Task

NODES = (1, 10, 100)
KINDS = ("cpu", "gpu-a", "gpu-b")
CORES = 8
BETWEEN_MODELS, OF_ESTIMATES = 0.8, 0.3
"""Standard deviations of the logarithms of durations and of their estimates."""


def main() -> None:
    """Simulate all numbers of nodes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    medians = _medians(RESULTS / "sweep.json")
    rows: list[dict[str, Any]] = []
    for count in NODES:
        for informed in (True, False):
            runs = [simulate(options.models, count, seed, medians, informed=informed) for seed in range(options.seeds)]
            row: dict[str, Any] = {"nodes": count, "order": "critical path" if informed else "without estimates"}
            for name in ("hours", "over_bound", "schedule_seconds"):
                values = [item[name] for item in runs]
                row[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            row["bound_by"] = runs[0]["bound_by"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    write(
        "sweep_simulation",
        {"models": options.models, "seeds": options.seeds, "cores": CORES, "medians_s": medians, "rows": rows},
    )


def _medians(path: Path) -> dict[str, float]:
    """Return the measured median seconds of a task of each kind."""
    medians: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["task_seconds"]
    return medians


def tasks_of(
    models: int, seed: int, medians: Mapping[str, float], *, informed: bool
) -> tuple[list[Task], dict[str, float]]:
    """Return the tasks of a sweep, and the seconds that each takes."""
    rng = random.Random(seed)
    tasks: list[Task] = []
    takes: dict[str, float] = {}

    def add(name: str, kind: str, scale: float, **more: Any) -> str:
        takes[name] = medians[kind] * scale
        estimate = takes[name] * rng.lognormvariate(0, OF_ESTIMATES) if informed else None
        tasks.append(Task(name=name, kind=kind, group=name.split()[1], work={}, seconds=estimate, **more))
        return name

    for number in range(models):
        scale = rng.lognormvariate(0, BETWEEN_MODELS)
        export = add(f"export m{number}", "export", scale)
        first = add(f"quantize m{number} a", "quantize", scale, needs=(export,))
        second = add(f"quantize m{number} b", "quantize", scale, needs=(export,), after=(first,))
        add(f"evaluate m{number}", "evaluate", scale, needs=(export,), after=(first, second))
        for kind in KINDS:
            made = (export, first, second)
            add(f"bench m{number} {kind}", "bench", scale, after=made, machine=kind, exclusive=True, cpus=0)
    return tasks, takes


def nodes_of(count: int) -> list[Node]:
    """Return nodes with alternating kinds; a single node belongs to every kind."""
    if count == 1:
        return [Node(name="n0", machines=frozenset(KINDS), cpus=CORES)]
    return [
        Node(name=f"n{number}", machines=frozenset({KINDS[number % len(KINDS)]}), cpus=CORES) for number in range(count)
    ]


def bound(tasks: Sequence[Task], takes: Mapping[str, float], nodes: Sequence[Node]) -> tuple[float, str]:
    """Return the lower bound of the makespan in seconds, and what determines it."""
    chain: dict[str, float] = {}
    for task in tasks:
        before = max((chain[name] for name in (*task.needs, *task.after)), default=0.0)
        chain[task.name] = before + takes[task.name]
    candidates = {"the longest chain of a model": max(chain.values())}
    cores = 0.0
    for task in tasks:
        cores += takes[task.name] * (CORES if task.exclusive else task.cpus)
    candidates["all work divided by all cores"] = cores / (CORES * len(nodes))
    for kind in KINDS:
        seconds = sum(takes[task.name] for task in tasks if task.machine == kind)
        candidates[f"the benchmarks on {kind}"] = seconds / sum(kind in node.machines for node in nodes)
    name = max(candidates, key=lambda item: candidates[item])
    return candidates[name], name


def simulate(models: int, count: int, seed: int, medians: Mapping[str, float], *, informed: bool) -> dict[str, Any]:
    """Simulate one sweep.

    Returns:
        ``hours`` of the makespan, ``over_bound``, its ratio to the lower bound, ``bound_by``, and ``schedule_seconds``.
    """
    tasks, takes = tasks_of(models, seed, medians, informed=informed)
    nodes = nodes_of(count)
    by_name = {node.name: node for node in nodes}
    began = time.perf_counter()
    schedule = Schedule(tasks)
    running: list[tuple[float, str, str]] = []
    clock = 0.0
    while not schedule.finished:
        for task, node in schedule.take(nodes):
            heapq.heappush(running, (clock + takes[task.name], task.name, node.name))
        clock, name, where = heapq.heappop(running)
        schedule.ended(name, by_name[where], succeeded=True)
    spent = time.perf_counter() - began
    lower, reason = bound(tasks, takes, nodes)
    return {"hours": clock / 3600, "over_bound": clock / lower, "bound_by": reason, "schedule_seconds": spent}


if __name__ == "__main__":
    main()
