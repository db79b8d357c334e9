"""Compares the labels that a package returns for test images with those of the model.

The model is PyTorch's; where it is not known, the packaged file itself, with images prepared by Pillow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.backend import ONNX, default_backend
from deploy.core.environment import version
from deploy.core.errors import ArtifactError, DataError, ParityError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.data.collection import open_dataset
from deploy.data.preprocess import image_preprocessing, prepare
from deploy.models.open import open_model, request_of
from deploy.models.preprocessing import CHANGES, override
from deploy.packaging.target import Images, PackageItem, PipelineOutput, RankedLabel

SIZES = ((480, 640), (640, 480), (224, 224), (256, 256), (97, 61), (333, 500), (900, 300), (32, 32))
"""Heights and widths in pixels of the synthetic images."""
MAX_IMAGES = 64
"""Number of images taken from ``--data``, evenly spaced."""
TIE = 1e-4
"""Two PyTorch scores that differ by less than this, relative to the largest score, may be returned in either order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCheck:
    """How the labels of a package compare with those of its model.

    Attributes:
        pictures: number of test images.
        equal_inputs: number of images whose preprocessed values equal Pillow's to the bit; None if not compared.
        same_first_label: number of images with the model's label in first place.
        ties: number of the other images for which the model's two best scores are tied.
        example: labels and probabilities of the first image, as the package returned them.
        reference: ``PyTorch``, or ``the file`` where the model is not known.
    """

    pictures: int
    equal_inputs: int | None
    same_first_label: int
    ties: int
    example: tuple[RankedLabel, ...]
    reference: str
    pillow: str | None = field(default_factory=lambda: version("pillow"))


def load_images(data: str | None, progress: Progress) -> list[NDArray[np.uint8]]:
    """Return images of a data set, followed by seeded synthetic images of several sizes, smooth and noisy."""
    rng = np.random.default_rng(0)
    synthetic = []
    for number, (height, width) in enumerate(SIZES):
        rows, columns = np.mgrid[:height, :width]
        waves = np.stack([np.sin(rows / (9 + 5 * c + number)) + np.cos(columns / (13 + 3 * c)) for c in range(3)], -1)
        noise = rng.normal(size=(height, width, 3))
        synthetic.append(np.clip(127 + 55 * waves + (4, 40)[number % 2] * noise, 0, 255).astype(np.uint8))
    if data is None:
        return synthetic
    real: list[NDArray[np.uint8]] = []
    dataset = open_dataset(data, limit=MAX_IMAGES, progress=progress)
    for index in np.unique(np.linspace(0, len(dataset) - 1, MAX_IMAGES).astype(int)):
        image = dataset.images[int(index)]
        if image.dtype != np.uint8:
            raise DataError(f"{dataset.name}: images with more than 8 bits per channel cannot be sent to a package.")
        real.append(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
    return real + synthetic


def check_pipeline(
    item: PackageItem,
    classify: Callable[[Images], PipelineOutput | None],
    images: Images,
    store: Store,
    progress: Progress,
) -> PipelineCheck | None:
    """Compare the labels of a packaged pipeline; None if ``classify`` cannot run it on this machine.

    Raises:
        ParityError: the first label of a float32 package differs from the model's, and it is no tie.
        ArtifactError: the model's weights are no longer those of the file.
    """
    reference = "PyTorch" if item.manifest.reference else "the file"
    with progress.stage(f"{item.name}: running {len(images)} images through the package and {reference}"):
        predictions = classify(images)
        if predictions is None:
            return None
        known = bool(item.manifest.reference)
        expected = _pytorch_scores(item, images, store, progress) if known else _file_scores(item, images)
    same = ties = 0
    for scores, labels in zip(expected, predictions.labels, strict=True):
        first, second = np.sort(scores)[::-1][:2] if len(scores) > 1 else (scores[0], -np.inf)
        if labels[0].label == item.labels[int(scores.argmax())]:
            same += 1
        elif first - second <= TIE * np.abs(scores).max():
            ties += 1
    different = len(images) - same - ties
    if item.manifest.precision == "fp32" and different:
        raise ParityError(
            f"{item.name}: the labels of {different} of {len(images)} images differ from those of {reference}; "
            "the package was not published.",
            "--no-preprocessing packages the model alone",
        )
    return PipelineCheck(
        pictures=len(images),
        equal_inputs=predictions.equal_inputs,
        same_first_label=same,
        ties=ties,
        example=predictions.labels[0],
        reference=reference,
    )


def _file_scores(item: PackageItem, images: Images) -> list[NDArray[Any]]:
    artifact, spec, recipe = item.artifacts[0], item.manifest.inputs[0], item.manifest.preprocessing
    if recipe is None:
        raise ArtifactError(f"{artifact.path}: its manifest records no preprocessing.")
    with IsolatedRunner(default_backend(ONNX).name) as runner:
        runner.open(artifact.path)
        feeds = ({spec.name: prepare(image, recipe)[None].astype(spec.dtype)} for image in images)
        return [next(iter(runner.run(feed).values()))[0] for feed in feeds]


def _pytorch_scores(item: PackageItem, images: Images, store: Store, progress: Progress) -> list[NDArray[Any]]:
    artifact = item.artifacts[0]
    model = open_model(request_of(artifact), store, progress)
    if model.weights.identity != artifact.manifest.weights.identity:
        raise ArtifactError(
            f"{artifact.path}: made from other weights than {model.name} has now ({model.weights.source}).",
            f"deploy export {artifact.manifest.model} --format onnx",
        )
    recipe = item.manifest.preprocessing
    if model.preprocessing:
        recipe = override(image_preprocessing(model), item.manifest.options.get(CHANGES, ()))
    if recipe is None:
        raise ArtifactError(f"{artifact.path}: its manifest records no preprocessing.")
    runner, name = PyTorchRunner(model), model.inputs[0].name
    return [next(iter(runner.run({name: prepare(image, recipe)[None]}).values()))[0] for image in images]
