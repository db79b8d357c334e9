"""From pixels to names: what was packaged is held against the model in PyTorch, on the same pictures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deploy.backends.onnxruntime import runner as onnxruntime
from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import Artifact
from deploy.core.environment import version
from deploy.core.errors import ArtifactError, BackendError, DataError, ParityError
from deploy.core.model import Model, Preprocessing
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.data.collection import open_dataset
from deploy.data.preprocess import image_preprocessing, prepare
from deploy.models.open import open_model, request_of
from deploy.packaging.content import Content

Picture = NDArray[np.uint8]
SIZES = ((480, 640), (640, 480), (224, 224), (256, 256), (97, 61), (333, 500), (900, 300), (32, 32))
"""Height and width in pixels of the pictures that are drawn."""
MOST = 64
"""Of the pictures in ``--data``, evenly spaced."""
TIE = 1e-4
"""Two scores of PyTorch that differ by less, relative to the largest, may come out in either order."""
_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineProof:
    """What was found on the pictures.

    Attributes:
        pictures: how many.
        equal_inputs: pictures whose preprocessed values equal Pillow's to the bit; None where a script prepares them.
        same: pictures whose first name is PyTorch's.
        ties: of the others, those that PyTorch does not tell apart either.
        example: names and probabilities of the first picture, as they came out.
    """

    pictures: int
    equal_inputs: int | None
    same: int
    ties: int
    example: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "pictures": self.pictures,
            "equal_inputs": self.equal_inputs,
            "same_first_label": self.same,
            "ties": self.ties,
            "example": [{"label": label, "probability": value} for label, value in self.example],
            "pillow": version("pillow"),
        }


Named = tuple[tuple[str, float], ...]
Answered = tuple[list[Named], int | None]


def pictures_for(data: str | None, progress: Progress) -> list[Picture]:
    """Those of a data set; then pictures of several sizes that a seed drew, smooth and noisy.

    Returns:
        uint8, (height, width, 3).

    Raises:
        DataError: pictures of more than 8 bits.
    """
    rng = np.random.default_rng(0)
    drawn = []
    for number, (height, width) in enumerate(SIZES):
        rows, columns = np.mgrid[:height, :width]
        waves = np.stack([np.sin(rows / (9 + 5 * c + number)) + np.cos(columns / (13 + 3 * c)) for c in range(3)], -1)
        noise = rng.normal(size=(height, width, 3))
        drawn.append(np.clip(127 + 55 * waves + (4, 40)[number % 2] * noise, 0, 255).astype(np.uint8))
    if data is None:
        return drawn
    real: list[Picture] = []
    dataset = open_dataset(data, limit=MOST, progress=progress)
    for index in np.unique(np.linspace(0, len(dataset) - 1, MOST).astype(int)):
        image = dataset.images[int(index)]
        if image.dtype != np.uint8:
            raise DataError(f"{dataset.name}: pictures of more than 8 bits a channel cannot be sent to the package.")
        real.append(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
    return real + drawn


def prove(
    content: Content,
    answer: Callable[[Sequence[Picture]], Answered],
    pictures: Sequence[Picture],
    store: Store,
    progress: Progress,
) -> PipelineProof:
    """Hold the names that come out of a package against PyTorch's.

    Args:
        content: what was packaged.
        answer: gives the names and probabilities of every picture, and how many were prepared equally.
        pictures: what is asked.
        store: where trained weights are found.
        progress: told what happens.

    Raises:
        ParityError: a float32 file names a picture otherwise, and it is no tie.
        ArtifactError: the model's weights are no longer those of the file.
    """
    artifact = content.artifacts[0]
    model = _model(artifact, store, progress)
    recipe = image_preprocessing(model) if model.preprocessing else artifact.manifest.preprocessing
    if recipe is None:
        raise ArtifactError(f"{artifact.path}: nothing says how a picture becomes its input.")
    with progress.stage(f"{content.name}: {len(pictures)} pictures through the package and through PyTorch"):
        answers, equal = answer(pictures)
        expected = _torch(model, recipe, pictures)
    same = ties = 0
    for scores, named in zip(expected, answers, strict=True):
        first, second = np.sort(scores)[::-1][:2] if len(scores) > 1 else (scores[0], -np.inf)
        if named[0][0] == content.labels[int(scores.argmax())]:
            same += 1
        elif first - second <= TIE * np.abs(scores).max():
            ties += 1
    proof = PipelineProof(pictures=len(pictures), equal_inputs=equal, same=same, ties=ties, example=answers[0])
    if artifact.manifest.precision == "fp32" and same + ties < len(pictures):
        others = len(pictures) - same - ties
        raise ParityError(
            f"{content.name}: {others} of {len(pictures)} pictures are named otherwise than by PyTorch.",
            "nothing was published; --no-preprocessing packages the model alone",
        )
    return proof


def _model(artifact: Artifact, store: Store, progress: Progress) -> Model:
    model = open_model(request_of(artifact), store, progress)
    if model.weights.identity != artifact.manifest.weights.identity:
        raise ArtifactError(
            f"{artifact.path}: made from other weights than {model.name} has now ({model.weights.source}).",
            f"deploy export {artifact.manifest.model} --format onnx",
        )
    return model


def _torch(model: Model, recipe: Preprocessing, pictures: Sequence[Picture]) -> list[NDArray[Any]]:
    runner = PyTorchRunner(model)
    name = model.inputs[0].name
    return [next(iter(runner.run({name: prepare(item, recipe)[None]}).values()))[0] for item in pictures]


def through_graphs(content: Content, before: Path, model: Path, after: Path) -> Callable[[Sequence[Picture]], Answered]:
    """The three graphs of an ensemble, one after the other, each by ONNX Runtime."""

    def answer(pictures: Sequence[Picture]) -> Answered:
        recipe = content.artifacts[0].manifest.preprocessing
        answers, equal = [], 0
        taken, given = content.inputs[0].name, content.outputs[0].name
        with onnxruntime.open(before) as first, onnxruntime.open(model) as second, onnxruntime.open(after) as third:
            for picture in pictures:
                sample = first.run({"image": picture})[taken]
                equal += int(recipe is not None and np.array_equal(sample[0], prepare(picture, recipe)))
                found = third.run({given: second.run({taken: sample})[given]})
                pairs = zip(found["label"][0], found["probability"][0], strict=True)
                answers.append(tuple((str(label), float(value)) for label, value in pairs))
        return answers, equal

    return answer


def through_script(script: Path) -> Callable[[Sequence[Picture]], Answered]:
    """The script of a standalone folder, as its user runs it, in a process of its own."""

    def answer(pictures: Sequence[Picture]) -> Answered:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}.png" for number in range(len(pictures))]
            for path, picture in zip(paths, pictures, strict=True):
                Pillow.fromarray(picture).save(path)
            ran = subprocess.run(
                [sys.executable, script, *paths], capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT_S
            )
        if ran.returncode:
            raise BackendError(f"{script.name} failed: {(ran.stderr.strip() or 'without a word').splitlines()[-1]}")
        return _read(ran.stdout), None

    return answer


def _read(text: str) -> list[Named]:
    answers: list[list[tuple[str, float]]] = []
    for line in text.removesuffix("\n").split("\n"):
        if not line.startswith("  "):
            answers.append([])
            continue
        probability, _, label = line.removeprefix("  ").partition("  ")
        answers[-1].append((label, float(probability)))
    return [tuple(answer) for answer in answers]
