"""Terminal output of ``deploy trt``: an engine that was built or inspected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deploy.core.start import since_start
from deploy.support.engine_file import arithmetic
from deploy.support.formatting import size
from deploy.terminal.console import STYLE, console, escape, rows, weights_line

if TYPE_CHECKING:
    from deploy.core.artifact import Artifact
    from deploy.engines.build import BuildReport
    from deploy.engines.inspect import EngineReport
    from deploy.engines.preflight import PreflightReport


def show_built(report: BuildReport, *, step: bool = False) -> None:
    """Print the summary of a build, with the time of the command or, if it is a ``step`` of one, of the build."""
    manifest = report.artifact.manifest
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(report.built.bytes)),
        ("model", escape(manifest.model)),
        ("trained", weights_line(manifest.weights)),
        ("library", f"{report.built.library} {report.built.version}"),
        *_options(report.artifact),
        ("graph", escape(str(report.onnx.path)) if report.onnx else ""),
        ("state", _state(report)),
        ("lock", _lock(report)),
        ("took", f"{report.seconds if step else since_start():.1f} s"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def _lock(report: BuildReport) -> str:
    """Return the lock file, or how the engine compares with the locked one."""
    if report.same is None:
        return escape(str(report.lock))
    if report.same:
        return "the engine is the locked one, to the byte"
    return "everything that decides the engine is as locked; the library built other bytes from it"


def _state(report: BuildReport) -> str:
    """Return whether the engine was run, the verdict, and the SQNR of an INT8 engine's worst output."""
    why = report.proof.reason if report.proof else "no suitable GPU"
    style = STYLE.get(report.verdict or "inconclusive", "bold")
    outputs = (
        (report.proof.parity or {}).get("outputs", [])
        if report.proof and report.verdict in ("measured", "poor")
        else []
    )
    ratios = [item["sqnr_db"] for item in outputs if item["sqnr_db"] is not None]
    measured = f" (SQNR {min(ratios):.1f} dB relative to the float graph)" if ratios else ""
    return f"[{style}]{report.state}[/]" + (f": {escape(why)}" if why else "") + measured


def show_engine(report: EngineReport) -> None:
    """Print the description of an engine."""
    manifest = report.artifact.manifest
    parent = f" (ONNX file it was built from: {size(report.parent_bytes)})" if report.parent_bytes else ""
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(manifest.files[0].bytes) + parent),
        ("model", escape(manifest.model)),
        ("library", f"{report.options['library']} {report.options['version']}"),
        ("inputs", "\n".join(escape(str(spec)) for spec in manifest.inputs)),
        ("outputs", "\n".join(escape(str(spec)) for spec in manifest.outputs)),
        *_options(report.artifact),
        ("layers", ", ".join(f"{count} {kind.lower()}" for kind, count in report.options["layers"].items())),
        *_opened(report),
        ("digest", "matches the manifest"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def show_preflight(report: PreflightReport) -> None:
    """Print where an engine will run."""
    capabilities = ", ".join(report.capabilities) or "not known: the library is not installed in this version"
    gpus = f"{report.gpu} only ({capabilities})" if report.gpu else capabilities
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("library", f"{report.library}, in exactly this version"),
        ("GPUs", escape(f"compute capability {gpus}" if report.capabilities and not report.gpu else gpus)),
        ("driver", f"for CUDA {report.cuda} or later" if report.cuda else "not known"),
        ("does not run on", escape(", ".join(report.missing))),
        ("here", escape(report.here or "nothing speaks against it")),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))


def _opened(report: EngineReport) -> list[tuple[str, str]]:
    """Return what the engine itself reports, or why it was not opened."""
    if report.shares is None:
        return [("not opened", f"{escape(report.closed or '')}; the values above are from the manifest")]
    shares = report.shares
    return [
        ("engine's layers", _share(shares.layers) + (f", {shares.unknown} of unknown type" if shares.unknown else "")),
        ("engine's weights", _share(shares.weights) or "not reported"),
        ("memory", f"{size(report.memory_bytes or 0)} of GPU memory per execution context"),
    ]


def _share(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{count / total:.0%} {kind}" for kind, count in counts.items())


def _options(artifact: Artifact) -> list[tuple[str, str]]:
    options = artifact.manifest.options
    weighted = options["weighted"]
    total = sum(weighted.values())
    layers = ", ".join(f"{count} of {total} in {kind}" for kind, count in weighted.items())
    weights = ", ".join(f"{size(count)} in {kind}" for kind, count in options["weight_bytes"].items())
    profiles = [
        f"{escape(name)} {_shape(item['min'])} to {_shape(item['max'])}, optimized for {_shape(item['opt'])}"
        for profile in options["profiles"]
        for name, item in profile.items()
    ]
    return [
        ("weighted layers", f"{layers} (types in the parsed network)"),
        ("weights", f"{weights} (in the parsed network)"),
        ("arithmetic", arithmetic(artifact) or ""),
        ("profiles" if len(options["profiles"]) > 1 else "profile", "\n".join(profiles)),
        ("GPUs", escape(", ".join(options["compute_capabilities"]) or _gpus(options))),
    ]


def _gpus(options: Mapping[str, Any]) -> str:
    if options["library"] == "tensorrt" and options["gpu"]:
        return f"{options['gpu']['name']} (compute capability {options['gpu']['capability']})"
    return "chosen by the library"


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
