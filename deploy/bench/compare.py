"""``deploy bench --compare``: is one thing faster than another, and is that more than noise?"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.cells import PASSED, PlannedCell, choose_backends
from deploy.bench.plan import Choices, plan_model
from deploy.bench.process import BenchProcess
from deploy.bench.rows import plain_interval
from deploy.bench.sequential import LOOKS, Guard, Verdict, guard, interval_at, paired, verdict_of
from deploy.bench.statistics import Interval
from deploy.core.artifact import Artifact
from deploy.core.backend import ONNX, backends, default_backend
from deploy.core.environment import machine, usable_cores, versions
from deploy.core.errors import BackendError, UsageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.parity.probes import probes_at

BLOCK_S = 0.03
BLOCK_CALLS = 3
PAIR_S = 1.2
LEAST_TURNS = 5
"""Two processes take turns, each for so many seconds and calls at the least, for so long and so many turns in all."""

WARM_S = 3.0
FLAGS_IGNORED = ("others", "stolen")
"""Neither says anything over a turn: the counters of the system tick a hundred times a second."""
MARGIN = 0.02
TIME_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """One of the two.

    Attributes:
        name: as it was asked for.
        plan: what runs.
        medians: nanoseconds, of each pair's process: the middle of its turns' medians.
    """

    name: str
    plan: PlannedCell
    medians: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cell = asdict(self.plan.cell)
        return {"name": self.name, **cell, "evidence": dict(self.plan.evidence or {}), "medians_ns": self.medians}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedComparison:
    """What was found.

    Attributes:
        ratio: the second's time over the first's; its interval may be read although the comparison stopped early.
        verdict: of the second: ``faster``, ``slower``, ``no difference`` (within ``margin``) or ``cannot tell``.
        guard: where a bound was given: ``pass``, ``fail`` or ``inconclusive``.
        flags: what else the machine did, by kind.
        seconds: wall time.
    """

    first: ComparedSide
    second: ComparedSide
    ratio: Interval
    verdict: Verdict
    margin: float
    guard: Guard | None
    allowed: float | None
    flags: Mapping[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "ratio": plain_interval(self.ratio),
            "verdict": self.verdict,
            "margin": self.margin,
            "pairs": len(self.first.medians),
            "guard": self.guard,
            "fail_if_slower": self.allowed,
            "flags": dict(self.flags),
            "machine": machine(),
            "versions": versions(),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class Pairs:
    """Times of both sides, pair by pair, as they come."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)


def compare_speed(
    first: str,
    second: str,
    *,
    model: str | None = None,
    precision: str | None = None,
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    calib: str | None = None,
    margin: float = MARGIN,
    fail_if_slower: float | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    seed: int = 0,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
) -> SpeedComparison:
    """Compare two files, two models or two backends.

    Args:
        first: a file, a model, or a backend where ``model`` is given; ``WHAT@BACKEND`` says both.
        second: likewise; the verdict is on it.
        model: what two backends run.
        precision: of models; None for float32, or what a file is.
        batch: its size.
        threads: within an operator; None for all cores.
        device: ``cpu`` or ``cuda``.
        calib: data to quantize with where an INT8 file is missing.
        margin: share below which a difference does not matter.
        fail_if_slower: share; the second may not be slower by more (see `deploy.bench.sequential.guard`).
        time_limit_s: seconds after which no further pair of processes is begun; at least five pairs are run.
        seed: of inputs.
        artifacts: the artifacts directory.
        progress: told what happens.

    Raises:
        DeployError: one of the two cannot be run, or is not proven.
    """
    began = time.perf_counter()
    store = Store(artifacts or default_root())
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as scratch:
        sides = []
        for index, text in enumerate((first, second)):
            what, backend, wanted = _read(text, model, precision)
            choices = Choices(
                backends=choose_backends((backend,)),
                precisions=(wanted,),
                batches=(batch,),
                threads=threads or usable_cores(),
                device=device,
                calib=calib,
                seed=seed,
            )
            folder = Path(scratch) / str(index)
            folder.mkdir()
            sides.append(ComparedSide(name=text, plan=_one(what, choices, store, folder, progress)))
        with progress.stage("timing in pairs"):
            limit = time.perf_counter() + time_limit_s
            found = run_pairs(
                [_opener(side.plan, seed) for side in sides],
                decided=lambda interval: _decided(interval, margin, fail_if_slower),
                more=lambda: time.perf_counter() < limit,
                progress=progress,
            )
    ratio = interval_at(found.ratios)
    return SpeedComparison(
        first=dataclasses.replace(sides[0], medians=tuple(found.first)),
        second=dataclasses.replace(sides[1], medians=tuple(found.second)),
        ratio=ratio,
        verdict=verdict_of(ratio, margin),
        margin=margin,
        guard=None if fail_if_slower is None else guard(ratio, fail_if_slower),
        allowed=fail_if_slower,
        flags=found.flags,
        seconds=time.perf_counter() - began,
    )


