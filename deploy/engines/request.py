"""What an engine is asked to be; enough to ask for it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from deploy.core.errors import UsageError
from deploy.quantization.defaults import METHOD, SAMPLES


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """An engine as the user asks for it.

    Attributes:
        model: a name (its newest float32 export, which is made where there is none), an ONNX file, or None for the
            newest float32 export.
        fp16: weights and activations in half precision, inputs and outputs float32.
        int8: Q/DQ for TensorRT, calibrated with ``calib``; with ``fp16`` the rest in half precision.
        calib: samples to calibrate with; this and the next two as in `deploy.quantization.quantize.quantize`.
        method: of choosing ranges.
        samples: to calibrate with, at the most.
        batch: ``MIN:OPT:MAX`` of a dynamic batch, default ``1:8:32``; several, separated by commas, for as many
            optimization profiles.
        shapes: ranges of other dynamic dimensions, ``name:min:opt:max``, likewise.
        runtime: ``tensorrt``, ``tensorrt-rtx`` or ``auto``.
        workspace_bytes: scratch memory; this and the next three as in `exporters.onnx_to_tensorrt.Options`.
        timing_cache: a file.
        level: 0 to 5.
        compute_capabilities: ``8.6``, ``12.0`` ….
    """

    model: str | Path | None = None
    fp16: bool = False
    int8: bool = False
    calib: str | Path | None = None
    method: str = METHOD
    samples: int = SAMPLES
    batch: str | None = None
    shapes: tuple[str, ...] = ()
    runtime: str = "auto"
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    level: int | None = None
    compute_capabilities: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """In the words of a manifest."""
        if self.int8:
            return "int8-fp16" if self.fp16 else "int8"
        return "fp16" if self.fp16 else "fp32"

    def check(self) -> None:
        """Hold together what belongs together.

        Raises:
            UsageError: ``int8`` without ``calib``, or the other way about.
        """
        if self.int8 and self.calib is None:
            raise UsageError(
                "--int8 needs --calib: the ranges of activations are looked up in data like the data that is to come.",
                "deploy trt build --int8 --calib images/",
            )
        if self.calib is not None and not self.int8:
            raise UsageError("--calib is for --int8; without it nothing is calibrated.")

    def command(self, model: str, runtime: str) -> str:
        """The command that builds it again.

        Args:
            model: what ``model`` turned out to be.
            runtime: what ``runtime`` turned out to be.
        """
        flags = [name for name, given in (("--fp16", self.fp16), ("--int8", self.int8)) if given]
        standard = BuildRequest()
        valued = [
            ("--calib", self.calib),
            ("--method", self.method if self.method != standard.method else None),
            ("--samples", self.samples if self.samples != standard.samples else None),
            ("--batch", self.batch),
            *(("--shape", text) for text in self.shapes),
            ("--runtime", runtime),
            ("--workspace", self.workspace_bytes),
            ("--timing-cache", self.timing_cache),
            ("--optimization-level", self.level),
            ("--compute-capability", ",".join(self.compute_capabilities) or None),
        ]
        pairs = [str(part) for name, value in valued if value is not None for part in (name, value)]
        return shlex.join(["deploy", "trt", "build", model, *flags, *pairs])
