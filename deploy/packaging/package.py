"""``deploy package``: what a server takes, written aside, proven from pixel to name, and put in place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image as Pillow

from deploy.core import registry
from deploy.core.artifact import Artifact
from deploy.core.environment import now, versions
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.folder import replaced
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.packaging.content import PackageOptions as PackageOptions
from deploy.packaging.contents import Asked, contents_of
from deploy.packaging.proof import PipelineProof, pictures_for, prove, through_graphs, through_script
from deploy.support.lookup import newest_export, newest_variants
from deploy.support.package_file import PACKAGE, read_package, write_package
from deploy.support.release_check import check_release

EXAMPLE = "example.png"
FOLDER = "packages"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """A model as it was packaged.

    Attributes:
        name: what it is called on the server.
        files: the artifacts it was made from.
        proof: from pixel to name; None where only tensors go in, or nothing here runs the file.
        without: why there is no proof, or no pipeline.
    """

    name: str
    files: tuple[Path, ...]
    proof: PipelineProof | None
    without: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "files": [str(path) for path in self.files],
            "proof": self.proof.to_dict() if self.proof else None,
            "without": self.without,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageReport:
    """What `package_models` wrote."""

    server: str
    folder: Path
    models: tuple[PackagedModel, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "server": self.server,
            "folder": str(self.folder),
            "models": [model.to_dict() for model in self.models],
        }


def package_models(
    models: Sequence[str] = (),
    *,
    server: str,
    precision: str = "fp32",
    max_batch: int = 32,
    pictures: bool = True,
    data: str | None = None,
    output: Path | None = None,
    options: PackageOptions | None = None,
    allow_untrained: bool = False,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
) -> PackageReport:
    """Write what a server takes: a folder that is complete and proven, or as it was before.

    A folder that is there already keeps its other models, and earlier versions of these.

    Args:
        models: names as in the artifacts directory, or files there (several engines of one model are one model);
            default the model of the newest export.
        server: ``triton``, ``kserve`` or ``standalone``.
        precision: of the files that names stand for; ``int8`` is the one for ONNX Runtime.
        max_batch: samples that the server may put together.
        pictures: also package the way from a picture to names, where there is one.
        data: pictures for the proof besides those that are drawn: a data set's name, a folder, or arrays.
        output: the folder; default ``packages/SERVER`` in the artifacts directory, for standalone with the model's
            name.
        options: how the server runs it.
        allow_untrained: package weights that mean nothing.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: told what happens.

    Raises:
        ArtifactError: no such file, not proven, untrained, or not for this server.
        DigestError: a file is not what its manifest says.
        ParityError: the package names a picture otherwise than PyTorch; nothing was published.
        UsageError: what was asked for cannot be.
        StorageError: the disk refused.
    """
    writer = registry.load("deploy.packaging.targets", server, "server")
    options = options or PackageOptions()
    store = Store(artifacts or default_root())
    chosen = _chosen(models, precision, writer, store, progress)
    for artifact in chosen:
        check_release(artifact, allow_untrained=allow_untrained, progress=progress)
    asked = Asked(max_batch=max_batch, pictures=pictures)
    contents, without = contents_of(chosen, asked, progress)
    place = output or store.root / FOLDER / (server if server != "standalone" else f"{server}-{contents[0].name}")
    earlier = _earlier(place)
    shown = pictures_for(data, progress) if any(content.pipeline for content in contents) else []
    with replaced(place) as fresh:
        if earlier and server != "standalone":
            shutil.copytree(place, fresh, dirs_exist_ok=True)
        writer.write(fresh, contents, options)
        if server == "standalone":
            Pillow.fromarray(shown[0]).save(fresh / EXAMPLE)
        packaged = []
        for content in contents:
            proof, why = None, without.get(content.name, "")
            if content.pipeline is not None and content.artifacts[0].manifest.format == "engine":
                why = "the engine was not run here: from pixel to name nothing was proven"
                progress.warn(f"{content.name}: {why}")
            elif content.pipeline is not None:
                script = server == "standalone"
                how = (
                    through_script(fresh / writer.SCRIPT)
                    if script
                    else through_graphs(content, *writer.graphs(fresh, content))
                )
                proof = prove(content, how, shown, store, progress)
            files = tuple(artifact.path for artifact in content.artifacts)
            packaged.append(PackagedModel(name=content.name, files=files, proof=proof, without=why))
        told = {**earlier.get("models", {}), **{model.name: model.to_dict() for model in packaged}}
        write_package(fresh, {"server": server, "models": told, "versions": versions(), "created": now()})
        if _earlier(place) != earlier:
            raise ArtifactError(f"{place}: another process changed it meanwhile.", "try again")
    return PackageReport(server=server, folder=place, models=tuple(packaged))


def _earlier(place: Path) -> dict[str, Any]:
    """What the list of a package that is there says; nothing where there is none.

    Raises:
        UsageError: something else is there.
        ArtifactError: it was changed since.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return {}
    if not (place / PACKAGE).is_file():
        raise UsageError(f"{place}: there is something, and it is no package.", "another place: --output DIR")
    return read_package(place)


def _chosen(
    models: Sequence[str], precision: str, writer: ModuleType, store: Store, progress: Progress
) -> list[Artifact]:
    """The files that are meant.

    Raises:
        ArtifactError: there is none, or the server would not run it as it was proven.
    """
    chosen = []
    for name in dict.fromkeys(models or (newest_export(store, progress).manifest.model,)):
        if Path(name).is_file():
            artifact = Artifact.open(Path(name))
        elif precision == "int8":
            artifact = _quantized(name, store)
        else:
            artifact = newest_export(store, progress, name=name, precisions=(precision,))
        refusal = writer.refuse(artifact)
        if refusal:
            raise ArtifactError(f"{artifact.path}: {refusal}.")
        chosen.append(artifact)
    return chosen


def _quantized(name: str, store: Store) -> Artifact:
    for artifact in newest_variants(store, name):
        if artifact.manifest.precision == "int8" and artifact.manifest.target == "onnxruntime":
            return artifact
    raise ArtifactError(
        f"{store.root}: no INT8 file of {name} for ONNX Runtime.", f"deploy quantize {name} --target onnxruntime"
    )
