"""A sweep of a thousand models on 1, 10 and 100 nodes, simulated: the schedule of ``deploy sweep``, and no model.

    python -m benchmarks.sweep_simulation [--models 1000] [--seeds 5]

1,000 models × 4 backends (two of them also in eight bits) × 3 kinds of machines: an export, two quantizations, an
evaluation and three timings a model. The very `deploy.sweeps.schedule` that sweeps are run by places them; a clock that
jumps from end to end stands for the work. What tasks take is drawn log-normal about the medians that
results/sweep.json has of them (sigma 0.8 between models); the schedule knows the draw with an error of its own (sigma
0.3), as it knows earlier records. A node of n has 8 cores; with one node it is of all three kinds.

The lower bound that nothing can beat: the longest chain of a model; the timings of one kind over the nodes of that
kind; all work over all cores, where a timing takes a whole node. Results go to results/sweep_simulation.json.
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

from benchmarks._common import RESULTS, write
from deploy.sweeps.executor import Node
from deploy.sweeps.schedule import Schedule
from deploy.sweeps.task import Task

NODES = (1, 10, 100)
KINDS = ("cpu", "gpu-a", "gpu-b")
CORES = 8
BETWEEN_MODELS, OF_ESTIMATES = 0.8, 0.3
"""Standard deviations of logarithms."""


def main() -> None:
    """Simulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    medians = _medians(RESULTS / "sweep.json")
    rows: list[dict[str, Any]] = []
    for count in NODES:
        for informed in (True, False):
            found = [simulate(options.models, count, seed, medians, informed=informed) for seed in range(options.seeds)]
            row: dict[str, Any] = {"nodes": count, "order": "longest way first" if informed else "without estimates"}
            for name in ("hours", "over_bound", "schedule_seconds"):
                values = [item[name] for item in found]
                row[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
            row["bound_by"] = found[0]["bound_by"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    write(
        "sweep_simulation",
        {"models": options.models, "seeds": options.seeds, "cores": CORES, "medians_s": medians, "rows": rows},
    )


def _medians(path: Path) -> dict[str, float]:
    """Seconds of a task of each kind, as they were measured."""
    medians: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["task_seconds"]
    return medians


def tasks_of(
    models: int, seed: int, medians: Mapping[str, float], *, informed: bool
) -> tuple[list[Task], dict[str, float]]:
    """The tasks of a sweep, and what each takes in seconds."""
    rng = random.Random(seed)
    tasks: list[Task] = []
    takes: dict[str, float] = {}

    def add(name: str, kind: str, scale: float, **more: Any) -> str:
        takes[name] = medians[kind] * scale
        known = takes[name] * rng.lognormvariate(0, OF_ESTIMATES) if informed else None
        tasks.append(Task(name=name, kind=kind, group=name.split()[1], work={}, seconds=known, **more))
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
    """Nodes, their kinds in turn; a single one is of every kind."""
    if count == 1:
        return [Node(name="n0", machines=frozenset(KINDS), cpus=CORES)]
    return [
        Node(name=f"n{number}", machines=frozenset({KINDS[number % len(KINDS)]}), cpus=CORES) for number in range(count)
    ]


def bound(tasks: Sequence[Task], takes: Mapping[str, float], nodes: Sequence[Node]) -> tuple[float, str]:
    """Seconds that no schedule can beat, and what they are made of."""
    chain: dict[str, float] = {}
    for task in tasks:
        before = max((chain[name] for name in (*task.needs, *task.after)), default=0.0)
        chain[task.name] = before + takes[task.name]
    candidates = {"the longest chain of a model": max(chain.values())}
    cores = 0.0
    for task in tasks:
        cores += takes[task.name] * (CORES if task.exclusive else task.cpus)
    candidates["all work over all cores"] = cores / (CORES * len(nodes))
    for kind in KINDS:
        those = sum(takes[task.name] for task in tasks if task.machine == kind)
        candidates[f"the timings on {kind}"] = those / sum(kind in node.machines for node in nodes)
    name = max(candidates, key=lambda item: candidates[item])
    return candidates[name], name


def simulate(models: int, count: int, seed: int, medians: Mapping[str, float], *, informed: bool) -> dict[str, Any]:
    """One sweep, from its first task to the end of its last."""
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
    least, why = bound(tasks, takes, nodes)
    return {"hours": clock / 3600, "over_bound": clock / least, "bound_by": why, "schedule_seconds": spent}


if __name__ == "__main__":
    main()
