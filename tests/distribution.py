"""A third party's plug-ins, installed as pip leaves them: modules, and the metadata that registers entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(folder: Path, sources: Mapping[str, str], points: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Write a distribution and return the environment of a process that sees it.

    Args:
        folder: a folder like ``site-packages``.
        sources: text of each module, by module name.
        points: module of each plug-in, by entry point group and plug-in name.
    """
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    metadata = folder / "third_party-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in plugins.items())
        for group, plugins in points.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def deploy(environment: Mapping[str, str], artifacts: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    words = [sys.executable, "-m", "deploy.cli.main", "--artifacts", artifacts, *arguments]
    return subprocess.run(list(map(str, words)), env=dict(environment), capture_output=True, text=True)
