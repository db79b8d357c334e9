"""Files and records that were made from other weights than the export beside them, or for another CPU: `Stale`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, Manifest
from deploy.core.cpu import unfit
from deploy.core.model import Weights
from deploy.core.store import json_files
from deploy.support.engine_file import FORMAT as ENGINE
from deploy.support.lookup import is_export, manifest_beside, name_for
from deploy.support.recorded_command import recorded_command

NOT_JUDGED = ("safetensors", "calibration")
"""Formats of an artifact that are no files of a model: its checkpoint, and a table that has a key of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stale:
    """A file or record that was made from other weights than the newest float export in its model's folder.

    A file whose arithmetic this machine's CPU cannot do is stale, too.

    Attributes:
        path: the file or record.
        reason: both weights, or what the CPU lacks.
        command: renews it; ``DATA`` stands for calibration data that is not recorded.
    """

    path: Path
    reason: str
    command: str

    def __str__(self) -> str:
        return f"{self.path} is stale: {self.reason}. Renew it: {self.command}"


def newest_export_in(folder: Path) -> Artifact | None:
    """Return the newest float export in a folder; None if there is none."""
    found = (manifest_beside(path.with_suffix("")) for path in json_files(folder))
    exports = [item for item in found if item is not None and is_export(item.manifest)]
    return max(exports, key=lambda item: item.manifest.created, default=None)


def differ(identity: Sequence[Any], weights: Weights) -> bool:
    """Return whether weights differ from those of an `Weights.identity`, which may lack the digest."""
    known = [weights.sha256] if len(identity) == 1 else [weights.source, weights.seed]
    return list(identity) != known


def stale_file(artifact: Artifact) -> Stale | None:
    """Return why a file is stale; None if it is not."""
    manifest, export = artifact.manifest, newest_export_in(artifact.path.parent)
    if reason := unfit(manifest.options.get("cpu")):
        command = renewing_command(manifest, (export or artifact).manifest).replace(" --cpu vnni", "")
        return Stale(path=artifact.path, reason=reason, command=command)
    if export is None or export.path == artifact.path or manifest.format in NOT_JUDGED:
        return None
    if manifest.slug != export.manifest.slug or not differ(manifest.weights.identity, export.manifest.weights):
        return None
    reason = f"made from {_shown(manifest.weights.identity, manifest.weights.source)}, {_beside(export)}"
    return Stale(path=artifact.path, reason=reason, command=renewing_command(manifest, export.manifest))


def stale_records(documents: Mapping[Path, Mapping[str, Any]], export: Artifact | None) -> list[Stale]:
    """Return which records of a folder, plain values by path, are stale; timings that were measured again are not."""
    newest: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    found = []
    for path, document in sorted(documents.items(), key=lambda item: _created(item[1])):
        try:
            if document["kind"] == "timings":
                newest[_setting(document["cell"])] = path, document
            elif document["kind"] == "accuracy":
                found.append(stale_accuracy(path, document, export))
        except (KeyError, TypeError, AttributeError):  # of another version
            continue
    found += [stale_timing(path, item["cell"], item["about"], export) for path, item in newest.values()]
    return [item for item in found if item is not None]


def _created(document: Mapping[str, Any]) -> str:
    about = document.get("about")
    return str(about.get("created", "")) if isinstance(about, Mapping) else ""


def _setting(cell: Mapping[str, Any]) -> str:
    """Return what timings have in common of which the newest replaces the others."""
    other = ("digest", "versions", "options")
    options = {name: value for name, value in cell["options"].items() if name != "time_s"}
    return json.dumps([{name: value for name, value in cell.items() if name not in other}, options], sort_keys=True)


def stale_timing(
    path: Path, cell: Mapping[str, Any], about: Mapping[str, Any], export: Artifact | None
) -> Stale | None:
    """Return why a record of `deploy bench` is stale; None if it is not.

    Args:
        path: the record.
        cell: the configuration as plain values, see `deploy.bench.records.Cell`.
        about: further fields of the record.
        export: see `newest_export_in`.
    """
    identity = about.get("weights")
    if export is None or not identity or not differ(identity, export.manifest.weights):
        return None
    reason = f"measured with {_shown(identity, str(identity[0]))}, {_beside(export)}"
    return Stale(path=path, reason=reason, command=bench_command(cell, about))


