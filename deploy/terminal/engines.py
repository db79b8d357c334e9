"""TensorRT engines, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.support.formatting import size
from deploy.terminal.markup import escape
from deploy.terminal.results import STYLE, console, rows, weights_line

if TYPE_CHECKING:
    from deploy.engines.build import BuildReport
    from deploy.engines.inspect import EngineReport


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
        ("state", _state(report)),
        ("took", f"{report.seconds:.1f} s"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def _state(report: BuildReport) -> str:
    """Whether it was run, and what that showed."""
    why = report.proof.why if report.proof else "there is nothing here that runs it"
    style = STYLE.get(report.verdict or "inconclusive", "bold")
    return f"[{style}]{report.state}[/]" + (f": {escape(why)}" if why else "") + _measured(report)


def _measured(report: BuildReport) -> str:
    """The worst output's distance from the float graph, where the engine is in eight bits."""
    outputs = (report.proof.parity or {}).get("outputs", []) if report.proof and report.verdict == "measured" else []
    found = [item["sqnr_db"] for item in outputs if item["sqnr_db"] is not None]
    return f" (SQNR {min(found):.1f} dB beside the float graph)" if found else ""


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
        *_opened(report),
        ("digest", "as its manifest records"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def _opened(report: EngineReport) -> list[tuple[str, str]]:
    """What the engine says of itself, or why it was not asked."""
    if report.shares is None:
        return [("not opened", f"{escape(report.closed or '')}; what is told is its manifest's")]
    found = report.shares
    return [
        ("engine's layers", _share(found.layers) + (f", {found.unknown} do not say" if found.unknown else "")),
        ("engine's weights", _share(found.weights) or "it does not say"),
        ("memory", f"{size(report.memory_bytes or 0)} of the GPU for a context"),
    ]


def _share(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{count / total:.0%} {kind}" for kind, count in counts.items())


def _options(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    weighted = options["weighted"]
    total = sum(weighted.values())
    computes = ", ".join(f"{count} of {total} in {kind}" for kind, count in weighted.items())
    bytes_ = options["weight_bytes"]
    weights = ", ".join(f"{size(count)} in {kind}" for kind, count in bytes_.items())
    profiles = [
        f"{escape(name)} {_shape(item['min'])} to {_shape(item['max'])}, optimized for {_shape(item['opt'])}"
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
