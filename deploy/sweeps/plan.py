"""From the specification of a sweep to its tasks and configurations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.backend import ENGINE, Backend, find_backend
from deploy.core.environment import version
from deploy.core.errors import UsageError
from deploy.sweeps.spec import Machine, SweepModel, SweepSpec
from deploy.sweeps.task import Task

INT8, FP16 = "int8", "fp16"
ANY_MACHINE = Machine(name="")
"""The machine of a sweep without ``machines``."""

FileKind = tuple[str, str | None]
"""Precision and target of a model file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCell:
    """One configuration to time.

    Attributes:
        machine: kind of machine; None if the sweep names none.
        bench: name of the task that times it.
        maker: name of the task that makes its file; None for a backend that runs the PyTorch model.
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
    """The tasks of a sweep in topological order, and its configurations."""

    tasks: tuple[Task, ...]
    cells: tuple[SweepCell, ...]


def plan(spec: SweepSpec, backends: Sequence[str], *, again: bool) -> SweepPlan:
    """Return the tasks and configurations of a sweep; a kind of machine that names no backends times ``backends``."""
    machines = spec.machines or (ANY_MACHINE,)
    timed = {machine.name: machine.backends or tuple(backends) for machine in machines}
    builders = [machine for machine in machines if any(_needs_engine(name) for name in timed[machine.name])]
    if len(builders) > 1:
        names = " and ".join(machine.name for machine in builders)
        raise UsageError(
            f"tensorrt on {names}: an engine is specific to a GPU, and both machines would write the same files.",
            "run one sweep per kind of machine, each with its own --artifacts",
        )
    tasks: list[Task] = []
    cells: list[SweepCell] = []
    for model in spec.models:
        planner = _Planner(spec, model, again)
        makers = dict(planner.makers(timed, builders[0] if builders else None))
        tasks += makers.values()
        if spec.data is not None:
            first, *others = (task.name for task in makers.values())
            name = f"evaluate {model.title}"
            tasks.append(planner.task(name, "evaluate", {"data": spec.data}, needs=(first,), after=tuple(others)))
        for machine in machines:
            bench = planner.bench(machine, timed[machine.name], makers)
            tasks.append(bench)
            cells += planner.cells(bench, timed[machine.name], makers)
    return SweepPlan(tasks=tuple(tasks), cells=tuple(cells))


class _Planner:
    """Plans the tasks of one model."""

    def __init__(self, spec: SweepSpec, model: SweepModel, again: bool) -> None:
        self._spec, self._title = spec, model.title
        self._common = {
            "request": dataclasses.asdict(model) | {"seed": spec.seed if model.seed is None else model.seed},
            "model": model.title,
            "again": again,
            "deploy": version("deploy-toolkit"),
        }

    def task(self, name: str, kind: str, work: Mapping[str, Any], **more: Any) -> Task:
        return Task(name=name, kind=kind, group=self._title, work={"kind": kind, **self._common, **work}, **more)

    def makers(self, timed: Mapping[str, Sequence[str]], builder: Machine | None) -> Iterator[tuple[FileKind, Task]]:
        """Yield the tasks that make the files of the model, each with the kind of file."""
        precisions, float32 = self._spec.precisions, f"export {self._title} fp32"
        used = [find_backend(name) for name in sorted({name for names in timed.values() for name in names})]
        onnx_backends = [item for item in used if item.runs_files and ENGINE not in item.formats]
        yield ("fp32", None), self.task(float32, "export", {"precision": "fp32"})
        if FP16 in precisions and onnx_backends:
            yield (FP16, None), self.task(f"export {self._title} {FP16}", "export", {"precision": FP16})
        calibration = {"calib": self._spec.calib, "samples": self._spec.samples}
        before: tuple[str, ...] = ()
        if INT8 in precisions:
            for target in sorted({target for item in onnx_backends for target in item.targets[:1]}):
                name = f"quantize {self._title} for {target}"
                work = {"target": target, **calibration}
                # in sequence: the later ones use the calibration table of the first
                yield (INT8, target), self.task(name, "quantize", work, needs=(float32,), after=before)
                before = (name,)
        for precision in precisions if builder else ():
            work = {"precision": precision, **(calibration if precision == INT8 else {})}
            where = {"machine": builder.name or None, "gpus": builder.gpus} if builder else {}
            name = f"build {self._title} {precision}"
            yield (precision, ENGINE), self.task(name, "build", work, needs=(float32,), after=before, **where)

    def bench(self, machine: Machine, backends: Sequence[str], makers: Mapping[FileKind, Task]) -> Task:
        spec = self._spec
        work = {
            "wanted": [[backend, precision] for backend in backends for precision in spec.precisions],
            "batches": list(spec.batches),
            "threads": spec.threads,
            "device": machine.device,
            "repetitions": spec.repetitions,
            "min_time": spec.min_time,
            "order": spec.seed,
            "baseline": spec.baseline,
            "machine": machine.name or None,
        }
        return self.task(
            f"bench {self._title} on {machine.name}" if machine.name else f"bench {self._title}",
            "bench",
            work,
            after=tuple(task.name for task in makers.values()),
            machine=machine.name or None,
            exclusive=not (machine.gpus and machine.cpus),
            cpus=machine.cpus or 0,
            gpus=machine.gpus,
        )

    def cells(self, bench: Task, backends: Sequence[str], makers: Mapping[FileKind, Task]) -> Iterator[SweepCell]:
        for precision, backend in itertools.product(self._spec.precisions, map(find_backend, backends)):
            maker = makers.get((precision, _target(backend, precision))) if backend.runs_files else None
            for batch in self._spec.batches:
                yield SweepCell(
                    model=self._title,
                    precision=precision,
                    backend=backend.name,
                    batch=batch,
                    machine=bench.machine,
                    bench=bench.name,
                    maker=maker.name if maker else None,
                )


def _needs_engine(backend: str) -> bool:
    return ENGINE in find_backend(backend).formats


def _target(backend: Backend, precision: str) -> str | None:
    if ENGINE in backend.formats:
        return ENGINE
    return next(iter(backend.targets), None) if precision == INT8 else None
