"""An environment with other versions of some packages; all other packages are those of this one.

It is a virtual environment that sees the packages of this interpreter behind its own, so only what changes is
downloaded, and nothing here is touched.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.environment import version, versions
from deploy.core.errors import MissingPackageError, StorageError, UsageError
from deploy.core.progress import Progress

REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)")

_ASK = """
import json, sys
from deploy.core.environment import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpgradedEnvironment:
    """An environment with other versions.

    Attributes:
        python: its interpreter.
        before, after: versions of the packages that decide results, here and there, by name; None: not installed.
        warnings: what the installer says does not fit.
    """

    python: Path
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]
    warnings: tuple[str, ...]

    @property
    def changed(self) -> dict[str, tuple[str | None, str | None]]:
        """Versions of the packages that differ: before and after."""
        return {name: (old, self.after[name]) for name, old in self.before.items() if self.after[name] != old}


def check_requirements(texts: Sequence[str]) -> dict[str, str]:
    """Return the version of each package.

    Args:
        texts: ``PACKAGE==VERSION``, several joined by commas.

    Raises:
        UsageError: another form, or a package with two versions.
    """
    found: dict[str, str] = {}
    for text in ",".join(texts).split(","):
        match = REQUIREMENT.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--to {text}: give a version of each package, such as onnxruntime==1.27.0.")
        name = match[1].lower().replace("_", "-")
        if found.setdefault(name, match[2]) != match[2]:
            raise UsageError(f"--to: {name} has two versions, {found[name]} and {match[2]}.")
    return found


def create_environment(folder: Path, packages: Mapping[str, str], progress: Progress) -> UpgradedEnvironment:
    """Create an environment in a folder that does not exist yet.

    Args:
        folder: of the environment.
        packages: version of each package to install.
        progress: receives progress messages.

    Raises:
        MissingPackageError: neither pip nor uv is here.
        UsageError: a version cannot be installed; the message has the installer's reason.
        StorageError: the folder cannot be written to.
    """
    wanted = [f"{name}=={text}" for name, text in packages.items()]
    with progress.stage("creating the environment"):
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(folder)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise StorageError(f"{folder}: no virtual environment could be created: {_last(made.stderr)}")
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        own = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
        paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (own / "packages_of_the_other_environment.pth").write_text(
            "".join(f"import site; site.addsitedir({path!r})\n" for path in paths), encoding="utf-8"
        )
    with progress.stage(f"installing {', '.join(wanted)}"):
        done = subprocess.run([*_installer(python), *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{' '.join(wanted)} cannot be installed: {_last(done.stderr)}")
    names = [*dict.fromkeys([*versions(), *packages])]
    names.remove("python")
    after: dict[str, Any] = json.loads(_ask(python, _ASK, *names))
    return UpgradedEnvironment(
        python=python,
        before={name: version(name) for name in names},
        after=after,
        warnings=tuple(line for line in done.stderr.splitlines() if " requires " in line),
    )


def _installer(python: Path) -> list[str]:
    if version("pip"):  # asking the import system imports setuptools, which warns
        options = ["--disable-pip-version-check", "--quiet", "--no-input"]
        return [sys.executable, "-m", "pip", "--python", str(python), "install", *options]
    found = shutil.which("uv")
    if found is None:
        raise MissingPackageError("pip", "installing other versions", "uv")
    return [found, "pip", "install", "--quiet", "--python", str(python)]


def _ask(python: Path, code: str, *arguments: str) -> str:
    return subprocess.run(
        [str(python), "-c", code, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason was given"])[-1].removeprefix("ERROR: ")
