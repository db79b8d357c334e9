"""Run one task of a sweep with the functions that the commands call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.environment import machine, version
from deploy.core.errors import DeployError, MissingPackageError, ParityError
from deploy.core.interrupt import stoppable
from deploy.core.plain import from_plain
from deploy.core.progress import Progress
from deploy.core.remote import Reply, notify
from deploy.core.runner import Feeds
from deploy.core.store import Store
from deploy.models.request import ModelRequest, split_key
from deploy.models.trusted import names_code, remember
from deploy.support.lookup import newest_variants
from deploy.sweeps.task import Notify, Work, is_user_code

INTERVAL_S = 0.5
"""Minimum time between two progress messages."""

Result = dict[str, Any]
"""Result of a task: ``made``: digests of artifacts by path; ``files``: all files that belong to it; and more."""


class TaskWorker:
    """The object in a worker process: a signal discards the partial results of the current task."""

    def run(self, _: Feeds, work: dict[str, Any], root: str) -> Reply:
        """Run a task and send its progress to the parent."""
        with stoppable():
            return do_task(work, Path(root), notify), {}


class ProgressForwarder(Progress):
    """Sends progress messages to the process that drives the sweep."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._last = 0.0

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Send the title of a step."""
        self._notify({"doing": title})
        yield

    def note(self, text: str) -> None:
        """Send a note."""
        self._notify({"note": text})

    def warn(self, text: str) -> None:
        """Send a warning."""
        self._notify({"warn": text})

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Send the progress of the current step, at most every `INTERVAL_S` seconds."""
        if time.monotonic() - self._last >= INTERVAL_S:
            self._last = time.monotonic()
            self._notify({"doing": f"{done} of {total}: {text}".removesuffix(": ")})

    def saved(self, paths: Sequence[str]) -> None:
        """Send the paths of finished files, relative to the artifacts directory."""
        self._notify({"saved": list(paths)})


def do_task(work: Work, root: Path, notify: Notify) -> dict[str, Any]:
    """Run a task, as `deploy.sweeps.plan` describes it; ``root`` is the artifacts directory of this machine.

    Returns:
        ``state`` (``done``, ``found`` or ``failed``), ``reason`` and ``exit_code`` of a failure, ``seconds``,
        ``machine``, and the fields of the kind of task; paths are relative to ``root``.
    """
    began = time.perf_counter()
    result: Result
    try:
        installed = version("deploy-toolkit")
        if work["deploy"] != installed:
            text = f"deploy-toolkit is {installed} on this node, and {work['deploy']} where the sweep was started."
            raise DeployError(text, "install the same version on all nodes")
        result = {"state": "done", **KINDS[work["kind"]](work, Store(root), ProgressForwarder(notify))}
    except DeployError as exc:
        hint = f" ({exc.hint})" if exc.hint else ""
        result = {"state": "failed", "reason": f"{exc.message}{hint}", "exit_code": exc.exit_code}
    except Exception as exc:  # an exception of a library ends this task, not the sweep
        result = {"state": "failed", "reason": f"{type(exc).__name__}: {exc}", "exit_code": 1}
    return {**result, "seconds": round(time.perf_counter() - began, 3), "machine": machine()}


def _export(work: Work, store: Store, progress: ProgressForwarder) -> Result:
    from deploy.exporting.export import export_model

    request, precision = _request(work), work["precision"]
    if not work["again"]:
        present = _newest_onnx(work, store, precision)
        if present is not None and _matches(present, request, store):
            verdict = (present.manifest.parity or {}).get("verdict")
            return {"state": "found", "verdict": verdict, **_files_of([present], store)}
    report = export_model(request, artifacts=store.root, precision=precision, progress=progress)
    if report.parity.verdict == "fail":
        raise ParityError(f"the {precision} export failed the parity check: {'; '.join(report.parity.reasons[:2])}")
    return {"verdict": report.parity.verdict, **_files_of([report.artifact], store)}


