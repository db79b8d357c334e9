"""The schedule: dependencies, exclusive tasks, kinds of machines, lost nodes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.sweeps.executor import Node
from deploy.sweeps.schedule import Schedule, share
from deploy.sweeps.task import Task

TWO = [Node(name="a", machines=frozenset({"x"}), cpus=2), Node(name="b", machines=frozenset({"y"}), cpus=4, gpus=1)]


def _task(name: str, **more: object) -> Task:
    return Task(name=name, kind="export", group=name[0], work={}, **more)  # type: ignore[arg-type]


def _names(started: Sequence[tuple[Task, Node]]) -> set[tuple[str, str]]:
    return {(task.name, node.name) for task, node in started}


def test_the_longest_chain_starts_first() -> None:
    tasks = [_task("short", seconds=5.0), _task("first", seconds=1.0), _task("second", seconds=9.0, needs=("first",))]
    one = [Node(name="a")]
    schedule = Schedule(tasks)
    assert _names(schedule.take(one)) == {("first", "a")}
    schedule.ended("first", one[0], succeeded=True)
    assert _names(schedule.take(one)) == {("second", "a")}


def test_an_exclusive_task_runs_alone_and_does_not_starve() -> None:
    tasks = [_task("t", exclusive=True, cpus=0, seconds=99.0), *(_task(f"n{i}", seconds=1.0) for i in range(9))]
    node = Node(name="a", cpus=2)
    schedule = Schedule(tasks)
    assert _names(schedule.take([node])) == {("t", "a")}
    assert schedule.take([node]) == []
    schedule.ended("t", node, succeeded=True)
    assert len(schedule.take([node])) == 2
    late = Schedule(
        [_task("m", seconds=5.0), _task("n", seconds=4.0), _task("t", exclusive=True, seconds=99.0, needs=("m",))]
    )
    assert _names(late.take([node])) == {("m", "a"), ("n", "a")}
    late.ended("m", node, succeeded=True)
    assert late.take([node]) == [], "the free core is reserved for the exclusive task"
    late.ended("n", node, succeeded=True)
    assert _names(late.take([node])) == {("t", "a")}


def test_kinds_of_machines_and_gpus() -> None:
    tasks = [_task("x", machine="x"), _task("g", gpus=1), _task("h", gpus=1), _task("z", machine="z")]
    schedule = Schedule(tasks)
    taken = _names(schedule.take(TWO))
    assert ("x", "a") in taken and len(taken) == 2 and {name for name, _ in taken} <= {"x", "g", "h"}
    assert [task.name for task in schedule.unplaceable(TWO)] == ["z"]


def test_a_failure_skips_what_needs_it_and_not_what_only_waits() -> None:
    tasks = [_task("a"), _task("b", needs=("a",)), _task("c", needs=("b",)), _task("d", after=("a", "b"))]
    node = Node(name="n", cpus=4)
    schedule = Schedule(tasks)
    schedule.take([node])
    assert [task.name for task in schedule.ended("a", node, succeeded=False)] == ["b", "c"]
    assert _names(schedule.take([node])) == {("d", "n")}
    schedule.ended("d", node, succeeded=True)
    assert schedule.finished


def test_a_lost_task_runs_on_another_node() -> None:
    schedule = Schedule([_task("t"), _task("u")])
    nodes = [Node(name="a"), Node(name="b")]
    taken = {task.name: node for task, node in schedule.take(nodes)}
    schedule.lost("t")
    (again,) = schedule.take([node for node in nodes if node is not taken["t"]]) or [None]
    assert again is None, "the other node is busy"
    schedule.ended("u", taken["u"], succeeded=True)
    assert _names(schedule.take(nodes)) == {("t", taken["u"].name)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_random_tasks_and_nodes(seed: int) -> None:
    rng = random.Random(seed)
    kinds = ["x", "y"]
    tasks: list[Task] = []
    for number in range(rng.randrange(1, 30)):
        before = [task.name for task in rng.sample(tasks, min(len(tasks), rng.randrange(3)))]
        cut = rng.randrange(len(before) + 1)
        tasks.append(
            _task(
                f"t{number}",
                needs=tuple(before[:cut]),
                after=tuple(before[cut:]),
                machine=rng.choice([None, *kinds]),
                exclusive=rng.random() < 0.3,
                cpus=rng.randrange(3),
                gpus=int(rng.random() < 0.2),
                seconds=rng.choice([None, rng.random() * 100]),
            )
        )
    nodes = [
        Node(name=f"n{i}", machines=frozenset(rng.sample(kinds, 1)), cpus=rng.randrange(1, 5), gpus=1) for i in range(4)
    ]
    nodes += [Node(name="both", machines=frozenset(kinds), cpus=3, gpus=2)]
    schedule = Schedule(tasks)
    running: dict[str, Node] = {}
    ended: dict[str, bool] = {}
    alive = list(nodes)
    while not schedule.finished:
        for task, node in schedule.take(alive):
            assert task.name not in ended and task.name not in running
            assert all(ended[name] for name in task.needs) and all(name in ended for name in task.after)
            assert task.machine is None or task.machine in node.machines
            running[task.name] = node
        assert running, "a task is ready, every node is idle, and nothing starts"
        for node in alive:
            here = [schedule.tasks[name] for name, where in running.items() if where is node]
            assert len(here) == 1 or not any(task.exclusive for task in here)
            assert sum(share(task, node) for task in here) <= node.cpus and sum(task.gpus for task in here) <= node.gpus
        name = rng.choice(sorted(running))
        node = running.pop(name)
        if rng.random() < 0.05 and node.name != "both":
            for other in [name, *(item for item, where in running.items() if where is node)]:
                running.pop(other, None)
                schedule.lost(other)
            alive.remove(node)
            continue
        ended[name] = rng.random() < 0.9
        for never in schedule.ended(name, node, succeeded=ended[name]):
            ended[never.name] = False
    assert set(ended) == {task.name for task in tasks}
