"""The request for a TensorRT engine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.core.errors import UsageError
from deploy.exporting.half_options import HalfOptions, half_options
from deploy.quantization import DEFAULT_METHOD, DEFAULT_SAMPLES

if TYPE_CHECKING:
    from deploy.models.in_memory import ModelLike


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """The engine to build.

    Attributes:
        model: name of a model, an ONNX file, an artifact, a request, a module in memory (see
            `deploy.module_request`), or None for the newest float32 export. A model without a float32 export is
            exported first, and so is every request.
        name: name of the folder and the files; default: that of the export.
        fp16: use FP16 weights and activations, with as few nodes in float32 as hold; inputs and outputs stay float32.
        min_sqnr, keep_float, only_half, plan: of FP16 without INT8, see `deploy.exporting.half_options.HalfOptions`.
        int8: quantize to INT8, calibrated with ``calib``; with ``fp16``, the other layers compute in FP16.
        fp8: quantize to FP8 (E4M3), calibrated with ``calib``, for GPUs of compute capability 8.9 and later.
        calib: calibration data; ``calib``, ``method`` and ``samples`` are those of `deploy.quantize`.
        method: how the range of each tensor is chosen.
        samples: maximum number of calibration samples.
        batch: range ``MIN:OPT:MAX`` of a dynamic batch size, default ``1:8:32``; several ranges, separated by commas,
            make several optimization profiles.
        shapes: ranges of other dynamic dimensions, ``NAME:MIN:OPT:MAX``, or of the whole shape of an input,
            ``INPUT:1x3x64x64:8x3x64x64:32x3x64x64``; several separated by commas as for ``batch``.
        runtime: ``tensorrt``, ``tensorrt-rtx``, or ``auto``: ``tensorrt`` if it is installed and there is a GPU, else
            ``tensorrt-rtx``.
        workspace_bytes: limit of the builder's scratch GPU memory in bytes; None for the library's default.
        timing_cache: file of measured kernel times, read and written; only for ``tensorrt``.
        optimization_level: 0 to 5, a higher level searches longer; None for the library's default.
        compute_capabilities: GPUs to build for, such as ``8.6``; only for ``tensorrt-rtx``. Empty for all.
        locked: lock file of an earlier build; anything that decides the engine and differs from it is an error.
    """

    model: ModelLike | None = None
    name: str | None = None
    fp16: bool = False
    min_sqnr: float | None = None
    keep_float: tuple[str, ...] = ()
    only_half: tuple[str, ...] = ()
    plan: Path | None = None
    int8: bool = False
    fp8: bool = False
    calib: str | Path | None = None
    method: str = DEFAULT_METHOD
    samples: int = DEFAULT_SAMPLES
    batch: str | None = None
    shapes: tuple[str, ...] = ()
    runtime: str = "auto"
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    locked: Path | None = None

    @property
    def precision(self) -> str:
        """The precision as manifests name it: ``fp32``, ``fp16``, ``int8``, ``int8-fp16`` or ``fp8``."""
        if self.fp8:
            return "fp8"
        if self.int8:
            return "int8-fp16" if self.fp16 else "int8"
        return "fp16" if self.fp16 else "fp32"

    @property
    def quantizes(self) -> bool:
        """Whether calibration data is needed."""
        return self.int8 or self.fp8

    def check(self) -> None:
        """Raise `UsageError` for options that need others, or exclude each other."""
        if self.fp8 and (self.int8 or self.fp16):
            raise UsageError(f"--fp8 and --{'int8' if self.int8 else 'fp16'} exclude each other.", "give one of them")
        if self.quantizes and self.calib is None:
            flag = "--fp8" if self.fp8 else "--int8"
            raise UsageError(f"{flag} needs calibration data: --calib.", f"deploy trt build {flag} --calib images/")
        if self.calib is not None and not self.quantizes:
            raise UsageError(f"--calib {self.calib}: only --int8 and --fp8 use calibration data.", "add --int8")
        if not self.quantizes and (self.method, self.samples) != (DEFAULT_METHOD, DEFAULT_SAMPLES):
            raise UsageError("--method and --samples are only used with --int8 and --fp8.", "add --int8")
        self.half()

    def half(self) -> HalfOptions | None:
        """Return the options of FP16 without INT8; None where it is not asked for."""
        precision = "fp16" if self.precision == "fp16" else "int8" if self.quantizes else "fp32"
        return half_options(
            precision, self.min_sqnr, self.keep_float, self.only_half, self.plan, needs="--fp16, without --int8"
        )

    def command(self, model: str, runtime: str) -> str:
        """Return the command that builds the engine again; ``runtime`` replaces ``auto``."""
        flags = [name for name, given in (("--fp16", self.fp16), ("--int8", self.int8), ("--fp8", self.fp8)) if given]
        options = [
            ("--min-sqnr", self.min_sqnr),
            *(("--keep-float", pattern) for pattern in self.keep_float),
            *(("--only-half", pattern) for pattern in self.only_half),
            ("--plan", self.plan),
            ("--calib", self.calib),
            ("--method", self.method if self.method != DEFAULT_METHOD else None),
            ("--samples", self.samples if self.samples != DEFAULT_SAMPLES else None),
            ("--batch", self.batch),
            *(("--shape", text) for text in self.shapes),
            ("--runtime", runtime),
            ("--workspace", self.workspace_bytes),
            ("--timing-cache", self.timing_cache),
            ("--optimization-level", self.optimization_level),
            ("--compute-capability", ",".join(self.compute_capabilities) or None),
            ("--name", self.name),
        ]
        pairs = [str(part) for name, value in options if value is not None for part in (name, value)]
        return shlex.join(["deploy", "trt", "build", model, *flags, *pairs])
