"""The ways in which a model can run: backend, precision, options, threads and batch size, each proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.cells import PASSED, PlannedCell
from deploy.bench.parity import ParityChecker
from deploy.bench.plan import Choices, plan_model
from deploy.bench.process import BenchProcess
from deploy.bench.timed_model import TimedModel
from deploy.core.artifact import UNPROVEN
from deploy.core.backend import RunSettings, find_backend
from deploy.core.errors import DeployError
from deploy.core.progress import Progress
from deploy.core.runner import Feeds
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.optimizing.bounds import DeploymentBounds
from deploy.parity.probes import probes_at

INT8 = "int8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """A way to run the model.

    Attributes:
        name: backend, precision, and what else tells it from the others.
        variant: the backend's name for its options; empty for its usual ones.
        changed: the options of the runner that the variant sets.
        base: the candidate that differs by ``variant`` and threads only; None for a base itself.
    """

    name: str
    plan: PlannedCell
    variant: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)
    base: PlannedCell | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it runs with the usual options."""
        return not self.variant


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A candidate that was not timed, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """What is combined.

    Attributes:
        precisions: ``fp32``, ``fp16``, ``int8``.
        threads: numbers of threads.
        variants: try the variants of each backend.
    """

    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    device: str
    sizes: Mapping[str, int]
    variants: bool


