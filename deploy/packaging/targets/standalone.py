"""A folder that needs no server: the model, a script, its labels, and an example image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.core.environment import version
from deploy.core.errors import ArtifactError
from deploy.packaging.target import PackageItem, PackageOptions, PackageTarget, PipelineOutput, copy_artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCRIPT = "infer.py"
EXAMPLE = "example.png"
LABELS = "labels.txt"
REQUIREMENTS = "requirements.txt"


def write(folder: Path, items: Sequence[PackageItem], options: PackageOptions) -> None:
    """Write the model, the script, the labels, the requirements and a README."""
    from importlib.resources import files

    item = items[0]
    if item.pipeline is None:
        raise ArtifactError(
            f"{item.artifacts[0].path}: the standalone script takes images, but there is no preprocessing "
            f"({item.no_pipeline}).",
            f"deploy package {item.manifest.model} --for triton",
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

`{manifest.files[0].file}`, {manifest.precision}, weights: {manifest.weights.source}.

    pip install -r {REQUIREMENTS}
    python {SCRIPT} IMAGE

Without an image, the script classifies `{EXAMPLE}`. `package.json` records how this folder was checked and the labels
of the example. `deploy verify .` checks the digest of every file.
"""


def classify(folder: Path, item: PackageItem, images: Sequence[NDArray[np.uint8]]) -> PipelineOutput:
    """Run images through the script as its user does."""
    from deploy.packaging.pipeline_check import classify_with_script

    return classify_with_script(folder / SCRIPT, images)


TARGET = PackageTarget(
    name="standalone",
    title="Standalone script",
    write=write,
    backends=("onnxruntime",),
    single_model=True,
    example=EXAMPLE,
    classify=classify,
)
