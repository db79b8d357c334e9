"""The preprocessing graph equals Pillow bit for bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from deploy.core.errors import ExportError
from deploy.core.model import Preprocessing
from deploy.data.preprocess import prepare
from exporters.preprocessing_to_onnx import labels_to_onnx, preprocessing_to_onnx

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZES = [(224, 224), (256, 256), (480, 640), (333, 500), (97, 61), (61, 97), (1, 1), (7, 900), (1080, 811), (900, 300)]


def _image(height: int, width: int, kind: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1009 + width)
    noise = rng.integers(0, 256, (height, width, 3))
    if kind == "noise":
        return noise.astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(rows / 17)[..., None] + 60 * np.cos(columns[..., None] / (9, 23, 31))
    return np.clip(waves + noise / 32, 0, 255).astype(np.uint8)


def _run(recipe: Preprocessing, *images: NDArray[Any]) -> list[NDArray[Any]]:
    model = preprocessing_to_onnx(recipe, output="input")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {"image": image})[0] for image in images]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "box", "nearest"])
@pytest.mark.parametrize(
    "recipe",
    [
        Preprocessing(crop=(224, 224), resize=256, **IMAGENET),
        Preprocessing(crop=(96, 64), resize=73, **IMAGENET),
        Preprocessing(crop=(299, 299), **IMAGENET),
        Preprocessing(crop=(32, 32), mean=(0.5,), std=(0.5,), gray=True),
        Preprocessing(crop=(27, 28), resize=27, mean=(0.1307,), std=(0.3081,), gray=True),
    ],
    ids=["recipe", "padded", "straight", "gray", "odd"],
)
def test_equal_to_pillow_to_the_bit(recipe: Preprocessing, interpolation: str) -> None:
    recipe = dataclasses.replace(recipe, interpolation=interpolation)
    images = [_image(*size, kind) for size in SIZES for kind in ("noise", "waves")]
    for image, found in zip(images, _run(recipe, *images), strict=True):
        expected = prepare(image, recipe)
        assert found.shape == (1, *expected.shape) and found.dtype == np.float32
        np.testing.assert_array_equal(found[0], expected, err_msg=f"{image.shape}")


def test_an_unsupported_interpolation_is_refused() -> None:
    with pytest.raises(ExportError, match="lanczos"):
        preprocessing_to_onnx(
            Preprocessing(crop=(8, 8), mean=(0.5,), std=(0.5,), interpolation="lanczos"), output="input"
        )


def test_labels_are_ordered_by_probability() -> None:
    model = labels_to_onnx(["cat", "dog", "hen"], logits="logits", dtype="float32", top_k=5)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = np.array([[0, 2, 1], [3, -1, -2]], np.float32)
    probability, label = session.run(["probability", "label"], {"logits": logits})
    assert label.tolist() == [["dog", "hen", "cat"], ["cat", "dog", "hen"]]
    weights = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probability, -np.sort(-weights / weights.sum(1, keepdims=True)), rtol=1e-6)
