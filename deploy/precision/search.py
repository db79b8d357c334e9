"""Find the smallest set of nodes with which a graph in half precision holds a bound.

A graph whose values are all in range and that holds as a whole is not searched further. Else values that would overflow
decide first. If the graph then does not hold, a survey of the graph predicts the noise of every value and weight, and
nodes go back to float32 in the order of noise avoided per operation. The prediction only gives the order: what holds is
found by running converted graphs, a bounded number of them.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from deploy.backends.torch.rounded import RoundedRunner
from deploy.core.errors import UsageError
from deploy.core.progress import Progress
from deploy.core.runner import Feeds, Runner
from deploy.parity.compare import CachedRunner, compare
from deploy.parity.probes import Probe
from deploy.precision.bound import BoundedRunner, ordinary_of
from deploy.precision.greedy import Order, Promotion
from deploy.precision.plan import MIN_SQNR, BlockPrecision, KeptNode, PrecisionPlan, Reason, Rescaled
from deploy.precision.ranges import HEADROOM, Ranges, first_lost, overflowing, ranges
from deploy.precision.rescale import rescale
from deploy.precision.structure import structure
from deploy.precision.survey import Survey, survey
from deploy.support import onnx_file
from deploy.support.onnx_modules import scope
from exporters.half import SCRATCH_LIMIT, Halved, largest, to_half

MAX_RUNS = 14
"""Number of converted graphs that are run at most."""

CANCELS = 16.0
"""A result this many times smaller than the operands is called a cancellation."""

SURVEYED = 3
"""Number of inputs that the survey runs."""


@dataclass(slots=True)
class Search:
    """A search for one graph.

    Attributes:
        source: the float32 graph as `exporters.half.prepared` makes it, in a folder for scratch files.
        planned: the graph that the plan is for: ``source``, or the one whose choices are inputs of ``source``.
        probes: inputs by which a converted graph is judged.
        reference: the graph or its model in float64.
        own: PyTorch's own run in the precision.
        min_sqnr: the bound in dB; None for what `deploy.precision.bound` says.
        safety: factor by which the noise must be below the bound, since others run more inputs.
        keep, only: patterns of nodes that stay in float32, and that do not.
        decided: nodes of ``planned`` around choices, which stay in float32 unless ``only`` names them.
    """

    source: Path
    planned: Path
    precision: str
    probes: Sequence[Probe]
    reference: Runner
    own: Runner
    min_sqnr: float | None
    progress: Progress
    safety: float
    keep: Sequence[str] = ()
    only: Sequence[str] = ()
    decided: Collection[str] = frozenset()
    runs: int = 0
    _graph: str = field(init=False)
    _found: Ranges = field(init=False)
    _rescaled: tuple[Rescaled, ...] = field(init=False, default=())
    _half: frozenset[str] = field(init=False)
    _kept: dict[str, str] = field(init=False)
    _modules: dict[str, tuple[str, str, str]] = field(init=False)
    _reference: Runner = field(init=False)
    _strict: Runner = field(init=False)
    _bound: Runner = field(init=False)

    def run(self) -> PrecisionPlan:
        """Return the plan; its ``margin`` is below 1 if no set of nodes was found that holds."""
        self._start()
        reasons = self._first_reasons()
        overflows = any(reason == "overflow" for reason, _ in reasons.values())
        margin = 0.0 if overflows else self._first_margin(reasons)
        if (margin < self.safety and self._rescale()) or overflows:
            reasons = self._first_reasons()
            margin = self._first_margin(reasons)
        chosen = set(reasons)
        while margin == 0.0 and self.runs < MAX_RUNS // 2:
            lost = self._lost(chosen)
            if not lost:
                break
            reasons.update({key: self._loss(key) for key in lost})
            chosen |= lost
            margin = self._margin(chosen)
        if margin < self.safety:
            found = survey(self.source, self.precision, [item.feeds for item in self.probes[:SURVEYED]])
            margin = self._extend(found, chosen, reasons, margin)
        return self._plan(reasons, margin)

    def _start(self) -> None:
        self._graph = structure(self.planned)
        self._found = ranges(self.source, self._inputs())
        halved = self._convert((), self.planned)
        self._half, self._kept = halved.half, halved.kept
        self._modules = _modules(self.planned)
        self._reference = CachedRunner(self.reference)
        self._strict = self._bounded(MIN_SQNR if self.min_sqnr is None else self.min_sqnr)

    def _inputs(self) -> list[Feeds]:
        return [item.feeds for item in self.probes]

    def _rescale(self) -> bool:
        """Rescale channels whose values are too large or too small; return whether there were any."""
        self._rescaled = rescale(self.source, self.precision, self._inputs(), HEADROOM)
        if self._rescaled:
            self._found = ranges(self.source, self._inputs())
        return bool(self._rescaled)

    def _first_margin(self, reasons: Collection[str]) -> float:
        """Return the margin with these nodes in float32, by the bound in dB, else by PyTorch's own run."""
        self._bound = self._strict
        margin = self._margin(set(reasons))
        if margin < self.safety and self.min_sqnr is None:
            # PyTorch's own run, which is slow on a CPU, may allow more noise.
            self._bound = self._bounded(None)
            margin = self._margin(set(reasons))
        return margin

    def _bounded(self, min_sqnr: float | None) -> Runner:
        return CachedRunner(BoundedRunner(self._reference, self.own, min_sqnr, ordinary_of(self.probes)))

    def _convert(self, keep: Collection[str], source: Path | None = None) -> Halved:
        return to_half(
            source or self.source, self._converted, precision=self.precision, keep=keep, single_file_limit=SCRATCH_LIMIT
        )

    @property
    def _converted(self) -> Path:
        return self.source.with_name(f"converted.{self.precision}.onnx")

    def _first_reasons(self) -> dict[str, tuple[Reason, str]]:
        """Return the nodes that must stay in float32: asked for, or with values that would overflow."""
        limit = largest(self.precision)
        locked = self._matching(self.only)
        reasons: dict[str, tuple[Reason, str]] = {}
        for key, size in overflowing(self._found, limit).items():
            if key in self._half - locked:
                reasons[key] = "overflow", f"{size}, {self.precision} ends at {limit:.6g}"
        reasons.update(dict.fromkeys(self._half.intersection(self.decided) - locked, ("choice", "")))
        reasons.update(dict.fromkeys(self._matching(self.keep), ("asked", "")))
        return reasons

    def _matching(self, patterns: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            matching = {
                key
                for key in self._half
                if any(fnmatch.fnmatchcase(text, pattern) for text in (key, *self._modules.get(key, ())) if text)
            }
            if not matching:
                raise UsageError(f"{pattern!r} matches no node that can be in half precision.", "deploy inspect FILE")
            found |= matching
        return found

    def _margin(self, keep: set[str]) -> float:
        """Convert, run, and return by what factor the noise is below the bound; 0 if a value is lost."""
        self.runs += 1
        self._convert(keep)
        self.progress.advance(self.runs, MAX_RUNS, f"{len(keep)} nodes in float32")
        report = compare(
            self._reference,
            self._bound,
            RoundedRunner(self._converted),
            self.probes,
            precision=self.precision,
            in_place=self.planned != self.source,
        )
        # an output that is open for another reason, such as one that never changes, is not noisy
        margins = [item.margin for item in report.outputs if item.verdict != "pass" and not item.margin >= 1.0]
        if report.verdict == "pass" or not margins:
            return report.margin if report.margin >= 1.0 else self.safety
        return 0.0 if any(math.isnan(item) for item in margins) else min(margins)

    def _loss(self, key: str) -> tuple[Reason, str]:
        large = self._found.largest.get(key, 0.0) > largest(self.precision)
        return "overflow" if large else "underflow", "not finite in half precision"

    def _lost(self, keep: set[str]) -> set[str]:
        """Return nodes whose results are lost only in half precision, and those that make their operands."""
        for probe in self.probes:
            lost = first_lost(self._converted, probe.feeds, self._found)
            if lost:
                return (set(lost) & self._half) - keep - self._matching(self.only)
        return set()

    def _extend(self, found: Survey, chosen: set[str], reasons: dict[str, tuple[Reason, str]], margin: float) -> float:
        """Add nodes in the order of the survey until the graph holds; then find the fewest that do."""
        order = Order(found, self._half - chosen, self._found.operations, self._matching(self.only))
        start = order.noise()
        steps = list(order)
        if not steps:
            return margin
        low, low_margin, high = 0, margin, len(steps)
        wanted = start * ((margin or 0.1) / self.safety) ** 2
        best: tuple[int, float] | None = None
        while low + 1 < high + (best is None) and self.runs < MAX_RUNS:
            if best is None:
                guess = next((index for index, step in enumerate(steps, 1) if step.left <= wanted), len(steps))
                guess = max(guess, min(low + 1, len(steps)))
            else:
                guess = (low + high) // 2
            reached = self._margin(chosen | _nodes(steps[:guess]))
            if reached >= self.safety:
                best, high = (guess, reached), guess
            else:
                low, low_margin = guess, max(reached, 0.05)
                if guess == len(steps):
                    best = best or (guess, reached)
                    break
                wanted = steps[guess - 1].left * min((low_margin / self.safety) ** 2, 0.5)
        count, reached = best or (len(steps), low_margin)
        for step in steps[:count]:
            detail = f"{100 * step.avoided / start:.2g} % of the noise"
            for key in step.nodes:
                cancels = self._found.cancels.get(key, 0.0) > CANCELS
                reasons[key] = "cancellation" if cancels else "noise", detail
        return reached

    def _plan(self, reasons: dict[str, tuple[Reason, str]], margin: float) -> PrecisionPlan:
        given: dict[str, tuple[Reason, str]] = {**_unconverted(self._kept), **reasons}
        in_order = [key for key in self._modules if key in self._half or key in self._kept]
        operations = {key: self._found.operations.get(key, 0) for key in in_order}
        total = sum(operations.values())
        return PrecisionPlan(
            precision=self.precision,
            graph=self._graph,
            nodes=len(in_order),
            kept=_kept_nodes(self._modules, given),
            share=sum(count for key, count in operations.items() if key not in given) / total if total else None,
            min_sqnr=MIN_SQNR if self.min_sqnr is None else self.min_sqnr,
            runs=self.runs,
            margin=margin if math.isfinite(margin) else None,
            rescaled=self._rescaled,
            blocks=_blocks(self._modules, operations, given),
        )


def plain(source: Path, precision: str, min_sqnr: float) -> PrecisionPlan:
    """Return the plan of a graph that is converted as a whole, without a run of it."""
    halved = to_half(source, source.with_name(f"converted.{precision}.onnx"), precision=precision)
    return PrecisionPlan(
        precision=precision,
        graph=structure(source),
        nodes=len(halved.half) + len(halved.kept),
        kept=_kept_nodes(_modules(source), _unconverted(halved.kept)),
        share=None,
        min_sqnr=min_sqnr,
        runs=0,
        margin=None,
    )


def _unconverted(kept: Mapping[str, str]) -> dict[str, tuple[Reason, str]]:
    return {key: (cast("Reason", why), "") for key, why in kept.items()}


def _kept_nodes(
    modules: Mapping[str, tuple[str, str, str]], given: Mapping[str, tuple[Reason, str]]
) -> tuple[KeptNode, ...]:
    found = []
    for key, (operator, name, module) in modules.items():
        if key in given:
            reason, detail = given[key]
            found.append(KeptNode(node=key, operator=operator, name=name, module=module, reason=reason, detail=detail))
    return tuple(found)


def _blocks(
    modules: Mapping[str, tuple[str, str, str]], operations: Mapping[str, int], kept: Collection[str]
) -> tuple[BlockPrecision, ...]:
    blocks: dict[str, list[str]] = {}
    for key in operations:
        blocks.setdefault(_block(modules[key][2]), []).append(key)
    found = []
    for module, keys in blocks.items():
        total = sum(operations[key] for key in keys)
        half = sum(operations[key] for key in keys if key not in kept)
        count = sum(key in kept for key in keys)
        found.append(
            BlockPrecision(
                module=module, nodes=len(keys), kept=count, share=half / total if total else float(not count)
            )
        )
    return tuple(found)


def _block(module: str) -> str:
    """Return the path of a module up to its first index, or its first name."""
    parts = module.split(".")
    return ".".join(parts[: next((index + 1 for index, part in enumerate(parts) if part.isdigit()), 1)])


def _nodes(steps: Sequence[Promotion]) -> set[str]:
    return {key for step in steps for key in step.nodes}


def _modules(path: Path) -> dict[str, tuple[str, str, str]]:
    """Return operator, name and module of every node, by its first result, in execution order."""
    return {
        onnx_file.first_result(node): (node.op_type, node.name, scope(node)) for node in onnx_file.load(path).graph.node
    }