def stale_accuracy(path: Path, document: Mapping[str, Any], export: Artifact | None) -> Stale | None:
    """Return why a record of `deploy evaluate` is stale, by the weights that PyTorch ran; None if it is not."""
    for row in document["rows"] if export is not None else ():
        identity = row["digest"]
        if export and isinstance(identity, list) and differ(identity, export.manifest.weights):
            name = name_for(export.manifest.model, export.manifest.slug)
            return Stale(
                path=path,
                reason=f"measured with {_shown(identity, str(identity[0]))}, {_beside(export)}",
                command=shlex.join(["deploy", "evaluate", name, "--data", str(document["data"]["name"])]),
            )
    return None


def bench_command(cell: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return the command that times a configuration again; ``about`` is that of its record."""
    given = about.get("given") or name_for(cell["model"], cell["slug"])
    words = ["deploy", "bench", str(given), "--backends", cell["backend"]]
    words += ["--precision", cell["precision"], "--batch", str(cell["batch"]), "--threads", str(cell["threads"])]
    if cell["device"] != "cpu":
        words += ["--device", cell["device"]]
    if cell["scenario"] != "latency":
        words += ["--scenario", cell["scenario"]]
    options = cell["options"]
    for name, option in (("rate", "--rate"), ("p99_ms", "--p99"), ("mode", "--mode"), ("time_s", "--min-time")):
        if name in options and (name, options[name]) != ("time_s", 1.0):
            words += [option, str(options[name])]
    for name, size in about.get("sizes", {}).items():
        words += ["--size", f"{name}={size}"]
    if options.get("graph"):
        words.append("--graph")
    return shlex.join([*words, "--again"])


def export_command(manifest: Manifest, *flags: str) -> str:
    """Return the command that exports the model of an export again; ``flags`` are more options."""
    reference = manifest.reference
    if "name" not in reference:
        return "export the module again, in Python"
    words = ["deploy", "export", str(reference["name"])]
    if reference.get("weights", "auto") != "auto":
        words += ["--weights", str(reference["weights"])]
    words += [word for text in reference.get("inputs", ()) for word in ("--input", str(text))]
    words += ["--outputs", ",".join(reference["outputs"])] if reference.get("outputs") else []
    words += [word for key, value in reference.get("options", {}).items() for word in ("-o", f"{key}={value}")]
    words += ["--seed", str(reference["seed"])] if reference.get("seed") else []
    return shlex.join([*words, "--name", manifest.slug, *flags])


def renewing_command(manifest: Manifest, export: Manifest) -> str:
    """Return the command that makes a file again; ``export`` is the manifest of the export beside it."""
    name = name_for(manifest.model, manifest.slug)
    if command := recorded_command(manifest, "rebuild"):
        return command
    if manifest.format == ENGINE or (manifest.target == "tensorrt" and manifest.precision == "fp16"):
        flags = [f"--{part}" for part in manifest.precision.split("-") if part != "fp32"]
        calib = ["--calib", "DATA"] if {"--int8", "--fp8"} & set(flags) else []
        return shlex.join(["deploy", "trt", "build", name, *flags, *calib])
    if manifest.format == "onnx" and manifest.target is not None:
        return shlex.join(["deploy", "quantize", name, "--calib", "DATA", "--target", manifest.target])
    if manifest.format == "onnx":
        return export_command(export, "--precision", manifest.precision)
    return export_command(export, "--format", manifest.format)


def _beside(export: Artifact) -> str:
    weights = export.manifest.weights
    return f"and {export.path.name} beside it from {_shown(weights.identity, weights.source)}"


def _shown(identity: Sequence[Any], source: str) -> str:
    return f"weights {identity[0]:.8}" if len(identity) == 1 else f"weights {source!r}"
