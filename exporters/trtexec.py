"""The command line of NVIDIA's own tools that does what `exporters.onnx_to_tensorrt.build` does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.onnx_to_tensorrt import EngineOptions, Profile

TOOLS = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}


def trtexec(library: str, source: Path, path: Path, options: EngineOptions) -> list[str]:
    """Arguments, the tool first.

    Args:
        library: ``tensorrt`` or ``tensorrt-rtx``.
        source: the ONNX file; every precision is in it already.
        path: the engine that the tool is to write.
        options: as for `exporters.onnx_to_tensorrt.build`.
    """
    line = [TOOLS[library], f"--onnx={source}", f"--saveEngine={path}", "--skipInference", "--noTF32"]
    if library == "tensorrt":
        line.append("--stronglyTyped")  # needed by 10.x, taken without effect by 11
    for index, profile in enumerate(options.profiles):
        if len(options.profiles) > 1:
            line.append(f"--profile={index}")
        line += _shapes(profile)
    if options.workspace_bytes is not None:
        line.append(f"--memPoolSize=workspace:{options.workspace_bytes}B")
    if options.level is not None:
        line.append(f"--builderOptimizationLevel={options.level}")
    if options.timing_cache is not None:
        line.append(f"--timingCacheFile={options.timing_cache}")
    if options.compute_capabilities:
        plain = (text.replace(".", "") for text in options.compute_capabilities)
        line.append(f"--computeCapabilities={','.join(plain)}")
    return line


def quoted(line: Sequence[str]) -> str:
    """One line for a POSIX shell."""
    return shlex.join(line)


def _shapes(profile: Profile) -> list[str]:
    ends = {
        "min": {name: shapes.min for name, shapes in profile.items()},
        "opt": {name: shapes.opt for name, shapes in profile.items()},
        "max": {name: shapes.max for name, shapes in profile.items()},
    }
    return [
        f"--{end}Shapes=" + ",".join(f"{_name(name)}:{'x'.join(map(str, sizes))}" for name, sizes in shapes.items())
        for end, shapes in ends.items()
    ]


def _name(name: str) -> str:
    """A colon parts the name from its shape, a comma one input from the next: such names stand in quotes."""
    return f"'{name}'" if ":" in name or "," in name else name
