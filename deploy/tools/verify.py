"""``deploy verify``: compare files with the digests in their manifests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
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
    """Artifacts, records and packages that match their digests, and one message per problem."""

    sound: tuple[Path, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(to_plain(self))


def verify(path: Path | None = None) -> VerifyReport:
    """Compare a file, or every artifact, record and package in a folder, with its digests.

    A file in an artifact's folder that no manifest lists is a problem too.

    Args:
        path: an artifact, or a folder; None for the default artifacts directory.

    Raises:
        ArtifactError: the path does not exist.
    """
    path = path or default_root()
    if path.is_file():
        target = path.with_suffix("") if path.suffix == ".json" and not manifest_path(path).exists() else path
        sound, problems = _check_artifacts([target], ())
        return VerifyReport(sound=tuple(sound), problems=tuple(problems))
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
    present = {item for folder in folders for item in folder.iterdir()}
    sound, problems = _check_artifacts([file.with_suffix("") for file in manifests], present)
    for file in filter(records.is_record, documents):
        try:
            records.check(file)
            sound.append(file)
        except ArtifactError as exc:
            problems.append(exc.message)
    for package in packages:
        found = check_package(package)
        problems += found
        sound += [] if found else [package.parent]
    return VerifyReport(sound=tuple(sound), problems=tuple(problems))


def _check_artifacts(targets: Collection[Path], present: Collection[Path]) -> tuple[list[Path], list[str]]:
    """Check artifacts, and that every one of the files that are present is listed in a manifest."""
    sound: list[Path] = []
    problems: list[str] = []
    listed: set[Path] = set()
    for target in targets:
        try:
            artifact = Artifact.open(target)
            listed |= set(artifact.paths)
            artifact.verify()
        except ArtifactError as exc:
            problems.append(exc.message)
            listed |= {target, manifest_path(target)}
        else:
            sound.append(target)
    for extra in sorted(set(present) - listed):
        if extra.name not in IGNORED and not extra.is_dir():
            problems.append(f"{extra}: no manifest lists it.")
        elif extra.is_symlink():
            problems.append(f"{extra}: a symbolic link.")
    return sound, problems


def _is_scratch(path: Path) -> bool:
    return any(part.startswith((SCRATCH, PENDING)) for part in path.parts)


def _is_other(path: Path) -> bool:
    """Return whether a document is no result: a log of the load generator, limits of the machine, the report."""
    is_report = path.parent.name == REPORT and path.name == "report.json" and path.with_name("index.html").is_file()
    return is_report or path.parent.parent.name in records.FOLDERS or path.parent.name == LIMITS
