"""``deploy compare``: is one thing faster than another, and is that more than noise?"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploy.bench.cells import PlannedCell, check_sizes, choose_backends
from deploy.bench.plan import Choices, plan_model
from deploy.bench.sequential import LOOKS, Guard, Verdict, guard, interval_at, paired, verdict_of
from deploy.bench.statistics import Interval, plain_interval
from deploy.bench.turns import Opener, opener, take_turns
from deploy.core.backend import ONNX, backends, default_backend, find_backend
from deploy.core.brief import brief
from deploy.core.environment import machine, usable_cores, versions
from deploy.core.errors import BackendError, UsageError
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.given import Named, as_requests
from deploy.models.request import ModelRequest
from deploy.support.lone_file import open_artifact

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

PAIR_S = 1.2
"""The turns of a pair of processes take at least this many seconds."""

MARGIN = 0.02
TIME_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """One of the two things that are compared.

    Attributes:
        name: as the user wrote it.
        medians: median latency in nanoseconds of each pair's process.
    """

    name: str
    plan: PlannedCell
    medians: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        cell = asdict(self.plan.cell)
        return {
            "name": self.name,
            **cell,
            "evidence": dict(self.plan.evidence or {}),
            "medians_ns": self.medians,
            "stale": to_plain(self.plan.stale),
        }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SpeedComparison:
    """Result of `compare_speed`.

    Attributes:
        ratio: latency of the second over the first, with an interval that stays valid under early stopping.
        verdict: verdict on the second: ``faster``, ``slower``, ``no difference`` (within ``margin``), ``cannot tell``.
        margin: share below which a difference counts as none.
        guard: with a bound: ``pass``, ``fail`` or ``inconclusive``; otherwise None.
        allowed: the bound: share by which the second may be slower.
        flags: interference during the comparison, by kind.
        seconds: duration of the call.
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

    def __repr__(self) -> str:
        return brief(self, f"{self.second.name} {self.verdict}", f"latency ratio {self.ratio.value:.3f}", self.guard)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
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
    """Latencies of both sides, pair by pair: medians and ratios, and the interference seen."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Operand:
    """What the user wrote for one side: a model or file, a backend, a precision."""

    model: ModelRequest
    backend: str
    precision: str
    is_backend: bool = False
    is_file: bool = False


def compare_speed(
    first: ModelLike,
    second: ModelLike,
    *,
    model: ModelLike | None = None,
    inputs: ExampleInputs | None = None,
    precision: str | None = None,
    batch: int = 1,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    sizes: Mapping[str, int] | None = None,
    calib: str | None = None,
    margin: float = MARGIN,
    fail_if_slower: float | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    seed: int = 0,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> SpeedComparison:
    """Compare two files, two models or two backends.

    Args:
        first: a file or artifact, a model, or a backend if ``model`` is given; ``WHAT@BACKEND`` names both. A request
            or a module in memory runs in ONNX Runtime.
        second: likewise; the verdict is on it.
        model: the model that backends run.
        inputs: of the modules in memory, see `deploy.ExampleInputs`; `deploy.module_request` gives each its own.
        precision: precision of models; None takes float32. A file has its own.
        batch: batch size.
        threads: threads within an operator; None takes all cores.
        device: ``cpu`` or ``cuda``; None takes the first of the two on which both sides run.
        sizes: sizes of symbolic dimensions other than the batch.
        calib: calibration data for a missing INT8 file.
        margin: share below which a difference counts as none.
        fail_if_slower: share by which the second may be slower (see `deploy.bench.sequential.guard`).
        time_limit_s: no pair of processes starts after this many seconds; at least five pairs run.
        seed: seed of the inputs.
        artifacts: artifacts directory.
        progress: receives progress messages.

    Raises:
        UsageError: an argument is wrong, or would have no effect.
        DeployError: a side cannot run, or has not passed its parity check.
    """
    began = time.perf_counter()
    given = as_requests([first, second, *([] if model is None else [model])], inputs)
    shared = None if model is None else given[2]
    operands = [
        _read(item.name, shared, precision) if isinstance(text, Named) else _model(item, precision)
        for text, item in zip((first, second), given, strict=False)
    ]
    if model is not None and not any(item.is_backend for item in operands):
        raise UsageError("--model has no effect: neither A nor B is a backend.")
    if calib is not None and not any(item.precision == "int8" and not item.is_file for item in operands):
        raise UsageError("--calib has no effect: no model is compared in int8.")
    where = device or _common_device(operands)
    store = Store.at(artifacts)
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as scratch:
        sides = []
        for index, operand in enumerate(operands):
            choices = Choices(
                backends=choose_backends((operand.backend,)),
                precisions=(operand.precision,),
                batches=(batch,),
                threads=threads or usable_cores(),
                device=where,
                sizes=dict(sizes or {}),
                calib=calib,
                seed=seed,
            )
            folder = Path(scratch) / str(index)
            folder.mkdir()
            sides.append(
                ComparedSide(name=given[index].name, plan=_plan(operand.model, choices, store, folder, progress))
            )
        check_sizes(sizes or {}, [side.plan for side in sides])
        with progress.stage("timing in pairs"):
            deadline = time.perf_counter() + time_limit_s
            found = run_pairs(
                [opener(side.plan, seed) for side in sides],
                decided=lambda interval: _decided(interval, margin, fail_if_slower),
                more=lambda: time.perf_counter() < deadline,
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


def _model(request: ModelRequest, precision: str | None, backend: str = "") -> _Operand:
    return _Operand(model=request, backend=backend or default_backend(ONNX).name, precision=precision or "fp32")


def _read(text: str, model: ModelRequest | None, precision: str | None) -> _Operand:
    what, _, backend = text.rpartition("@")
    if not what and text in backends():
        if model is None:
            raise UsageError(f"{text} is a backend; name the model it runs.", f"deploy compare {text} B --model MODEL")
        return _Operand(model=model, backend=text, precision=precision or "fp32", is_backend=True)
    if not what:
        what, backend = text, ""
    if Path(what).suffix not in (".onnx", ".engine"):
        return _model(ModelRequest(name=what), precision, backend)
    manifest = open_artifact(Path(what)).manifest
    if precision not in (None, manifest.precision):
        raise UsageError(f"{what}: the file is {manifest.precision}, so --precision {precision} does not apply.")
    return _Operand(
        model=ModelRequest(name=what),
        backend=backend or _backend_of(manifest.format, manifest.target),
        precision=manifest.precision,
        is_file=True,
    )


def _common_device(operands: Sequence[_Operand]) -> str:
    first, second = (find_backend(item.backend) for item in operands)
    for device in ("cpu", "cuda"):
        if device in first.devices and device in second.devices:
            return device
    raise UsageError(f"{first.name} and {second.name} run on different devices, so they cannot be compared.")


def _backend_of(format: str, target: str | None) -> str:
    fitting = [item for item in backends().values() if item.opens(format, target)]
    if not fitting:
        raise UsageError(f"no backend runs {format} files for {target}; name one: FILE@BACKEND.")
    return min(fitting, key=lambda item: format not in item.default_for).name


def _plan(request: ModelRequest, choices: Choices, store: Store, scratch: Path, progress: Progress) -> PlannedCell:
    plans, skipped = plan_model(request, choices, store, scratch, progress)
    if not plans:
        raise BackendError(f"{request.name}: {skipped[0].reason}")
    if not plans[0].passed:
        raise BackendError(f"{request.name}: {plans[0].refusal}")
    return plans[0]


def run_pairs(
    openers: Sequence[Opener],
    *,
    decided: Callable[[Interval], bool],
    more: Callable[[], bool],
    looks: Sequence[int] = LOOKS,
    progress: Progress = SILENT,
) -> Pairs:
    """Time two things in fresh pairs of processes until the comparison is decided at a look, or time is up.

    ``decided`` tells whether the interval of the ratio decides the comparison; ``looks`` are the numbers of pairs at
    which it is asked. After the first look, ``more`` tells whether another pair may start.
    """
    found = Pairs()
    for count in range(1, looks[-1] + 1):
        progress.advance(count - 1, looks[-1], f"pair {count} of at most {looks[-1]}")
        _run_pair(openers, found, swapped=count % 2 == 0)
        if count in looks and decided(interval_at(found.ratios)):
            break
        if count >= looks[0] and not more():
            break
    return found


def _run_pair(openers: Sequence[Opener], found: Pairs, *, swapped: bool) -> None:
    turns = take_turns(openers, [1, 0] if swapped else [0, 1], PAIR_S)
    for failure in turns.failures.values():
        raise failure
    found.flags.update(turns.flags)
    found.first.append(float(np.median(turns.medians[0])))
    found.second.append(float(np.median(turns.medians[1])))
    found.ratios.append(paired(turns.medians[0], turns.medians[1]))
