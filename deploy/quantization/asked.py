"""What a quantization was asked for: checked before anything is made, and written as the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibration.table import STATISTICS
from calibration.target import find_target
from deploy.core import registry
from deploy.core.backend import backends
from deploy.core.cpu import CPUS
from deploy.core.errors import UnknownNameError, UsageError
from deploy.quantization import DEFAULT_EFFORT, DEFAULT_METHOD, DEFAULT_SAMPLES, EFFORTS
from deploy.quantization.data import MIN_SAMPLES
from deploy.quantization.evidence import QualityBounds
from deploy.quantization.fine_tuning import FineTuning
from deploy.quantization.source import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Arguments of `deploy.quantize`, see there."""

    calib: str
    target: str
    method: str
    samples: int
    effort: str
    fp16: bool
    cpu: str | None
    preprocess: Sequence[str]
    skip_bad: bool
    fine_tuning: FineTuning | None

    def check(self) -> None:
        """Refuse what is not known or does not fit.

        Raises:
            UsageError: see above.
            MissingPackageError: the target is a runtime for CPUs that is not installed.
        """
        declared = find_target(self.target)
        methods = registry.names(STATISTICS)
        if self.method not in methods:
            raise UnknownNameError("calibration method", self.method, methods, f"known: {', '.join(methods)}")
        if self.samples < MIN_SAMPLES:
            raise UsageError(f"--samples {self.samples}: calibration needs at least {MIN_SAMPLES}.")
        if self.effort not in EFFORTS:
            raise UnknownNameError("effort", self.effort, EFFORTS, f"known: {', '.join(EFFORTS)}")
        for backend in backends().values():
            if self.target in backend.targets and "cpu" in backend.devices:
                backend.require()  # a file is published only after its target ran it, if no GPU is needed for that
        if self.cpu is not None and self.cpu not in CPUS:
            raise UnknownNameError("CPU", self.cpu, CPUS, f"known: {', '.join(CPUS)}")
        if self.cpu is not None and not declared.by_cpu:
            raise UsageError(f"--cpu: files for {declared.title} do not depend on the CPU.", "leave out --cpu")
        if declared.floating:
            self._check_floating()
        if self.fp16 and self.fine_tuning is not None:
            raise UsageError("layers in FP16 cannot be trained.", "leave out fp16")
        if self.fp16 and not declared.half:
            raise UsageError(f"--fp16: {declared.title} is no faster in FP16.", "use --target tensorrt")

    def _check_floating(self) -> None:
        """Refuse what only integers need."""
        if self.method != DEFAULT_METHOD:
            raise UsageError(
                f"--method {self.method}: ranges for {self.target} are the largest values that were seen.",
                "leave out --method",
            )
        if self.fp16 or self.fine_tuning is not None:
            what = "--fp16" if self.fp16 else "training the weights"
            raise UsageError(f"{what} is not possible for {self.target}.", "use --target tensorrt, which is INT8")

    def command(self, source: Source, bounds: QualityBounds) -> str:
        """Return the command that quantizes the model again, held to these bounds."""
        flags = [name for name, given in (("--fp16", self.fp16), ("--skip-bad", self.skip_bad)) if given]
        return _command(
            ("quantize", source.name),
            {
                "--calib": self.calib,
                "--target": self.target,
                "--method": self.method if self.method != DEFAULT_METHOD else None,
                "--samples": self.samples if self.samples != DEFAULT_SAMPLES else None,
                "--cpu": self.cpu,
                "--effort": self.effort if self.effort != DEFAULT_EFFORT else None,
                "--max-drop": bounds.max_drop,
                "--min-sqnr": bounds.min_sqnr,
                "--name": _name(source),
            },
            *(word for text in self.preprocess for word in ("--preprocess", text)),
            *flags,
        )

    def rebuild(self, source: Source, bounds: QualityBounds) -> str:
        """Return the command that makes the file again, with its training if it was trained."""
        if self.fine_tuning is None:
            return self.command(source, bounds)
        defaults = asdict(FineTuning())
        options = {name: value for name, value in asdict(self.fine_tuning).items() if value != defaults[name]}
        return _command(
            ("train", source.name, "--data", self.calib, "--qat", "--target", self.target),
            {**{f"--{name.replace('_', '-')}": value for name, value in options.items()}, "--name": _name(source)},
            *(["--skip-bad"] if self.skip_bad else []),
        )


def _name(source: Source) -> str | None:
    return source.slug if source.manifest is None or source.slug != source.manifest.slug else None


def _command(first: Sequence[str], options: Mapping[str, Any], *more: str) -> str:
    words = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    return shlex.join(["deploy", *first, *words, *more])
