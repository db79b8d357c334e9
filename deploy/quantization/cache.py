"""The calibration table of a model: reused if nothing it depends on has changed, computed otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import calibration
from calibration.graph import first_counted
from calibration.table import SCHEMA as TABLE_SCHEMA
from calibration.table import STABLE, CalibrationTable
from deploy.core.artifact import Artifact, Payload
from deploy.core.environment import version
from deploy.core.errors import ArtifactError
from deploy.core.plain import to_plain
from deploy.core.progress import Progress
from deploy.core.regular import read_text
from deploy.core.runner import Feeds
from deploy.core.store import Store
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.source import PRECISION, Source
from deploy.quantization.worker import GraphChild
from deploy.support.onnx_file import opset

FORMAT = "calibration"
STABLE_SAMPLES = 32
"""Number of samples below which ranges are rarely stable."""


def batch_of(graph: onnx.ModelProto) -> tuple[int, bool]:
    """Return the number of samples in a batch, and whether the graph fixes it."""
    first = first_counted(graph)
    return calibration.batch_size(graph), first is not None and bool(first.shape.dim[0].dim_value)


def calibrated(
    source: Source,
    graph: onnx.ModelProto,
    samples: CalibrationSamples,
    method: str,
    scaled: Mapping[str, Sequence[str]],
    child: GraphChild,
    store: Store,
    progress: Progress,
) -> tuple[CalibrationTable, bool]:
    """Return the calibration table for these samples and this method, and whether it was reused.

    ``graph`` is the prepared graph of the export, in which the channels of the tensors in ``scaled`` were scaled;
    ``child`` prepared it and runs it.
    """
    key = _key(source, graph, samples, method, scaled)
    path = store.folder(source.slug) / f"{source.slug}.calibration.json"
    table = _load(path, key, progress)
    reused = table is not None
    if table is None:
        size, fixed = batch_of(graph)
        watch = _Watched(samples.batches(size, fixed=fixed))
        with progress.stage("calibrating"):
            seen = child.collect(watch, samples=samples.count, advance=progress.advance)
        with progress.stage(f"choosing ranges ({method})"):
            table = CalibrationTable.of(seen, method, key)
        if watch.identical:
            progress.warn(f"{samples.summary['name']}: all {seen.samples} samples are identical.")
        _save(source, table, path.name, store)
    _warn(table, progress)
    return table, reused


def _key(
    source: Source,
    graph: onnx.ModelProto,
    samples: CalibrationSamples,
    method: str,
    scaled: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return everything that the ranges depend on, as values that JSON preserves."""
    packages = ("deploy-toolkit", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")
    return {
        "graph": source.digest,
        "opset": opset(graph),
        "weights": list(source.weights.identity),
        "data": samples.summary["digest"],
        "samples": samples.count,
        "preprocessing": to_plain(samples.summary.get("preprocessing")),
        "method": method,
        "scaled": {name: list(tensors) for name, tensors in scaled.items()},
        "versions": {name: installed for name in packages if (installed := version(name))},
        "table": TABLE_SCHEMA,
    }


def _load(path: Path, key: dict[str, Any], progress: Progress) -> CalibrationTable | None:
    """Return the stored table if it is intact and its key is the same."""
    if not path.exists():
        return None
    try:
        artifact = Artifact.open(path)
        artifact.verify()
        table = CalibrationTable.from_json(read_text(path), path)
    except (ArtifactError, OSError, UnicodeDecodeError) as exc:
        progress.note(f"{exc} Calibrating again.")
        return None
    changed = table.changed(key)
    if changed:
        progress.note(f"calibrating again: {', '.join(changed)} changed since {path}")
        return None
    progress.note(f"reusing the ranges of {path}: same graph, data, preprocessing, method and versions")
    return table


def _save(source: Source, table: CalibrationTable, name: str, store: Store) -> None:
    with store.transaction(source.slug) as transaction:
        path = transaction.path(name)
        path.write_text(table.to_json(), encoding="utf-8")
        manifest = source.derived_manifest(
            format=FORMAT, precision=PRECISION, files=(Payload.of(path),), options=dict(table.key)
        )
        transaction.publish(manifest)


def _warn(table: CalibrationTable, progress: Progress) -> None:
    if table.samples < STABLE_SAMPLES:
        progress.warn(
            f"{table.samples} calibration samples are few: ranges are rarely stable with fewer than {STABLE_SAMPLES}."
        )
    moved = table.moved
    if moved is not None and moved > STABLE:
        progress.warn(
            f"the ranges are not stable: they still changed by {moved:.0%} over the last quarter of the samples "
            f"(stable: at most {STABLE:.0%}). Use more samples."
        )
    dead = table.dead
    if dead:
        count = sum(pair[0] for pair in dead.values())
        shown = ", ".join(f"{name} ({constant} of {total})" for name, (constant, total) in list(dead.items())[:3])
        progress.note(f"{count} constant channels in {len(dead)} tensors: {shown}")


class _Watched:
    """Yields batches unchanged and records whether all samples are identical."""

    def __init__(self, batches: Iterator[Feeds]) -> None:
        self._batches = batches
        self._first: Feeds | None = None
        self.identical = True

    def __iter__(self) -> Iterator[Feeds]:
        for batch in self._batches:
            first = self._first = self._first or {
                name: values[:1].copy() for name, values in batch.items() if values.ndim
            }
            self.identical &= all(bool(np.all(batch[name] == value)) for name, value in first.items())
            yield batch