def _newest_onnx(work: Work, store: Store, precision: str) -> Artifact | None:
    """Return the newest ONNX export of the model in a precision, with its digest verified."""
    for artifact in newest_variants(store, work["model"]):
        manifest = artifact.manifest
        if (manifest.format, manifest.precision, manifest.target) == ("onnx", precision, None):
            artifact.verify()
            return artifact
    return None


def _request(work: Work) -> ModelRequest:
    """Return the request of a task; the user named its model in the document of the sweep, maybe on another machine."""
    request = from_plain(ModelRequest, work["request"])
    if names_code(request.name):
        remember(request)
    return request


def _matches(artifact: Artifact, request: ModelRequest, store: Store) -> bool:
    """Whether an export was made from this request: the same options, inputs, seed and weights.

    Always False for user code and programs, which can be compared only by running them.
    """
    from deploy.models.open import request_of, trained_checkpoint
    from deploy.models.request import checkpoint_as_weights
    from deploy.models.weights import digest as checkpoint_digest

    now, then = checkpoint_as_weights(request), request_of(artifact)
    same = now.options.items() <= then.options.items() and now.inputs == then.inputs and now.seed == then.seed
    if not same or is_user_code(now.name):
        return False
    digest = artifact.manifest.weights.sha256
    if now.weights == "auto" and (checkpoint := trained_checkpoint(now, store)) is not None:
        return checkpoint.manifest.files[0].sha256 == digest
    path, key = split_key(now.weights)
    if path.is_file():
        return key == split_key(then.weights)[1] and checkpoint_digest(path) == digest
    return now.weights == then.weights


def _float_export(work: Work, store: Store) -> Artifact:
    artifact = _newest_onnx(work, store, "fp32")
    if artifact is None:
        raise DeployError(f"{work['model']}: no float32 export found.")
    return artifact


def _quantize(work: Work, store: Store, progress: ProgressForwarder) -> Result:
    from deploy.quantization import DEFAULT_SAMPLES
    from deploy.quantization.quantize import quantize

    report = quantize(
        _float_export(work, store).path,
        calib=work["calib"],
        target=work["target"],
        samples=work["samples"] or DEFAULT_SAMPLES,
        artifacts=store.root,
        progress=progress,
    )
    if report.verdict == "fail":
        raise ParityError(f"the INT8 file failed its check: {'; '.join(report.reasons[:2])}")
    tables = [item for item in store.artifacts(report.artifact.manifest.slug) if item.manifest.format == "calibration"]
    return {"verdict": report.verdict, **_files_of([report.artifact, *tables], store)}


def _build(work: Work, store: Store, progress: ProgressForwarder) -> Result:
    from deploy.engines.build import build_engine
    from deploy.engines.request import BuildRequest
    from deploy.quantization import DEFAULT_SAMPLES

    int8 = work["precision"] == "int8"
    request = BuildRequest(
        model=_float_export(work, store).path,
        fp16=work["precision"] == "fp16",
        int8=int8,
        calib=work["calib"] if int8 else None,
        samples=(work["samples"] or DEFAULT_SAMPLES) if int8 else DEFAULT_SAMPLES,
    )
    report = build_engine(request, artifacts=store.root, progress=progress)
    if report.verdict == "fail":
        raise ParityError("the engine failed the parity check.")
    made = [report.artifact, *([report.onnx] if report.onnx else [])]
    return {"verdict": report.verdict, "note": report.state, **_files_of(made, store)}


def _evaluate(work: Work, store: Store, progress: ProgressForwarder) -> Result:
    from deploy.evaluation.evaluate import evaluate_models

    report = evaluate_models((work["model"],), data=work["data"], artifacts=store.root, progress=progress)
    slugs = {row.slug for row in report.rows}
    files = [path for slug in slugs for path in store.records("evaluation", slug)]
    result: Result = {"verdict": report.verdict, "made": {}, "files": _relative(files, store)}
    if report.verdict == "fail":
        failed = [row for row in report.rows if row.verdict == "fail"]
        reason = "; ".join(f"{row.file.name if row.file else row.model}: {row.note}" for row in failed)
        result |= {"state": "failed", "reason": reason, "exit_code": ParityError.exit_code}
    return result


