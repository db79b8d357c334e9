"""``deploy upgrade-check``: what an upgrade of packages changes in verdicts, accuracy and latency."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deploy.bench.cells import PlannedCell
from deploy.bench.compare import MARGIN, run_pairs
from deploy.bench.plan import Choices, plan_model
from deploy.bench.sequential import guard, interval_at, verdict_of
from deploy.bench.statistics import Interval
from deploy.bench.turns import opener
from deploy.core.artifact import Artifact
from deploy.core.backend import ONNX, backends, default_backend
from deploy.core.brief import brief
from deploy.core.environment import machine, usable_cores
from deploy.core.errors import ArtifactError, DeployError
from deploy.core.names import REJECTED, RESERVED
from deploy.core.progress import SILENT, Progress
from deploy.core.regular import is_file, is_folder
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.support.lookup import is_export
from deploy.upgrading.environment import UpgradedEnvironment, check_requirements, create_environment
from deploy.upgrading.renewal import Renewal, renewals
from deploy.upgrading.rows import GOOD, FileState, UpgradedFile

ALLOWED = 0.05
TIME_LIMIT_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class UpgradeReport:
    """Result of `upgrade_check`.

    Attributes:
        packages: versions that were asked for.
        changed: versions of every package that differs, before and after.
        rows: the files.
        warnings: what the installer says does not fit.
        allowed: share by which a file may be slower.
        seconds: duration of the call.
    """

    packages: Mapping[str, str]
    changed: Mapping[str, tuple[str | None, str | None]]
    rows: tuple[UpgradedFile, ...]
    warnings: tuple[str, ...]
    allowed: float
    seconds: float

    def __repr__(self) -> str:
        return brief(self, self.verdict, f"{len(self.rows)} files", ", ".join(self.packages))

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """``fail`` if something is worse; ``inconclusive`` if a file was not made again or its latency is not known."""
        if any(row.regressions for row in self.rows):
            return "fail"
        unknown = any(row.after is None or row.guard == "inconclusive" for row in self.rows)
        return "inconclusive" if unknown else "pass"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "verdict": self.verdict,
            "packages": dict(self.packages),
            "changed": {name: list(pair) for name, pair in self.changed.items()},
            "rows": [row.to_dict() for row in self.rows],
            "warnings": list(self.warnings),
            "fail_if_slower": self.allowed,
            "machine": machine(),
            "seconds": round(self.seconds, 3),
        }


def upgrade_check(
    to: Sequence[str],
    models: Sequence[str] = (),
    *,
    timed: bool = True,
    fail_if_slower: float = ALLOWED,
    time_limit_s: float = TIME_LIMIT_S,
    threads: int | None = None,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> UpgradeReport:
    """Make every file of a model again with other versions of packages, and compare it with the one that is there.

    The other versions are installed in a temporary environment, which sees all other packages of this one. There, a
    copy of the artifacts directory is exported, checked and quantized again, by the commands that its manifests record.
    The file that is there and the new one are then timed in pairs of processes, each in its own environment. Nothing in
    the artifacts directory or in this environment is changed.

    Args:
        to: versions, ``PACKAGE==VERSION``.
        models: names of models; none: all of the artifacts directory.
        timed: also compare latencies on the CPU, at batch 1.
        fail_if_slower: share by which a file may be slower, see `deploy.bench.sequential.guard`.
        time_limit_s: for one file, no pair of processes starts after this many seconds; at least five pairs run.
        threads: threads within an operator; None takes all cores.
        artifacts: artifacts directory.
        progress: receives progress messages.

    Raises:
        UsageError: a version has another form, or cannot be installed.
        ArtifactError: there are no files.
        MissingPackageError: neither pip nor uv is here.
    """
    began = time.perf_counter()
    packages, store = check_requirements(to), Store.at(artifacts)
    found = renewals(store, models)
    with tempfile.TemporaryDirectory(prefix="deploy-upgrade-") as scratch:
        environment = create_environment(Path(scratch) / "environment", packages, progress)
        for warning in environment.warnings:
            progress.warn(warning)
        if not environment.changed:
            progress.warn("these are the versions that are installed: nothing but noise can differ")
        copy = copy_folders(store, [item.artifact for item in found], Path(scratch) / "artifacts")
        upgrade = _Upgrade(environment, store, copy, Path(scratch), threads or usable_cores(), progress)
        rows = [row for item in found for row in upgrade.rows(item, packages)]
        if timed:
            rows = [upgrade.timed(row, fail_if_slower, time_limit_s) for row in rows]
    return UpgradeReport(
        packages=packages,
        changed=environment.changed,
        rows=tuple(rows),
        warnings=environment.warnings,
        allowed=fail_if_slower,
        seconds=time.perf_counter() - began,
    )


def copy_folders(store: Store, files: Sequence[Artifact], root: Path) -> Path:
    """Copy the folders of files, without measurements and rejected files; links and special files are left out."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        paths = {name: Path(folder) / name for name in names}
        return {name for name, path in paths.items() if name in RESERVED or not (is_file(path) or is_folder(path))}

    for folder in dict.fromkeys(item.path.parent for item in files):
        shutil.copytree(folder, root / folder.relative_to(store.root), ignore=left_out)
    return root


