"""``deploy verify``: compare files with the digests in their manifests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.core import records
from deploy.core.artifact import Artifact, manifest_path
from deploy.core.errors import ArtifactError
from deploy.core.lock import LOCK
from deploy.core.paths import default_root
from deploy.core.plain import to_plain
from deploy.core.store import LIMITS, PENDING, REPORT, SCRATCH, SIGNATURE, finish
from deploy.support.package_file import PACKAGE, check_package

IGNORED = {"README.md", LOCK, ".gitignore", SIGNATURE}
"""Files that need no manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """The result of `verify`.

    Attributes:
        sound: artifacts, records and packages that match their digests.
        problems: one message per problem.
    """

    sound: tuple[Path, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain


@dataclass
class _Results:
    sound: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def report(self) -> VerifyReport:
        return VerifyReport(sound=tuple(self.sound), problems=tuple(self.problems))


def verify(path: Path | None = None) -> VerifyReport:
    """Compare a file, or every artifact, record and package in a folder, with its digests.

    A file in an artifact's folder that no manifest lists is a problem too.

    Args:
        path: an artifact, or a folder; None for the default artifacts directory.

    Raises:
        ArtifactError: the path does not exist.
    """
    path = path or default_root()
    results = _Results()
    if path.is_file():
        target = path.with_suffix("") if path.suffix == ".json" and not manifest_path(path).exists() else path
        _check_artifacts([target], (), results)
        return results.report()
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such file or folder.")
    for pending in path.rglob(f"{PENDING}*"):
        finish(pending.parent)
    packages = [file for file in path.rglob(PACKAGE) if not _is_scratch(file)]
    package_folders = {package.parent for package in packages}
    documents = sorted(
        file
        for file in path.rglob("*.json")
        if not _is_scratch(file)
        and not _is_other(file)
        and not package_folders & set(file.parents)
        and not manifest_path(file).exists()  # an artifact in JSON, such as a calibration table
    )
    manifests = [file for file in documents if not records.is_record(file)]
    folders = {file.parent for file in manifests}
    _check_artifacts(
        [file.with_suffix("") for file in manifests], {item for folder in folders for item in folder.iterdir()}, results
    )
    _check_records([file for file in documents if records.is_record(file)], results)
    _check_packages(packages, results)
    return results.report()


def _check_artifacts(targets: Collection[Path], present: Collection[Path], results: _Results) -> None:
    """Check artifacts, and that every one of the files that are present is listed in a manifest."""
    listed: set[Path] = set()
    for target in targets:
        try:
            artifact = Artifact.open(target)
            listed |= set(artifact.paths)
            artifact.verify()
        except ArtifactError as exc:
            results.problems.append(exc.message)
            listed |= {target, manifest_path(target)}
        else:
            results.sound.append(target)
    for extra in sorted(set(present) - listed):
        if extra.name not in IGNORED and not extra.is_dir():
            results.problems.append(f"{extra}: no manifest lists it.")
        elif extra.is_symlink():
            results.problems.append(f"{extra}: a symbolic link.")


def _check_records(paths: Collection[Path], results: _Results) -> None:
    for path in paths:
        try:
            records.check(path)
        except ArtifactError as exc:
            results.problems.append(exc.message)
        else:
            results.sound.append(path)


def _check_packages(paths: Collection[Path], results: _Results) -> None:
    for path in paths:
        problems = check_package(path)
        results.problems += problems
        if not problems:
            results.sound.append(path.parent)


def _is_scratch(path: Path) -> bool:
    return any(part.startswith((SCRATCH, PENDING)) for part in path.parts)


def _is_other(path: Path) -> bool:
    """Return whether a document is no result: a log of the load generator, limits of the machine, the report."""
    return path.parent.parent.name in records.FOLDERS or path.parent.name == LIMITS or _is_report(path)


def _is_report(path: Path) -> bool:
    return path.parent.name == REPORT and path.name == "report.json" and path.with_name("index.html").is_file()
