"""A lock file: everything that decides an engine, so that a later build makes the same one or says what differs."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deploy.core.artifact import sha256
from deploy.core.errors import ArtifactError
from deploy.core.plain import from_plain, to_plain
from deploy.support.cuda_driver import gpus
from deploy.support.tensorrt_library import Library
from exporters.onnx_to_tensorrt import EngineOptions

SUFFIX = ".lock.json"
RESULTS = ("engine", "command")
"""Fields of a lock that are no inputs of the build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLock:
    """What an engine was built from, and what came out.

    Attributes:
        library, version: what built it.
        system: operating system and processor, ``Linux x86_64``.
        gpu: the GPU on which TensorRT timed its kernels; None for TensorRT for RTX, which times none.
        graph: SHA-256 of the ONNX file and its external data, by the end of the name: ``.onnx``, ``.onnx.data``; None
            before it is written.
        timing_cache: SHA-256 of the timing cache before the build; None if there was none.
        engine: SHA-256 of the engine.
        command: the command that builds it.
    """

    library: str
    version: str
    system: str
    gpu: str | None
    graph: Mapping[str, str] | None
    precision: str
    profiles: Sequence[Mapping[str, Any]]
    workspace_bytes: int | None
    optimization_level: int | None
    compute_capabilities: Sequence[str]
    timing_cache: str | None
    engine: str = ""
    command: str = ""

    @classmethod
    def of(cls, library: Library, graph: Path | None, precision: str, options: EngineOptions) -> EngineLock:
        """Return the lock of a build that has not begun; ``graph`` is None before it is written."""
        files = {".onnx": graph, ".onnx.data": graph.with_name(f"{graph.name}.data")} if graph else {}
        gpu = next(iter(gpus()), None) if library.name == "tensorrt" else None
        cache = options.timing_cache
        return cls(
            library=library.name,
            version=library.version,
            system=f"{platform.system()} {platform.machine()}",
            gpu=f"{gpu.name}, compute capability {gpu.capability}" if gpu else None,
            graph={end: sha256(path) for end, path in files.items() if path.is_file()} or None,
            precision=precision,
            profiles=to_plain(options.profiles),
            workspace_bytes=options.workspace_bytes,
            optimization_level=options.level,
            compute_capabilities=list(options.compute_capabilities),
            timing_cache=sha256(cache) if cache and cache.is_file() else None,
        )

    @classmethod
    def read(cls, path: Path) -> EngineLock:
        """Read a lock file.

        Raises:
            ArtifactError: there is no such file, or it is not a lock file.
        """
        try:
            return from_plain(cls, json.loads(path.read_text(encoding="utf-8")))
        except OSError as exc:
            hint = f"deploy trt build writes one beside each engine: NAME{SUFFIX}"
            raise ArtifactError(f"{path}: no such lock file.", hint) from exc
        except ValueError as exc:
            raise ArtifactError(f"{path}: not a lock file of an engine: {exc}.") from exc

    def write(self, engine: Path) -> Path:
        """Write the lock beside an engine, and return its path."""
        path = engine.with_suffix(SUFFIX)
        path.write_text(json.dumps(to_plain(self), indent=1) + "\n", encoding="utf-8")
        return path

    def differences(self, locked: EngineLock) -> list[str]:
        """Return what differs between the inputs of a build and those of a locked one, one text for each.

        A graph that is not written yet is not compared.
        """
        texts = []
        unknown = ("graph",) if self.graph is None else ()
        for name in (item.name for item in fields(self) if item.name not in (*RESULTS, *unknown)):
            here, there = to_plain(getattr(self, name)), to_plain(getattr(locked, name))
            if here != there:
                texts.append(f"{name.replace('_', ' ')}: {_short(here)}, the lock has {_short(there)}")
        return texts


def _short(value: Any) -> str:
    """Return a value for a message; digests are cut."""
    if value is None or value == []:
        return "none"
    if isinstance(value, dict):
        return " ".join(f"{name} {text[:12]}" for name, text in value.items())
    return value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value).strip('"')
