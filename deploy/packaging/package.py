"""``deploy package``: write a package for a server, check it against PyTorch, and publish it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from deploy.core.artifact import Artifact
from deploy.core.backend import ONNX, find_backend
from deploy.core.brief import brief
from deploy.core.environment import now, versions
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.folder import replaced
from deploy.core.names import PACKAGES
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store, make_folder
from deploy.models.given import text_of
from deploy.models.preprocessing import described
from deploy.packaging.items import build_items
from deploy.packaging.pipeline_check import PipelineCheck, check_pipeline, load_images
from deploy.packaging.target import Images, PackageItem, PackageTarget, find_target
from deploy.packaging.target import PackageOptions as PackageOptions
from deploy.support.lone_file import open_artifact
from deploy.support.lookup import name_of, newest_export, newest_variants
from deploy.support.package_file import PACKAGE, read_package, write_package
from deploy.support.release_check import check_release


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """One model of a finished package.

    Attributes:
        parity: verdict of the parity check; ``unproven`` for a file whose model is not known.
        proof: comparison of its labels with those of its model; None if it takes tensors only or cannot be run here.
        without: why there is no comparison; empty if there is one.
    """

    name: str
    files: tuple[Path, ...]
    parity: str
    proof: PipelineCheck | None
    without: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PackageReport:
    """The package that `package_models` wrote, and the models that the call added; the folder may contain others."""

    server: str
    folder: Path
    models: tuple[PackagedModel, ...]

    def __repr__(self) -> str:
        return brief(self, self.server, self.folder, *(model.name for model in self.models))


def package_models(
    models: Sequence[str | Path | Artifact] = (),
    *,
    server: str,
    precision: str | None = None,
    preprocessing: bool = True,
    preprocess: Sequence[str] = (),
    labels: Sequence[str] = (),
    data: str | None = None,
    output: Path | None = None,
    options: PackageOptions | None = None,
    allow_untrained: bool = False,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> PackageReport:
    """Write a package for a server; on an error the folder stays as it was.

    If the folder is a package that holds several models, its other models and earlier versions are kept.

    Args:
        models: model names in the artifacts directory, files, also ONNX files without a manifest, or artifacts (several
            engines of one model become one model); default the model of the newest export.
        server: package target: ``triton``, ``kserve``, ``standalone``, or the name of a plug-in.
        precision: precision of the files, for models given by name; default ``fp32``.
        preprocessing: package the preprocessing from an image to the model's input, and the labels, where possible.
        preprocess: ``key=value`` changes to the preprocessing that the manifests record.
        labels: class names, in place of those in the manifests.
        data: images for the check, in addition to synthetic ones: a data set's name, a folder, or arrays.
        output: the folder; default ``packages/SERVER`` in the artifacts directory, or ``packages/SERVER-MODEL`` for a
            target that holds one model.
        options: how the server runs the models.
        allow_untrained: package untrained weights.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Raises:
        ArtifactError: a file does not exist or did not pass its parity check, its weights are untrained, or the target
            does not take it.
        DigestError: a file differs from its manifest.
        ParityError: the labels of a float32 package differ from PyTorch's; it was not published.
        UsageError: an option does not fit the target or the models.
        StorageError: the package could not be written.
    """
    names = [text_of(item) for item in models]
    target = find_target(server)
    options = options or PackageOptions()
    target.check_options(options)
    for option, used in (("--data", data is not None), ("--preprocess", bool(preprocess)), ("--labels", bool(labels))):
        if used and not preprocessing:
            raise UsageError(f"{option} is not used with --no-preprocessing.")
    if precision is not None and names and all(Path(name).is_file() for name in names):
        raise UsageError(f"--precision {precision} is not used with files, which have their own.")
    store = Store.at(artifacts)
    chosen = _choose(names, precision or "fp32", target, store, progress)
    for artifact in chosen:
        check_release(artifact, allow_untrained=allow_untrained, progress=progress)
    chosen = [described(artifact, preprocess, labels) for artifact in chosen]
    items = build_items(chosen, options.max_batch, preprocessing, progress)
    if target.single_model and len(items) > 1:
        raise UsageError(
            f"a package for {server} holds one model.", f"deploy package {items[0].manifest.model} --for {server}"
        )
    folder = output or store.root / PACKAGES / (f"{server}-{items[0].name}" if target.single_model else server)
    existing = _existing(folder)
    images = load_images(data, progress) if any(item.pipeline for item in items) else []
    if output is None:
        make_folder(store.root / PACKAGES)
    with replaced(folder) as scratch:
        if existing and not target.single_model:
            shutil.copytree(folder, scratch, dirs_exist_ok=True)
        target.write(scratch, items, options)
        if target.example and images:
            Pillow.fromarray(images[0]).save(scratch / target.example)
        packaged = tuple(_check(item, scratch, target, images, store, progress) for item in items)
        listed = {**existing.get("models", {}), **{model.name: to_plain(model) for model in packaged}}
        write_package(scratch, {"server": server, "models": listed, "versions": versions(), "created": now()})
        if _existing(folder) != existing:
            raise ArtifactError(f"{folder}: another process changed it meanwhile.", "run the command again")
    return PackageReport(server=server, folder=folder, models=packaged)


def _choose(
    models: Sequence[str], precision: str, target: PackageTarget, store: Store, progress: Progress
) -> list[Artifact]:
    chosen = []
    for name in dict.fromkeys(models or (name_of(newest_export(store, progress)),)):
        if Path(name).is_file():
            artifact = open_artifact(Path(name))
        elif precision == "int8":
            artifact = _newest_int8(name, target, store)
        else:
            artifact = newest_export(store, progress, name=name, precisions=(precision,))
        refusal = target.refusal(artifact.manifest)
        if refusal:
            raise ArtifactError(f"{artifact.path}: {refusal}.")
        chosen.append(artifact)
    return chosen


def _newest_int8(name: str, target: PackageTarget, store: Store) -> Artifact:
    for artifact in newest_variants(store, name):
        manifest = artifact.manifest
        if manifest.format == ONNX and manifest.precision == "int8" and not target.refusal(manifest):
            return artifact
    backends = [find_backend(backend) for backend in target.backends]
    quantized_for = [item for backend in backends if ONNX in backend.formats for item in backend.targets]
    hint = f"deploy quantize {name} --target {quantized_for[0]}" if quantized_for else "deploy quantize --help"
    raise ArtifactError(f"{store.root}: no INT8 file of {name} for {target.title}.", hint)


def _existing(folder: Path) -> dict[str, Any]:
    """Return the list of an existing package; empty if the folder is missing or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return {}
    if not (folder / PACKAGE).is_file():
        raise UsageError(f"{folder}: exists and is not a package.", "--output DIR chooses another folder")
    return read_package(folder)


def _check(
    item: PackageItem, folder: Path, target: PackageTarget, images: Images, store: Store, progress: Progress
) -> PackagedModel:
    """Compare a packaged pipeline with PyTorch, if the model has one and this machine can run it."""
    check, reason, classify = None, item.no_pipeline, target.classify
    if item.pipeline is not None:
        if classify is not None:
            check = check_pipeline(item, lambda images: classify(folder, item, images), images, store, progress)
        if check is None:
            reason = "the package cannot be run on this machine, so its labels were not compared"
            progress.warn(f"{item.name}: {reason}")
    return PackagedModel(
        name=item.name,
        files=tuple(artifact.path for artifact in item.artifacts),
        parity=item.manifest.verdict,
        proof=check,
        without=reason,
    )
