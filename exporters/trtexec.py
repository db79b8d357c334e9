"""The command line of NVIDIA's tools that builds the same engine as `exporters.onnx_to_tensorrt.build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.onnx_to_tensorrt import EngineOptions

TOOLS = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}


def trtexec(library: str, source: Path, path: Path, options: EngineOptions) -> list[str]:
    """Return the command and its arguments."""
    command = [TOOLS[library], f"--onnx={source}", f"--saveEngine={path}", "--skipInference", "--noTF32"]
    if library == "tensorrt":
        command.append("--stronglyTyped")  # needed by 10.x, ignored by 11
    for index, profile in enumerate(options.profiles):
        if len(options.profiles) > 1:
            command.append(f"--profile={index}")
        for end in ("min", "opt", "max"):
            shapes = (f"{_quoted(name)}:{'x'.join(map(str, getattr(item, end)))}" for name, item in profile.items())
            command.append(f"--{end}Shapes={','.join(shapes)}")
    if options.workspace_bytes is not None:
        command.append(f"--memPoolSize=workspace:{options.workspace_bytes}B")
    if options.level is not None:
        command.append(f"--builderOptimizationLevel={options.level}")
    if options.timing_cache is not None:
        command.append(f"--timingCacheFile={options.timing_cache}")
    if options.compute_capabilities:
        capabilities = (text.replace(".", "") for text in options.compute_capabilities)
        command.append(f"--computeCapabilities={','.join(capabilities)}")
    return command


def _quoted(name: str) -> str:
    """Quote a name that contains a separator of trtexec: a colon precedes a shape, a comma separates inputs."""
    return f"'{name}'" if ":" in name or "," in name else name
