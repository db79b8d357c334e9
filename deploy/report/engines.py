"""TensorRT engines, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from deploy.report.terminal import console, rows, size, weights_line

if TYPE_CHECKING:
    from deploy.workflows.build import BuildReport
    from deploy.workflows.inspect_engine import EngineReport


def show_built(report: BuildReport) -> None:
    """The closing summary of a build."""
    manifest = report.artifact.manifest
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(report.built.bytes)),
        ("model", escape(manifest.model)),
        ("trained", weights_line(manifest.weights)),
        ("library", f"{report.built.library} {report.built.version}"),
        *_options(manifest.options),
        ("graph", escape(str(report.onnx.path)) if report.onnx else ""),
        ("state", f"[bold yellow]{report.state}[/]: there is nothing here that runs it"),
        ("took", f"{report.seconds:.1f} s"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def show_engine(report: EngineReport) -> None:
    """What an engine is."""
    manifest = report.artifact.manifest
    of = f" (the ONNX it was built from: {size(report.parent_bytes)})" if report.parent_bytes else ""
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(manifest.files[0].bytes) + of),
        ("model", escape(manifest.model)),
        ("library", f"{report.options['library']} {report.options['version']}"),
        ("inputs", "\n".join(escape(str(spec)) for spec in manifest.inputs)),
        ("outputs", "\n".join(escape(str(spec)) for spec in manifest.outputs)),
        *_options(report.options),
        ("layers", ", ".join(f"{count} {kind.lower()}" for kind, count in report.options["layers"].items())),
        ("digest", "as its manifest records; not deserialised"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def _options(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    weighted = options["weighted"]
    total = sum(weighted.values())
    computes = ", ".join(f"{count} of {total} in {kind}" for kind, count in weighted.items())
    bytes_ = options["weight_bytes"]
    weights = ", ".join(f"{size(count)} in {kind}" for kind, count in bytes_.items())
    profiles = [
        f"{escape(name)} {_shape(item['least'])} to {_shape(item['greatest'])}, best at {_shape(item['best'])}"
        for profile in options["profiles"]
        for name, item in profile.items()
    ]
    return [
        ("weighted layers", f"{computes} (by the types of the parsed network)"),
        ("weights", f"{weights} (of the parsed network)"),
        ("profiles" if len(options["profiles"]) > 1 else "profile", "\n".join(profiles)),
        ("GPUs", escape(", ".join(options["compute_capabilities"]) or _gpus(options))),
    ]


def _gpus(options: Mapping[str, Any]) -> str:
    if options["library"] == "tensorrt" and options["gpu"]:
        return f"{options['gpu']['name']} (compute capability {options['gpu']['capability']})"
    return "the library's own choice"


def _shape(sizes: list[int] | tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))
