"""A package target: one folder per model with the file, its manifest and a settings file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deploy.packaging.target import PackageItem, PackageOptions, PackageTarget, copy_artifact


def write(folder: Path, items: Sequence[PackageItem], options: PackageOptions) -> None:
    """Fill the folder of a package."""
    for item in items:
        model = folder / item.name
        model.mkdir(exist_ok=True)
        copy_artifact(item.artifacts[0], model)
        settings = {"labels": item.labels, "max_delay_ms": options.max_delay_ms}
        (model / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


TARGET = PackageTarget(
    name="shelf",
    title="Shelf",
    write=write,
    backends=("openvino",),
    precisions=("fp32", "int8"),
    options=("max_delay_ms",),
)