class CandidateFinder:
    """Finds the candidates of a model in a search space; what cannot run, or is wrong, is left out with the reason.

    The folder ``scratch`` is for weight files and must live as long as the candidates are timed.
    """

    def __init__(
        self,
        timed: TimedModel,
        request: ModelRequest,
        space: SearchSpace,
        store: Store,
        scratch: Path,
        *,
        data: str | None,
        effort: str,
        bounds: DeploymentBounds,
        seed: int,
        progress: Progress,
    ) -> None:
        self._request, self._space, self._store, self._scratch = request, space, store, scratch
        self._data, self._effort, self._bounds, self._seed, self._progress = data, effort, bounds, seed, progress
        self._timed = timed
        self._checker: ParityChecker | None = None
        self._targets: set[str | None] = set()
        self._usual: dict[str, list[Mapping[str, Any]]] = {}
        self._several = (len(space.threads) > 1, len(space.batches) > 1)
        self.left_out: list[LeftOut] = []

    def find(self) -> list[Configuration]:
        """Return the candidates in order of preference among equals: float before INT8, usual options first."""
        bases = [self._candidate(plan) for precision in self._space.precisions for plan in self._planned(precision)]
        found = [item for item in bases if self._kept(item)]
        with self._progress.stage("checking variants"):
            variants = [item for base in found for item in self._variants(base)]
            found += [item for item in variants if self._kept(item) and self._proven(item)]
        order = {precision: index for index, precision in enumerate(self._space.precisions)}
        return sorted(found, key=lambda item: (order[item.plan.cell.precision], not item.is_plain))

    def _planned(self, precision: str) -> Iterator[PlannedCell]:
        if precision == INT8:
            self._quantize()
        backends = tuple(name for name in self._space.backends if precision in find_backend(name).precisions)
        choices = Choices(
            backends=backends,
            precisions=(precision,),
            batches=self._space.batches,
            threads=max(self._space.threads),
            device=self._space.device,
            sizes=self._space.sizes,
            seed=self._seed,
        )
        plans, skipped = plan_model(self._request, choices, self._store, self._scratch, self._progress)
        self.left_out += [LeftOut(name=f"{item.backend} {item.precision}", reason=item.reason) for item in skipped]
        for plan in plans:
            if precision == INT8 and self._data is not None and plan.cell.target not in self._targets:
                continue  # an earlier file, held to other bounds
            reason = plan.stale.reason if plan.stale else "" if plan.passed else plan.refusal
            if reason:
                self.left_out.append(LeftOut(name=self._candidate(plan).name, reason=reason))
            else:
                yield plan

    def _quantize(self) -> None:
        """Make the INT8 file of each target, held to the bounds."""
        if self._data is None:
            return
        from deploy.quantization.quantize import quantize

        targets = [find_backend(name).targets[0] for name in self._space.backends if find_backend(name).targets]
        for target in dict.fromkeys(targets):
            try:
                made = quantize(
                    self._timed.file("fp32", None).path,
                    calib=self._data,
                    target=target,
                    effort=self._effort,
                    max_drop=self._bounds.max_drop,
                    min_sqnr=self._bounds.min_sqnr,
                    artifacts=self._store.root,
                    progress=self._progress,
                )
            except DeployError as exc:
                self.left_out.append(LeftOut(name=f"int8 for {target}", reason=exc.message))
                continue
            if made.verdict == "fail":
                self.left_out.append(LeftOut(name=f"int8 for {target}", reason="; ".join(made.reasons)))
            else:
                self._targets.add(target)

    def _candidate(self, plan: PlannedCell, variant: str = "") -> Configuration:
        cell = plan.cell
        parts = [f"{cell.backend} {cell.precision}", variant]
        parts.append(f"{cell.threads} thread{'s' * (cell.threads > 1)}" if self._several[0] else "")
        parts.append(f"batch {cell.batch}" if self._several[1] else "")
        return Configuration(name=", ".join(filter(None, parts)), plan=plan, variant=variant)

    def _kept(self, candidate: Configuration) -> bool:
        reason = self._bounds.broken_by(candidate.plan)
        if reason:
            self.left_out.append(LeftOut(name=candidate.name, reason=reason))
        return not reason

    def _variants(self, base: Configuration) -> Iterator[Configuration]:
        plan = base.plan
        backend, cell = plan.backend, plan.cell
        options: list[tuple[str, Mapping[str, Any]]] = [("", {})]
        if self._space.variants:
            options += [(item.name, item.options) for item in backend.variants(plan.inputs, cell.sizes)]
        for threads in self._space.threads:
            settings = RunSettings(device=self._space.device, threads=threads, precision=cell.precision)
            for name, more in options:
                if (name, threads) == ("", cell.threads):
                    continue
                made = dataclasses.replace(
                    plan,
                    cell=dataclasses.replace(cell, threads=threads, options={**cell.options, **more}),
                    options={**backend.options(settings), **more},
                )
                yield dataclasses.replace(self._candidate(made, name), changed=more, base=plan)

    def _proven(self, candidate: Configuration) -> bool:
        """Return whether a variant is right, by the parity check or, for INT8, by the same bits as its base."""
        plan, base = candidate.plan, candidate.base
        assert base is not None
        verdict = str((base.evidence or {}).get("verdict"))
        try:
            if plan.cell.precision == INT8 or verdict == UNPROVEN:
                reason = (
                    ""
                    if self._same_bits(plan, base)
                    else "it does not give the same bits as the file with the usual options"
                )
            else:
                checked = self._parity().check(plan)
                reason = "" if (checked.evidence or {})["verdict"] in PASSED else checked.refusal
        except DeployError as exc:
            reason = exc.message
        if reason:
            self.left_out.append(LeftOut(name=candidate.name, reason=reason))
        return not reason

    def _parity(self) -> ParityChecker:
        if self._checker is None:
            self._checker = ParityChecker(self._timed.model(), self._seed)
        return self._checker

    def _same_bits(self, plan: PlannedCell, base: PlannedCell) -> bool:
        feeds = [probe.feeds for probe in probes_at(plan.inputs, plan.cell.sizes, seed=self._seed)]
        if base.cell.key not in self._usual:
            self._usual[base.cell.key] = _outputs(base, feeds)
        return all(
            np.array_equal(one[name], two[name])
            for one, two in zip(self._usual[base.cell.key], _outputs(plan, feeds), strict=True)
            for name in one
        )


def _outputs(plan: PlannedCell, feeds: Sequence[Feeds]) -> list[Mapping[str, Any]]:
    with BenchProcess(plan.backend.runner, plan.cell.threads) as process:
        process.open(feeds[0], path=plan.path, model=plan.model, options=plan.options)
        found: list[Mapping[str, Any]] = []
        for item in feeds:
            process.submit(item)
            found.append(process.result())
    return found