class _Upgrade:
    """The new environment, and the copy of the artifacts directory in it."""

    def __init__(
        self,
        environment: UpgradedEnvironment,
        store: Store,
        copy: Path,
        scratch: Path,
        threads: int,
        progress: Progress,
    ) -> None:
        self._environment, self._store, self._copy = environment, store, copy
        self._scratch, self._threads, self._progress = scratch, threads, progress

    def rows(self, renewal: Renewal, packages: Mapping[str, str]) -> list[UpgradedFile]:
        """Make a file again; a row for each backend that it is compared on."""
        artifact, manifest = renewal.artifact, renewal.artifact.manifest
        row = UpgradedFile(
            path=artifact.path,
            model=manifest.model,
            precision=manifest.precision,
            backend=_runtime(artifact),
            before=FileState.of(artifact),
            after=None,
            note=renewal.reason,
        )
        if not renewal.words:
            self._progress.note(f"{artifact.path.name} is not made again: {renewal.reason}")
            return [row]
        with self._progress.stage(f"{artifact.path.name}: making it again"):
            done = self._deploy(*renewal.words)
        made = self._new(artifact)
        if made is None:
            return [replace(row, after=FileState(verdict="error", reasons=(_why(done),)))]
        row = replace(row, after=FileState.of(made))
        if not is_export(manifest) or FileState.of(made).verdict not in GOOD:
            return [row]
        others = [
            item.name
            for item in backends().values()
            if packages.keys() & set(item.packages) and item.installed and item.name != row.backend
            if ONNX in item.formats and "cpu" in item.devices and manifest.precision in item.precisions
        ]
        return [row, *(self._checked(row, made, name) for name in others)]

    def timed(self, row: UpgradedFile, allowed: float, time_limit_s: float) -> UpgradedFile:
        """Time the file that is there and the new one in pairs of processes, if both are right."""
        if row.after is None or not row.backend or {row.before.verdict, row.after.verdict} - set(GOOD):
            return row
        path = self._path(row.path)
        deadline = time.perf_counter() + time_limit_s

        def decided(interval: Interval) -> bool:
            known = guard(interval, allowed) != "inconclusive"
            return known and verdict_of(interval, MARGIN) != "cannot tell"

        with self._progress.stage(f"{path.name} on {row.backend}: timing in pairs"):
            try:
                plan = self._plan(row)
                new = replace(plan, path=path)
                found = run_pairs(
                    [opener(plan, 0), opener(new, 0, python=self._environment.python)],
                    decided=decided,
                    more=lambda: time.perf_counter() < deadline,
                    progress=self._progress,
                )
            except DeployError as exc:
                return replace(row, guard="inconclusive", note=f"not timed: {exc.message}")
        ratio = interval_at(found.ratios)
        return replace(row, ratio=ratio, speed=verdict_of(ratio, MARGIN), guard=guard(ratio, allowed))

    def _plan(self, row: UpgradedFile) -> PlannedCell:
        choices = Choices(backends=(row.backend,), precisions=(row.precision,), batches=(1,), threads=self._threads)
        scratch = Path(tempfile.mkdtemp(dir=self._scratch))
        plans, skipped = plan_model(ModelRequest(name=str(row.path)), choices, self._store, scratch, self._progress)
        if not plans or not plans[0].passed:
            raise DeployError(plans[0].refusal if plans else skipped[0].reason)
        return plans[0]

    def _checked(self, row: UpgradedFile, made: Artifact, backend: str) -> UpgradedFile:
        """Return a row for another backend, on which each file is checked in its own environment."""
        states = []
        for artifact, here in ((Artifact.open(row.path), True), (made, False)):
            with self._progress.stage(f"{artifact.path.name}: checking it on {backend}"):
                words = ("check", artifact.manifest.slug, "--onnx", str(artifact.path), "--backend", backend)
                done = self._deploy(*words, here=here)
            try:
                parity = json.loads(done.stdout)["parity"]
                state = FileState(verdict=str(parity["verdict"]), reasons=tuple(map(str, parity["reasons"])))
            except (ValueError, KeyError, TypeError):
                state = FileState(verdict="error", reasons=(_why(done),))
            states.append(replace(state, digest=artifact.manifest.files[0].sha256))
        return replace(row, backend=backend, before=states[0], after=states[1])

    def _deploy(self, *words: str, here: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command of ``deploy`` on the copy in the new environment, or here on what is there."""
        python, root = (Path(sys.executable), self._store.root) if here else (self._environment.python, self._copy)
        command = [str(python), "-m", "deploy.cli.main", "--artifacts", str(root), "--quiet", *words, "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _path(self, path: Path) -> Path:
        return self._copy / path.relative_to(self._store.root)

    def _new(self, artifact: Artifact) -> Artifact | None:
        """Return the file that was made in place of another, also one that failed; None if none was."""
        path = self._path(artifact.path)
        for place in (path.parent / REJECTED / path.name, path):
            try:
                found = Artifact.open(place)
            except ArtifactError:
                continue
            if found.manifest.created != artifact.manifest.created:
                return found
        return None


def _runtime(artifact: Artifact) -> str:
    """Return the backend that a file is compared on; empty for an engine."""
    manifest = artifact.manifest
    if manifest.format != ONNX:
        return ""
    if manifest.target is None:
        return default_backend(ONNX).name
    fitting = [item for item in backends().values() if manifest.target in item.targets and "cpu" in item.devices]
    return fitting[0].name if fitting and fitting[0].installed else ""


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a command failed: the message that it printed as JSON, else the last line of its errors."""
    try:
        return str(json.loads(done.stdout)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"the command ended with {done.returncode}"
