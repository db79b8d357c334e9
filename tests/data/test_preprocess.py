"""Preprocessing is bitwise equal to torchvision's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from deploy.core.errors import DataError
from deploy.core.model import Preprocessing
from deploy.data.preprocess import prepare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("size", [(300, 200), (199, 333), (50, 60), (8, 8), (100, 700), (224, 224)])
@pytest.mark.parametrize(
    ("resize", "crop"), [(256, (224, 224)), (None, (32, 48)), (64, (96, 80)), (57, (57, 57)), (40, (33, 20))]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_as_torchvision(size: tuple[int, int], resize: int | None, crop: tuple[int, int], interpolation: str) -> None:
    pixels = RANDOM.randint(0, 256, (*size, 3)).astype(np.uint8)
    steps = [
        transforms.Resize(resize or crop, interpolation=InterpolationMode(interpolation)),
        transforms.CenterCrop(crop),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    expected = transforms.Compose(steps)(Image.fromarray(pixels)).numpy()
    recipe = Preprocessing(crop=crop, resize=resize, mean=MEAN, std=STD, interpolation=interpolation)
    assert np.array_equal(prepare(pixels, recipe), expected)


def test_gray_becomes_rgb_by_repetition_and_back_by_luminance() -> None:
    gray = RANDOM.randint(0, 256, (12, 10, 1)).astype(np.uint8)
    rgb = prepare(gray, Preprocessing(crop=(12, 10), mean=(0.0,) * 3, std=(1.0,) * 3))
    assert rgb.shape == (3, 12, 10) and (rgb == gray[:, :, 0] / np.float32(255)).all()
    color = RANDOM.randint(0, 256, (12, 10, 3)).astype(np.uint8)
    flat = prepare(color, Preprocessing(crop=(12, 10), mean=(0.0,), std=(1.0,), gray=True))
    luminance = np.asarray(Image.fromarray(color).convert("L"))
    assert np.array_equal(flat[0], luminance / np.float32(255))
    floats = prepare((color / 255).astype(np.float32), Preprocessing(crop=(12, 10), mean=(0.0,), std=(1.0,), gray=True))
    assert np.abs(floats - flat).max() < 0.003, "bytes are rounded, floats are not"


def test_floats_are_resized_as_floats() -> None:
    image = RANDOM.rand(8, 8, 1).astype(np.float32)
    recipe = Preprocessing(crop=(32, 32), mean=(0.5,), std=(0.5,))
    got = prepare(image, recipe)
    by_bytes = prepare((image * 255).round().astype(np.uint8), recipe)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, (32, 32), mode="bilinear", antialias=True)[0]
    assert np.allclose(got, (expected.numpy() - 0.5) / 0.5, atol=1e-5)
    assert np.abs(got - by_bytes).max() < 0.02
    assert got.dtype == np.float32 and got.flags.c_contiguous


def test_channels_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"3 channels.* 4\b"):
        prepare(np.zeros((4, 4, 3), np.uint8), Preprocessing(crop=(4, 4), mean=(0.0,) * 4, std=(1.0,) * 4))


def test_unknown_interpolation() -> None:
    recipe = Preprocessing(crop=(8, 8), mean=(0.0,), std=(1.0,), interpolation="guess")
    with pytest.raises(DataError, match="guess"):
        prepare(np.zeros((4, 4, 1), np.uint8), recipe)


def test_an_image_whose_aspect_ratio_makes_it_huge_is_refused() -> None:
    recipe = Preprocessing(crop=(8, 8), mean=(0.5,), std=(0.5,), resize=256)
    with pytest.raises(DataError):
        prepare(np.zeros((1, 16_000_000, 1), np.uint8), recipe)
