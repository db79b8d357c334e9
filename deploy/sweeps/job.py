"""One task of a sweep, done where it runs: the same workflows that the commands call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, sha256
from deploy.core.environment import machine, version
from deploy.core.errors import DeployError, MissingPackageError, ParityError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.support.lookup import newest_variants
from deploy.sweeps.files import is_own
from deploy.sweeps.task import Say, Work

SECONDS_BETWEEN = 0.5
"""How far a task is, is told no more often."""

Outcome = dict[str, Any]
"""Of a task: ``made``, digests of artifacts by their path; ``files``, all that belongs to what came of it; and more."""


class ProgressForwarder(Progress):
    """Tells what a workflow tells."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._last = 0.0

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A step that takes time."""
        self._say({"doing": title})
        yield

    def note(self, text: str) -> None:
        """Something the user must know."""
        self._say({"note": text})

    def warn(self, text: str) -> None:
        """Something the user must not miss."""
        self._say({"warn": text})

    def advance(self, done: int, total: int, text: str = "") -> None:
        """How far the present step is."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN:
            self._last = time.monotonic()
            self._say({"doing": f"{done} of {total}: {text}".removesuffix(": ")})

    def kept(self, paths: Sequence[str]) -> None:
        """Files that are ready, below the artifacts directory."""
        self._say({"kept": list(paths)})


def do_task(work: Work, root: Path, say: Say) -> dict[str, Any]:
    """Do a task.

    Args:
        work: which; see `deploy.sweeps.plan`.
        root: the artifacts directory of this machine.
        say: told of what happens meanwhile.

    Returns:
        ``state`` (``done``, ``found`` or ``failed``), ``why`` and ``exit_code`` of a failure, ``seconds``, ``machine``,
        and what the kind of task adds; paths are relative to ``root``.
    """
    began = time.perf_counter()
    found: Outcome
    try:
        own = version("deploy-toolkit")
        if work["deploy"] != own:
            text = f"deploy-toolkit is {own} where this ran, and {work['deploy']} where the sweep was begun."
            raise DeployError(text, "install the same everywhere")
        found = {"state": "done", **KINDS[work["kind"]](work, Store(root), ProgressForwarder(say))}
    except DeployError as exc:
        hint = f" ({exc.hint})" if exc.hint else ""
        found = {"state": "failed", "why": f"{exc.message}{hint}", "exit_code": exc.exit_code}
    except Exception as exc:  # what a library throws ends this task, and not the sweep
        found = {"state": "failed", "why": f"{type(exc).__name__}: {exc}", "exit_code": 1}
    return {**found, "seconds": round(time.perf_counter() - began, 3), "machine": machine()}


def _export(work: Work, store: Store, progress: ProgressForwarder) -> Outcome:
    from deploy.exporting.export import export_model

    request, precision = ModelRequest.from_dict(work["request"]), work["precision"]
    if not work["again"]:
        present = _present(work, store, precision, None)
        if present is not None and _is_of(present, request, store):
            return {
                "state": "found",
                "verdict": (present.manifest.parity or {}).get("verdict"),
                **_of([present], store),
            }
    report = export_model(request, artifacts=store.root, precision=precision, progress=progress)
    if report.parity.verdict == "fail":
        raise ParityError(f"its {precision} export does not hold: {'; '.join(report.parity.reasons[:2])}")
    return {"verdict": report.parity.verdict, **_of([report.artifact], store)}


def _present(work: Work, store: Store, precision: str, target: str | None) -> Artifact | None:
    """The newest ONNX file of the model of this precision and target, held against its digest."""
    for artifact in newest_variants(store, work["model"]):
        manifest = artifact.manifest
        if (manifest.format, manifest.precision, manifest.target) == ("onnx", precision, target):
            artifact.verify()
            return artifact
    return None


def _is_of(artifact: Artifact, request: ModelRequest, store: Store) -> bool:
    """Whether an export is of what is asked for: everything that was given is as it was, the very weights included.

    Of a user's own code and programs that cannot be told without running them.
    """
    from deploy.models.open import request_of, trained_checkpoint
    from deploy.models.resolve import checkpoint_as_weights

    asked, then = checkpoint_as_weights(request), request_of(artifact)
    same = (asked.options.items() <= then.options.items(), asked.inputs == then.inputs, asked.seed == then.seed)
    if not all(same) or is_own(asked.name):
        return False
    digest = artifact.manifest.weights.sha256
    if asked.weights == "auto" and (checkpoint := trained_checkpoint(asked, store)) is not None:
        return checkpoint.manifest.files[0].sha256 == digest
    if Path(asked.weights).is_file():
        return sha256(Path(asked.weights)) == digest
    return asked.weights == then.weights


def _float_export(work: Work, store: Store) -> Artifact:
    artifact = _present(work, store, "fp32", None)
    if artifact is None:
        raise DeployError(f"the float32 export of {work['model']} is gone.")
    return artifact