def _bench(work: Work, store: Store, progress: ProgressForwarder) -> Result:
    from deploy.bench.cells import choose_backends
    from deploy.bench.measure import measure_speed
    from deploy.bench.records import SkippedCell, record_path, save_skipped, skipped_path
    from deploy.bench.repetition import Budget
    from deploy.bench.rows import LatencyRow

    wanted = [(backend, precision) for backend, precision in work["wanted"]]
    skipped: list[SkippedCell] = []
    usable: list[str] = []
    for backend in dict.fromkeys(backend for backend, _ in wanted):
        try:
            usable += choose_backends((backend,))
        except MissingPackageError as exc:
            skipped += [
                SkippedCell(
                    model=work["model"], backend=backend, precision=precision, batch=batch, reason=exc.message,
                    machine=work["machine"],
                )
                for name, precision in wanted if name == backend
                for batch in work["batches"]
            ]  # fmt: skip
    for item in skipped:
        save_skipped(store.root, item)
    saved: dict[str, int] = {}
    resumed: list[bool] = []

    def listen(rows: Sequence[LatencyRow]) -> None:
        """Send new records, so that they survive the loss of this node."""
        resumed[:] = resumed or [any(row.record.repetitions for row in rows)]
        fresh = [row.record for row in rows if saved.get(row.record.cell.key) != len(row.record.repetitions)]
        saved.update({record.cell.key: len(record.repetitions) for record in fresh})
        paths = [record_path(store.root, record.cell) for record in fresh if record.repetitions]
        if paths:
            progress.saved(_relative(paths, store))

    rows: Sequence[LatencyRow] = ()
    if usable:
        report = measure_speed(
            [_model_of(work, store)],
            backends=usable,
            precisions=list(dict.fromkeys(precision for _, precision in wanted)),
            batches=work["batches"],
            threads=work["threads"],
            device=work["device"],
            repetitions=work["repetitions"],
            budget=Budget(time_s=work["min_time"]),
            seed=work["order"],
            again=work["again"],
            baseline=work["baseline"],
            artifacts=store.root,
            progress=progress,
            listener=listen,
            wanted=lambda model, backend, precision: (backend, precision) in wanted,
            kind=work["machine"],
        )
        rows = report.rows
        skipped += report.skipped
    cells = [row.record.cell for row in rows]
    records = [record_path(store.root, cell) for cell in cells]
    return {
        "records": [
            [cell.backend, cell.precision, cell.batch, path]
            for cell, path in zip(cells, _relative(records, store), strict=True)
        ],
        "skipped": [item.to_dict() for item in skipped],
        "resumed": any(resumed),
        "made": {},
        "files": _relative([*records, *(skipped_path(store.root, item) for item in skipped)], store),
    }


def _model_of(work: Work, store: Store) -> ModelRequest:
    """Return the model by its name if it was exported, since its manifest has all options; else as requested."""
    request = _request(work)
    return ModelRequest(name=work["model"], seed=request.seed) if newest_variants(store, work["model"]) else request


def _files_of(artifacts: Sequence[Artifact], store: Store) -> Result:
    made = {item.path.relative_to(store.root).as_posix(): item.manifest.files[0].sha256 for item in artifacts}
    return {"made": made, "files": _relative([path for item in artifacts for path in item.paths], store)}


def _relative(paths: Sequence[Path], store: Store) -> list[str]:
    return [path.relative_to(store.root).as_posix() for path in paths]


KINDS: Mapping[str, Callable[[Work, Store, ProgressForwarder], Result]] = {
    "export": _export,
    "quantize": _quantize,
    "build": _build,
    "evaluate": _evaluate,
    "bench": _bench,
}
