"""A folder that needs no server: the model, one script, its labels, and a picture to try it on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from deploy.core.artifact import Artifact
from deploy.core.environment import version
from deploy.core.errors import ArtifactError, UsageError
from deploy.packaging.content import Content, PackageOptions, copy_artifact

SCRIPT = "infer.py"
LABELS = "labels.txt"
REQUIREMENTS = "requirements.txt"


def refuse(artifact: Artifact) -> str | None:
    """Why the script would not run a file as it was proven; None if it would."""
    manifest = artifact.manifest
    if manifest.format != "onnx":
        return f"the script runs ONNX files, not {manifest.format}"
    if manifest.target not in (None, "onnxruntime"):
        return f"its INT8 was made for {manifest.target}, and the script runs it with ONNX Runtime"
    return None


def write(folder: Path, contents: Sequence[Content], options: PackageOptions) -> None:
    """Fill the folder; the example picture is put there by who can prove what the model says of it.

    Raises:
        UsageError: several models.
        ArtifactError: the model takes no pictures, or nothing says how they become its input.
    """
    if len(contents) > 1:
        raise UsageError("a standalone folder holds one model.", "deploy package MODEL --for standalone, once for each")
    content = contents[0]
    if content.pipeline is None:
        raise ArtifactError(f"{content.name}: the script takes pictures, and there is no way from them to this model.")
    for stale in folder.iterdir():
        stale.unlink()
    copy_artifact(content.artifacts[0], folder)
    (folder / LABELS).write_text("".join(f"{label}\n" for label in content.labels), encoding="utf-8")
    (folder / SCRIPT).write_text((files("deploy.packaging") / "assets" / SCRIPT).read_text("utf-8"), encoding="utf-8")
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
    (folder / "README.md").write_text(_readme(content), encoding="utf-8")


def _requirements() -> list[str]:
    """The versions that the folder was proven with: another Pillow may resize to other bytes."""
    found = {name: version(name) for name in ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu")}
    runtime = found["onnxruntime"] or found["onnxruntime-gpu"]
    return [f"numpy=={found['numpy']}", f"pillow=={found['pillow']}", f"onnxruntime=={runtime}"]


def _readme(content: Content) -> str:
    manifest = content.artifacts[0].manifest
    return f"""# {content.name}

`{manifest.files[0].file}`, {manifest.precision}, weights: {manifest.weights.source}.

    pip install -r {REQUIREMENTS}
    python {SCRIPT} PICTURE

Without a picture it takes `example.png`; `package.json` records what was proven of this folder, and what the model
answers there. `deploy verify .` holds every file against it.
"""
