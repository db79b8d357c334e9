"""The comparisons that one proof makes: with PyTorch's own run, with other roundings, in half precision."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.backends.torch.perturbed import Alteration, PerturbedRunner
from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.model import HALVES, Model
from deploy.core.progress import Progress
from deploy.core.runner import Runner
from deploy.exporting.choices import MAX_BYTES, ChoiceJudge, ChoosingRunner
from deploy.exporting.opened_file import OpenedFile
from deploy.exporting.original import OriginalFile, original_path
from deploy.parity.compare import compare
from deploy.parity.groups import policy
from deploy.parity.probes import Probe
from deploy.parity.verdict import ParityReport
from deploy.precision.bound import BoundedRunner, ordinary_of

OPENED = 3
"""Number of probes that the runtime runs of a file in half precision."""

AT_ONE = (
    "activations that are sums with 1 (sigmoid, SiLU, ELU) were allowed a rounding of 1: runtimes compute them with an "
    "error of about 1e-7, however small the result is"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedFile:
    """A comparison on all probes.

    Attributes:
        report: its result.
        reference: the float64 run.
        bound: what a file in half precision was held to; None for other files.
        ran: the probes that were run.
    """

    report: ParityReport
    reference: ChoosingRunner | PyTorchRunner
    bound: BoundedRunner | None
    ran: list[Probe] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What all comparisons of a proof have in common.

    Attributes:
        reference: runs the model in float64.
        baseline: PyTorch's own run.
        look_behind: compare what the file and the model choose by, too.
        original: the reference itself where it is a file; None for that of the model, if there is one.
        alterations: of all runs of the model; ``reference`` and ``baseline`` have them already.
        min_sqnr: bound of half precision in dB, see `deploy.exporting.prove.ProofOptions`.
    """

    model: Model
    file: OpenedFile
    precision: str
    seed: int
    probes: Sequence[Probe]
    reference: PyTorchRunner
    baseline: Runner
    look_behind: bool
    min_sqnr: float | None
    progress: Progress
    alterations: tuple[Alteration, ...] = ()
    original: Path | None = None

    def judge(self) -> JudgedFile:
        """Compare the file with the model; a float32 file that fails is judged once more, see `AT_ONE`."""
        model, backend = self.model, self.file.candidate.backend.name
        path = self.original or original_path(model)
        original = OriginalFile(model, path, backend, self.file.settings) if path else None
        with contextlib.closing(original) if original else contextlib.nullcontext():
            found = self._against(self.baseline, original)
            if found.report.verdict == "fail" and self.precision == "fp32":
                found = self._rounded_at_one(found, original)
        if found.bound is None:
            return found
        report = _in_half(found.report, found.bound, self.precision, bool(self.file.runner))
        if self.file.runner and self.precision == "fp16" and report.verdict == "pass":
            report = self._in_runtime(report, found)
        return dataclasses.replace(found, report=report)

    def _against(self, baseline: Runner, original: OriginalFile | None) -> JudgedFile:
        """Compare on all probes; ``baseline`` is PyTorch's own run."""
        file = self.file
        with contextlib.ExitStack() as stack:
            chooser = None
            if self.look_behind and file.size <= MAX_BYTES and isinstance(baseline, PyTorchRunner):
                chooser = stack.enter_context(
                    ChoiceJudge(
                        self.model,
                        file.graph,
                        file.path,
                        file.candidate.backend.name,
                        file.rename,
                        file.options,
                        file.runner,
                        reference=self._choosing,
                        baseline=baseline,
                    )
                )
            reference = chooser.reference if chooser else self.reference
            half = self.precision in HALVES
            bound = BoundedRunner(reference, baseline, self.min_sqnr, ordinary_of(self.probes)) if half else None
            ran: list[Probe] = []
            report = compare(
                reference,
                bound or baseline,
                file.candidate,
                self.probes,
                precision=self.precision,
                seed=self.seed,
                rename=file.rename,
                chooser=chooser,
                perturbed=None if self.precision == "fp64" else self._perturbed(self.precision),
                original=original,
                ran=ran,
                advance=self.progress.advance,
            )
        return JudgedFile(report=report, reference=reference, bound=bound, ran=ran)

    def _rounded_at_one(self, strict: JudgedFile, original: OriginalFile | None) -> JudgedFile:
        """Judge a file that failed again by what a runtime's sigmoid may do to small results.

        Its error is absolute: a rounding of 1, also where the result is 1e-6. See `OtherRoundings`. An inconclusive
        comparison counts only if the file is within the limit.
        """
        own = self._perturbed("fp32", layers=False)
        for probe in strict.ran[:1]:
            own.run(probe.feeds)
        if not own.roundings.used:
            return strict
        found = self._against(own, original)
        unclear = [item for item in found.report.outputs if item.verdict == "inconclusive"]
        beyond = (item for item in unclear if policy(item.group).decides)
        if found.report.verdict == "fail" or any(item.margin < 1.0 for item in beyond):
            return strict
        report = dataclasses.replace(found.report, notes=(*found.report.notes, AT_ONE))
        return dataclasses.replace(found, report=report)

    @functools.cached_property
    def _choosing(self) -> ChoosingRunner:
        """The float64 run of all comparisons that look behind choices: it keeps its results."""
        return ChoosingRunner(self.model, "fp64")

    def _perturbed(self, precision: str, *, layers: bool = True) -> PerturbedRunner:
        return PerturbedRunner(self.model, precision, layers=layers, alterations=self.alterations)

    def _in_runtime(self, report: ParityReport, judged: JudgedFile) -> ParityReport:
        """Run a few probes in the runtime itself, which opens the file or refuses it."""
        candidate = self.file.candidate
        self.file.open_in_runtime()
        found = compare(
            judged.reference,
            self.baseline,
            candidate,
            judged.ran[:OPENED],
            precision=self.precision,
            rename=self.file.rename,
        )
        if found.verdict != "fail":
            return report
        reasons = tuple(f"{candidate.backend.title}: {reason}" for reason in found.reasons)
        return dataclasses.replace(report, verdict="fail", reasons=(*report.reasons, *reasons))


def _in_half(report: ParityReport, bound: BoundedRunner, precision: str, rounded: bool) -> ParityReport:
    """Say how a file in half precision was run, and what it was held to."""
    notes = []
    if rounded:
        name = {"fp16": "float16", "bf16": "bfloat16"}[precision]
        notes.append(f"run node by node, with sums in float32 and every result rounded to {name}")
    if bound.replaced:
        why = "as asked" if bound.own is None else "since PyTorch's own run in half precision is of no use"
        names = ", ".join(sorted(bound.replaced))
        notes.append(f"{names}: held to {bound.min_sqnr:g} dB against float64, {why}")
    return dataclasses.replace(report, notes=(*report.notes, *notes))
