"""A folder that needs no server: the model, a script, its labels, and an example image."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from deploy.core.environment import version
from deploy.core.errors import ArtifactError, BackendError
from deploy.packaging.target import (
    Images,
    PackageItem,
    PackageOptions,
    PackageTarget,
    PipelineOutput,
    RankedLabel,
    copy_artifact,
)
from deploy.support.lone_file import adopt_command

SCRIPT = "infer.py"
EXAMPLE = "example.png"
LABELS = "labels.txt"
REQUIREMENTS = "requirements.txt"
TIMEOUT_S = 600


def write(folder: Path, items: Sequence[PackageItem], options: PackageOptions) -> None:
    """Write the model, the script, the labels, the requirements and a README."""
    item = items[0]
    if item.pipeline is None:
        raise ArtifactError(
            f"{item.artifacts[0].path}: the standalone script takes images, but there is no preprocessing "
            f"({item.no_pipeline}).",
            f"deploy package {item.manifest.model} --for triton"
            if item.manifest.reference
            else adopt_command(item.artifacts[0].path, preprocess=True),
        )
    copy_artifact(item.artifacts[0], folder)
    (folder / LABELS).write_text("".join(f"{label}\n" for label in item.labels), encoding="utf-8")
    (folder / SCRIPT).write_text((files("deploy.packaging") / "assets" / SCRIPT).read_text("utf-8"), encoding="utf-8")
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
    (folder / "README.md").write_text(_readme(item), encoding="utf-8")


def _requirements() -> list[str]:
    """Return the versions the package is checked with; another version of Pillow may resize differently."""
    versions = {name: version(name) for name in ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu")}
    runtime = versions["onnxruntime"] or versions["onnxruntime-gpu"]
    return [f"numpy=={versions['numpy']}", f"pillow=={versions['pillow']}", f"onnxruntime=={runtime}"]


def _readme(item: PackageItem) -> str:
    manifest = item.manifest
    return f"""# {item.name}

`{manifest.files[0].file}`, {manifest.precision}, weights: {manifest.weights.source}, parity: {manifest.verdict}.

    pip install -r {REQUIREMENTS}
    python {SCRIPT} IMAGE

Without an image, the script classifies `{EXAMPLE}`. `package.json` records how this folder was checked and the labels
of the example. `deploy verify .` checks the digest of every file.
"""


def classify(folder: Path, item: PackageItem, images: Images) -> PipelineOutput:
    """Run images through the script as its user does.

    The script prints each file's name, then a line ``  PROBABILITY  LABEL`` for each label.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        command = [sys.executable, str(folder / SCRIPT), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendError(f"{SCRIPT} failed: {reason[-1]}")
    ranked: list[list[RankedLabel]] = []
    for line in done.stdout.removesuffix("\n").split("\n"):
        if not line.startswith("  "):
            ranked.append([])
            continue
        probability, _, label = line.removeprefix("  ").partition("  ")
        ranked[-1].append(RankedLabel(label=label, probability=float(probability)))
    return PipelineOutput(labels=[tuple(labels) for labels in ranked])


TARGET = PackageTarget(
    name="standalone",
    title="Standalone script",
    write=write,
    backends=("onnxruntime",),
    single_model=True,
    example=EXAMPLE,
    classify=classify,
)