def _quantize(work: Work, store: Store, progress: ProgressForwarder) -> Outcome:
    from deploy.quantization.defaults import SAMPLES
    from deploy.quantization.quantize import quantize

    report = quantize(
        _float_export(work, store).path,
        calib=work["calib"],
        target=work["target"],
        samples=work["samples"] or SAMPLES,
        artifacts=store.root,
        progress=progress,
    )
    if report.verdict == "fail":
        raise ParityError(f"its INT8 file does not hold: {'; '.join(report.reasons[:2])}")
    tables = [item for item in store.artifacts(report.artifact.manifest.slug) if item.manifest.format == "calibration"]
    return {"verdict": report.verdict, **_of([report.artifact, *tables], store)}


def _build(work: Work, store: Store, progress: ProgressForwarder) -> Outcome:
    from deploy.engines.build import build_engine
    from deploy.engines.request import BuildRequest
    from deploy.quantization.defaults import SAMPLES

    int8 = work["precision"] == "int8"
    request = BuildRequest(
        model=_float_export(work, store).path,
        fp16=work["precision"] == "fp16",
        int8=int8,
        calib=work["calib"] if int8 else None,
        samples=(work["samples"] or SAMPLES) if int8 else SAMPLES,
    )
    report = build_engine(request, artifacts=store.root, progress=progress)
    if report.verdict == "fail":
        raise ParityError("the engine does not answer as the model does.")
    made = [report.artifact, *([report.onnx] if report.onnx else [])]
    return {"verdict": report.verdict, "note": report.state, **_of(made, store)}


def _evaluate(work: Work, store: Store, progress: ProgressForwarder) -> Outcome:
    from deploy.evaluation.evaluate import evaluate_models

    report = evaluate_models((work["model"],), data=work["data"], artifacts=store.root, progress=progress)
    slugs = {row.slug for row in report.rows}
    files = [path for slug in slugs for path in (store.folder(slug) / "evaluation").glob("*.json")]
    told = {"verdict": report.verdict, "made": {}, "files": _below(files, store)}
    if report.verdict == "fail":
        reasons = [
            f"{row.file.name if row.file else row.model}: {row.note}" for row in report.rows if row.verdict == "fail"
        ]
        return {**told, "state": "failed", "why": "; ".join(reasons), "exit_code": ParityError.exit_code}
    return told


def _bench(work: Work, store: Store, progress: ProgressForwarder) -> Outcome:
    from deploy.bench.cells import choose_backends
    from deploy.bench.measure import measure_speed
    from deploy.bench.records import SkippedCell, absent_path, record_path, save_absent
    from deploy.bench.repetition import Budget
    from deploy.bench.rows import LatencyRow

    wanted = [(backend, precision) for backend, precision in work["wanted"]]
    absent: list[SkippedCell] = []
    usable: list[str] = []
    for backend in dict.fromkeys(backend for backend, _ in wanted):
        try:
            usable += choose_backends((backend,))
        except MissingPackageError as exc:
            lacking = [(precision, batch) for name, precision in wanted if name == backend for batch in work["batches"]]
            absent += [
                SkippedCell(
                    model=work["model"], backend=backend, precision=precision, batch=batch, why=exc.message,
                    machine=work["machine"],
                )
                for precision, batch in lacking
            ]  # fmt: skip
    for item in absent:
        save_absent(store.root, item)
    saved: dict[str, int] = {}
    resumed: list[bool] = []

    def listen(rows: Sequence[LatencyRow]) -> None:
        """What was timed so far is kept, whatever becomes of this machine."""
        resumed[:] = resumed or [any(row.record.repetitions for row in rows)]
        fresh = [row.record for row in rows if saved.get(row.record.cell.key) != len(row.record.repetitions)]
        saved.update({record.cell.key: len(record.repetitions) for record in fresh})
        paths = [record_path(store.root, record.cell) for record in fresh if record.repetitions]
        if paths:
            progress.kept(_below(paths, store))

    rows: Sequence[LatencyRow] = ()
    if usable:
        report = measure_speed(
            [_known_as(work, store)],
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
        absent += report.absent
    told: Mapping[str, Any] = {
        "records": [[row.record.cell.backend, row.record.cell.precision, row.record.cell.batch,
                     *_below([record_path(store.root, row.record.cell)], store)] for row in rows],
        "absent": [item.to_dict() for item in absent],
        "resumed": any(resumed),
        "made": {},
    }  # fmt: skip
    files = [record_path(store.root, row.record.cell) for row in rows] + [
        absent_path(store.root, item) for item in absent
    ]
    return {**told, "files": _below(files, store)}


def _known_as(work: Work, store: Store) -> ModelRequest:
    """By its name where there is an export, which knows how its model is built; else as it was asked for."""
    request = ModelRequest.from_dict(work["request"])
    return ModelRequest(name=work["model"], seed=request.seed) if newest_variants(store, work["model"]) else request


def _of(artifacts: Sequence[Artifact], store: Store) -> Outcome:
    made = {_below([item.path], store)[0]: item.manifest.files[0].sha256 for item in artifacts}
    return {"made": made, "files": _below([path for item in artifacts for path in item.paths], store)}


def _below(paths: Sequence[Path], store: Store) -> list[str]:
    return [path.relative_to(store.root).as_posix() for path in paths]


KINDS: Mapping[str, Callable[[Work, Store, ProgressForwarder], Outcome]] = {
    "export": _export,
    "quantize": _quantize,
    "build": _build,
    "evaluate": _evaluate,
    "bench": _bench,
}
