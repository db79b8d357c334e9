"""The calibration table of a model: taken where it still holds, made where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import calibration
from calibration.table import SCHEMA as TABLE_SCHEMA
from calibration.table import STABLE, CalibrationTable
from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.environment import version
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.runner import Feeds
from deploy.core.store import Store
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.source import Source
from deploy.quantization.worker import GraphChild
from deploy.support.onnx_file import opset

FORMAT = "calibration"
FEW = 32
"""Samples below which ranges are hardly stable, whatever they say of themselves."""


def batch_of(graph: onnx.ModelProto) -> tuple[int, bool]:
    """Samples in a batch, and whether the graph fixes that."""
    first = next(value for value in graph.graph.input).type.tensor_type.shape.dim
    return calibration.batch_size(graph), bool(first and first[0].dim_value)


def calibrated(
    source: Source,
    graph: onnx.ModelProto,
    samples: CalibrationSamples,
    method: str,
    child: GraphChild,
    store: Store,
    progress: Progress,
) -> tuple[CalibrationTable, bool]:
    """The table for these samples and this method, and whether it was there.

    Args:
        source: what is quantized.
        graph: of it, prepared.
        samples: to calibrate with.
        method: of choosing ranges.
        child: has prepared the graph, and runs it.
        store: where the table is.
        progress: told what happens.

    Raises:
        DataError: the samples cannot be used.
        BackendError: the graph cannot be run.
    """
    key = _key(source, graph, samples, method)
    path = store.folder(source.slug) / f"{source.slug}.calibration.json"
    table = _stored(path, key, progress)
    reused = table is not None
    if table is None:
        size, fixed = batch_of(graph)
        watch = _Alike(samples.batches(size, whole=fixed))
        with progress.stage("calibrating"):
            seen = child.collect(watch, samples=samples.count, advance=progress.advance)
        with progress.stage(f"choosing ranges ({method})"):
            table = CalibrationTable.of(seen, method, key)
        if watch.alike:
            progress.warn(f"{samples.summary['name']}: all {seen.samples} samples are the same.")
        _write(source, table, path.name, store)
    _warn(table, progress)
    return table, reused


def _key(source: Source, graph: onnx.ModelProto, samples: CalibrationSamples, method: str) -> dict[str, Any]:
    """What the ranges depend on; plain values, equal after a trip through JSON."""
    packages = ("deploy-toolkit", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")
    return {
        "graph": source.digest,
        "opset": opset(graph),
        "weights": list(source.weights.identity),
        "data": samples.summary["digest"],
        "samples": samples.count,
        "preprocessing": _plain(samples.summary.get("preprocessing")),
        "method": method,
        "versions": {name: found for name in packages if (found := version(name))},
        "table": TABLE_SCHEMA,
    }


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, (list, tuple)) else values


def _stored(path: Path, key: dict[str, Any], progress: Progress) -> CalibrationTable | None:
    """The table that is there, if it holds; if not, why not is said."""
    if not path.exists():
        return None
    try:
        artifact = Artifact.open(path)
        artifact.verify()
        table = CalibrationTable.from_json(path.read_text(encoding="utf-8"), path)
    except ArtifactError as exc:
        progress.note(f"{exc.message} Calibrating again.")
        return None
    changed = table.changed(key)
    if changed:
        progress.note(f"calibrating again: {', '.join(changed)} changed since {path}")
        return None
    progress.note(f"taking the ranges of {path}: same graph, data, preprocessing, method and versions")
    return table


def _write(source: Source, table: CalibrationTable, name: str, store: Store) -> None:
    with store.transaction(source.slug) as transaction:
        path = transaction.path(name)
        path.write_text(table.to_json(), encoding="utf-8")
        transaction.publish(
            Manifest(
                model=source.model,
                slug=source.slug,
                format=FORMAT,
                precision="fp32",
                files=(Payload.of(path),),
                inputs=source.inputs,
                outputs=source.outputs,
                weights=source.weights,
                preprocessing=source.preprocessing,
                options=dict(table.key),
                parent=source.digest,
            )
        )


def _warn(table: CalibrationTable, progress: Progress) -> None:
    if table.samples < FEW:
        progress.warn(f"{table.samples} samples are few: ranges are seldom stable below {FEW}.")
    moved = table.moved
    if moved is not None and moved > STABLE:
        progress.warn(
            f"the ranges still moved by {moved:.0%} in the last quarter of the samples "
            f"(stable is at most {STABLE:.0%}): give more samples."
        )
    dead = table.dead
    if dead:
        count = sum(pair[0] for pair in dead.values())
        shown = ", ".join(f"{name} ({some} of {every})" for name, (some, every) in list(dead.items())[:3])
        progress.note(f"{count} channels never changed, in {len(dead)} tensors: {shown}")


class _Alike:
    """Batches as they come, watched for whether all samples are the same."""

    def __init__(self, batches: Iterator[Feeds]) -> None:
        self._batches = batches
        self._first: Feeds | None = None
        self.alike = True

    def __iter__(self) -> Iterator[Feeds]:
        for batch in self._batches:
            first = self._first = self._first or {name: values[:1].copy() for name, values in batch.items()}
            self.alike &= all(bool(np.all(values == first[name])) for name, values in batch.items())
            yield batch
