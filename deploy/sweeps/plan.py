"""From a sweep to its tasks, and to the cells that people asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.backend import ENGINE, Backend, find_backend
from deploy.core.environment import usable_cores, version
from deploy.core.errors import UsageError
from deploy.sweeps.spec import Entry, Machine, Spec
from deploy.sweeps.task import Task

INT8, HALF = "int8", "fp16"
HERE = Machine(name="")
"""The machine of a sweep that names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCell:
    """One number that was asked for.

    Attributes:
        machine: the kind, None where the sweep names none.
        bench: the task that times it.
        maker: the task whose file it runs; None where it runs the model itself.
    """

    model: str
    precision: str
    backend: str
    batch: int
    machine: str | None
    bench: str
    maker: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPlan:
    """The tasks, each after those it waits for, and the cells."""

    tasks: tuple[Task, ...]
    cells: tuple[SweepCell, ...]


def plan(spec: Spec, backends: Sequence[str], *, again: bool) -> SweepPlan:
    """The tasks of a sweep.

    Args:
        spec: what was asked for.
        backends: those of the sweep, where a kind of machine has none of its own.
        again: do what was done before.

    Raises:
        UsageError: TensorRT on several kinds of machines, whose engines would overwrite each other.
    """
    machines = spec.machines or (HERE,)
    own = {machine.name: machine.backends or tuple(backends) for machine in machines}
    builders = [machine for machine in machines if any(_builds(name) for name in own[machine.name])]
    if len(builders) > 1:
        names = " and ".join(machine.name for machine in builders)
        raise UsageError(
            f"tensorrt on {names}: an engine is of one GPU, and both would write the same files.",
            "sweep them one after the other, each with --artifacts of its own",
        )
    tasks: list[Task] = []
    cells: list[SweepCell] = []
    for entry in spec.models:
        makers = dict(_makers(spec, entry, own, builders[0] if builders else None, again))
        tasks += makers.values()
        if spec.data is not None:
            tasks.append(_evaluation(spec, entry, list(makers.values()), again))
        for machine in machines:
            bench = _bench(spec, entry, machine, own[machine.name], makers, again)
            tasks.append(bench)
            cells += _cells(spec, entry, machine, own[machine.name], makers, bench)
    return SweepPlan(tasks=tuple(tasks), cells=tuple(cells))


Made = tuple[str, str | None]
"""Precision and target of a file."""


def _common(spec: Spec, entry: Entry, again: bool) -> dict[str, Any]:
    given = dataclasses.asdict(entry)
    return {
        "request": {**given, "seed": spec.seed if entry.seed is None else entry.seed},
        "model": entry.title,
        "again": again,
        "deploy": version("deploy-toolkit"),
    }


def _makers(
    spec: Spec, entry: Entry, own: Mapping[str, Sequence[str]], builder: Machine | None, again: bool
) -> Iterator[tuple[Made, Task]]:
    common = _common(spec, entry, again)
    runtimes = [find_backend(name) for name in sorted({name for names in own.values() for name in names})]
    runtimes = [item for item in runtimes if item.runs_files and ENGINE not in item.formats]
    float32 = f"export {entry.title} fp32"

    def task(name: str, kind: str, **more: Any) -> Task:
        work = {"kind": kind, **common, **more.pop("work")}
        return Task(name=name, kind=kind, group=entry.title, work=work, **more)

    yield ("fp32", None), task(float32, "export", work={"precision": "fp32"})
    if HALF in spec.precisions and runtimes:
        yield (HALF, None), task(f"export {entry.title} {HALF}", "export", work={"precision": HALF})
    calibration = {"calib": spec.calib, "samples": spec.samples}
    before: tuple[str, ...] = ()
    for target in (
        sorted({target for item in runtimes for target in item.targets[:1]}) if INT8 in spec.precisions else ()
    ):
        name = f"quantize {entry.title} for {target}"
        work = {"target": target, **calibration}
        # one after the other: the first one's ranges are the others'
        yield (INT8, target), task(name, "quantize", work=work, needs=(float32,), after=before)
        before = (name,)
    for precision in spec.precisions if builder else ():
        ranges = calibration if precision == INT8 else {}
        yield (
            (precision, ENGINE),
            task(
                f"build {entry.title} {precision}",
                "build",
                work={"precision": precision, **ranges},
                needs=(float32,),
                after=before,
                machine=builder.name or None if builder else None,
                gpus=builder.gpus if builder else 0,
            ),
        )


def _evaluation(spec: Spec, entry: Entry, makers: Sequence[Task], again: bool) -> Task:
    return Task(
        name=f"evaluate {entry.title}",
        kind="evaluate",
        group=entry.title,
        work={"kind": "evaluate", **_common(spec, entry, again), "data": spec.data},
        needs=(makers[0].name,),
        after=tuple(task.name for task in makers[1:]),
    )


def _bench(
    spec: Spec, entry: Entry, machine: Machine, backends: Sequence[str], makers: Mapping[Made, Task], again: bool
) -> Task:
    where = f" on {machine.name}" if machine.name else ""
    return Task(
        name=f"bench {entry.title}{where}",
        kind="bench",
        group=entry.title,
        work={
            "kind": "bench",
            **_common(spec, entry, again),
            "wanted": [[backend, precision] for backend in backends for precision in spec.precisions],
            "batches": list(spec.batches),
            "threads": spec.threads,
            "device": machine.device,
            "repetitions": spec.repetitions,
            "min_time": spec.min_time,
            "order": spec.seed,
            "baseline": spec.baseline,
            "machine": machine.name or None,
        },
        after=tuple(task.name for task in makers.values()),
        machine=machine.name or None,
        exclusive=not (machine.gpus and machine.cpus),
        cpus=machine.cpus or 0,
        gpus=machine.gpus,
    )


def _cells(
    spec: Spec, entry: Entry, machine: Machine, backends: Sequence[str], makers: Mapping[Made, Task], bench: Task
) -> Iterator[SweepCell]:
    for precision in spec.precisions:
        for backend in backends:
            maker = (
                makers.get((precision, _target(find_backend(backend), precision)))
                if find_backend(backend).runs_files
                else None
            )
            for batch in spec.batches:
                yield SweepCell(
                    model=entry.title,
                    precision=precision,
                    backend=backend,
                    batch=batch,
                    machine=machine.name or None,
                    bench=bench.name,
                    maker=maker.name if maker else None,
                )


def _builds(backend: str) -> bool:
    """Whether a backend runs engines, which have to be built."""
    return ENGINE in find_backend(backend).formats


def _target(backend: Backend, precision: str) -> str | None:
    """What a backend's file of a precision is made for."""
    if ENGINE in backend.formats:
        return ENGINE
    return next(iter(backend.targets), None) if precision == INT8 else None


def units(task: Task) -> int:
    """What the time of a task grows with: processes to be timed; 1 for anything else."""
    if task.kind != "bench":
        return 1
    return len(task.work["wanted"]) * len(task.work["batches"]) * int(task.work["repetitions"])


def slots(jobs: int) -> int:
    """Tasks at a time that this machine can be asked for.

    Raises:
        UsageError: more than it has cores.
    """
    if jobs > usable_cores():
        raise UsageError(f"--jobs {jobs}: this machine has {usable_cores()} cores.")
    return jobs
