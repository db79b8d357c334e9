"""``deploy verify``: are the files what their manifests say?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core import records
from deploy.core.artifact import Artifact, manifest_path
from deploy.core.errors import ArtifactError
from deploy.core.paths import default_root
from deploy.core.store import LIMITS, PENDING, REPORT, SCRATCH, SIGNATURE, finish
from deploy.support.package_list import PACKAGE, check_package

IGNORED = {"README.md", ".lock", ".gitignore", SIGNATURE}


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `verify` found: paths that are right, and what is wrong with the others."""

    sound: tuple[Path, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"sound": [str(path) for path in self.sound], "problems": list(self.problems)}


def verify(path: Path | None = None) -> VerifyReport:
    """Hold a file, or every artifact below a folder, against its manifest.

    Files of an artifact's folder that no manifest lists are problems too: somebody put them there.

    Raises:
        ArtifactError: there is nothing at ``path``.
    """
    path = path or default_root()
    if path.is_file():
        target = path.with_suffix("") if path.suffix == ".json" and not manifest_path(path).exists() else path
        return _verify([target], set())
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is nothing there.")
    for pending in path.rglob(f"{PENDING}*"):
        finish(pending.parent)
    found = (file for file in path.rglob("*.json") if not _scratch(file) and not _beside(file))
    packages = [file for file in path.rglob(PACKAGE) if not _scratch(file)]
    held = {package.parent for package in packages}
    found = (file for file in found if not held & set(file.parents))
    own = sorted(file for file in found if not manifest_path(file).exists())  # a table is JSON and has its own
    measured = [file for file in own if records.is_record(file)]
    manifests = [file for file in own if file not in measured]
    targets = [file.with_suffix("") for file in manifests]
    folders = {file.parent for file in manifests}
    report = _verify(targets, {item for folder in folders for item in folder.iterdir()})
    return _with_packages(_with_records(report, measured), packages)


def _with_records(report: VerifyReport, measured: list[Path]) -> VerifyReport:
    """And what was measured, which carries its own digest."""
    sound, problems = list(report.sound), list(report.problems)
    for path in measured:
        try:
            records.check(path)
        except ArtifactError as exc:
            problems.append(exc.message)
        else:
            sound.append(path)
    return VerifyReport(sound=tuple(sound), problems=tuple(problems))


def _with_packages(report: VerifyReport, packages: list[Path]) -> VerifyReport:
    """And the packages, each of which lists all that is in it."""
    sound, problems = list(report.sound), list(report.problems)
    for path in packages:
        wrong = check_package(path)
        problems += wrong
        if not wrong:
            sound.append(path.parent)
    return VerifyReport(sound=tuple(sound), problems=tuple(problems))


def _beside(path: Path) -> bool:
    """No results: of another program, as the load generator; what the machine can do; the report."""
    return path.parent.parent.name in records.FOLDERS or path.parent.name == LIMITS or _is_report(path)


def _is_report(path: Path) -> bool:
    return path.parent.name == REPORT and path.name == "report.json" and path.with_name("index.html").is_file()


def _scratch(path: Path) -> bool:
    return any(part.startswith((SCRATCH, PENDING)) for part in path.parts)


def _verify(targets: list[Path], present: set[Path]) -> VerifyReport:
    sound, problems = [], []
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
    for extra in sorted(present - listed):
        if extra.name not in IGNORED and not extra.is_dir():
            problems.append(f"{extra}: no manifest lists it.")
        elif extra.is_symlink():
            problems.append(f"{extra}: a link, not an artifact.")
    return VerifyReport(sound=tuple(sound), problems=tuple(problems))