def _decided(interval: Interval, margin: float, allowed: float | None) -> bool:
    if allowed is not None:
        return guard(interval, allowed) != "inconclusive"
    return verdict_of(interval, margin) != "cannot tell"


def _read(text: str, model: str | None, precision: str | None) -> tuple[str, str, str]:
    """What runs, on which backend, in which precision.

    Raises:
        UsageError: it cannot be told.
    """
    what, _, backend = text.rpartition("@")
    if not what and text in backends():
        if model is None:
            raise UsageError(
                f"{text} is a backend: say which model it runs.", f"deploy bench MODEL --compare {text} OTHER"
            )
        return model, text, precision or "fp32"
    what = what or text
    backend = backend if what != text else ""
    if Path(what).suffix in (".onnx", ".engine"):
        manifest = Artifact.open(Path(what)).manifest
        return what, backend or _runs(manifest.format, manifest.target), manifest.precision
    return what, backend or default_backend(ONNX).name, precision or "fp32"


def _runs(format: str, target: str | None) -> str:
    """The backend of a file, where none was named."""
    fitting = [item for item in backends().values() if item.opens(format, target)]
    if not fitting:
        raise UsageError(f"no backend runs {format} files for {target}.")
    return min(fitting, key=lambda item: format not in item.default_for).name


def _one(what: str, choices: Choices, store: Store, scratch: Path, progress: Progress) -> PlannedCell:
    plans, absent = plan_model(ModelRequest(name=what), choices, store, scratch, progress)
    if not plans:
        raise BackendError(f"{what}: {absent[0].why}")
    evidence = plans[0].evidence or {}
    if evidence.get("verdict") not in PASSED:
        raise BackendError(
            f"{what}: no number without parity: {evidence.get('verdict')}: {'; '.join(evidence.get('reasons', [])[:2])}"
        )
    return plans[0]


Opener = Callable[[], BenchProcess]
"""Starts a process and opens in it what is to be timed."""


def _opener(plan: PlannedCell, seed: int) -> Opener:
    feeds = probes_at(plan.inputs, plan.cell.sizes, seed=seed)[0].feeds

    def start() -> BenchProcess:
        process = BenchProcess(plan.backend.runner, plan.cell.threads)
        process.submit_open(feeds, path=plan.path, model=plan.model, options=plan.options)
        return process

    return start


def run_pairs(
    openers: Sequence[Opener],
    *,
    decided: Callable[[Interval], bool],
    more: Callable[[], bool],
    looks: Sequence[int] = LOOKS,
    progress: Progress = SILENT,
) -> Pairs:
    """Time two things in fresh pairs of processes until it is decided at a look, or there is no time for more.

    Args:
        openers: of the first and the second.
        decided: from the interval of the ratio, at a look.
        more: whether a further pair may be begun; asked once the first look has been reached.
        looks: numbers of pairs.
        progress: told of every pair.

    Raises:
        BackendError: one of them fails.
    """
    found = Pairs()
    for count in range(1, looks[-1] + 1):
        progress.advance(count - 1, looks[-1], f"pair {count} of {looks[-1]} at the most")
        _pair(openers, found, swapped=count % 2 == 0)
        if count in looks and decided(interval_at(found.ratios)):
            break
        if count >= looks[0] and not more():
            break
    return found


def _pair(openers: Sequence[Opener], found: Pairs, *, swapped: bool) -> None:
    with ExitStack() as stack:
        order = [1, 0] if swapped else [0, 1]
        processes: dict[int, BenchProcess] = {}
        for index in order:
            processes[index] = stack.enter_context(openers[index]())
        for index in order:
            processes[index].opened()
            processes[index].warm(WARM_S)
        blocks: dict[int, list[float]] = {0: [], 1: []}
        end = time.perf_counter() + PAIR_S
        while len(blocks[0]) < LEAST_TURNS or time.perf_counter() < end:
            order.reverse()
            for index in order:
                told, samples = processes[index].time(BLOCK_S, least=BLOCK_CALLS)
                blocks[index].append(float(np.median(samples)))
                flags = told["interference"]["flags"]
                found.flags.update({kind: text for kind, text in flags.items() if kind not in FLAGS_IGNORED})
    found.first.append(float(np.median(blocks[0])))
    found.second.append(float(np.median(blocks[1])))
    found.ratios.append(paired(blocks[0], blocks[1]))
