"""``.npy`` and ``.npz``."""

from pathlib import Path

import numpy as np
import pytest

from deploy.core.errors import DataError, UnknownNameError
from deploy.core.model import Preprocessing
from deploy.data.collection import open_dataset, open_splits
from deploy.data.preprocess import batches

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 5, 4, 3)).astype(np.uint8)


def saved(path: Path, **members: object) -> Path:
    np.savez(path, **members)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS),
        (PIXELS[..., 0], PIXELS[..., :1]),
        (PIXELS[..., :1].astype(np.int64), PIXELS[..., :1]),
        (PIXELS.astype(np.float64) / 255, (PIXELS.astype(np.float64) / 255).astype(np.float32)),
    ],
    ids=["NHWC", "NCHW", "NHW", "int64", "float64"],
)
def test_layouts_and_dtypes(tmp_path: Path, array: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    dataset = open_dataset(tmp_path / "a.npy")
    images = np.stack([dataset.images[index] for index in range(len(dataset))])
    assert images.dtype == expected.dtype and np.array_equal(images, expected)
    assert (dataset.name, dataset.split, dataset.labels) == ("a", "all", None)


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
def test_labels(tmp_path: Path, names: tuple[str, str]) -> None:
    labels = np.array([0, 1, 2, 2, 1, 0], dtype=np.uint8)
    dataset = open_dataset(saved(tmp_path / "a.npz", **dict(zip(names, (PIXELS, labels), strict=True))))
    assert dataset.classes == ("0", "1", "2") and dataset.indexed
    assert dataset.labeled().tolist() == labels.tolist()
    train, held_out = open_splits(tmp_path / "a.npz")
    assert sorted([*train.labeled(), *held_out.labeled()]) == sorted(labels)
    assert train.digest == held_out.digest == dataset.digest


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 3, 4, 4), np.uint8), "holds no image"),
        (np.zeros((2, 5, 5, 5), np.uint8), "is not images"),
        (np.zeros(7, np.uint8), "is not images"),
        (np.full((2, 4, 4), 256), "from 256 to 256"),
        (np.full((2, 4, 4), -1.0), "floats must be in"),
        (np.full((2, 4, 4), 16.0), "floats must be in"),
        (np.full((2, 4, 4), np.nan), "from nan to nan"),
        (np.zeros((2, 4, 4), bool), "bool is no dtype of images"),
        (np.zeros((2, 4, 4), complex), "no dtype of images"),
    ],
)
def test_arrays_that_are_not_images(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(5), "5 labels for 6 images"),
        (np.eye(6, dtype=int), "not a class index an image"),
        (np.zeros(6), "not a class index an image"),
        (np.array([0, 1, 2, 3, 4, -1]), "from -1 to 4"),
        (np.array([0, 1, 2, 3, 4, 10**9]), "are not class indices"),
    ],
)
def test_labels_that_are_not(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(saved(tmp_path / "a.npz", images=PIXELS, labels=labels))


def test_a_class_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image of class '1'"):
        open_splits(saved(tmp_path / "a.npz", images=PIXELS, labels=np.array([0, 0, 0, 2, 2, 2])))


def test_files_that_are_not_arrays(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        path.write_bytes(b"nonsense")
        with pytest.raises(DataError, match="not a complete file of plain arrays"):
            open_dataset(path)
    whole = saved(tmp_path / "b.npz", images=PIXELS).read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a complete file"):
        open_dataset(tmp_path / "b.npz")
    np.save(tmp_path / "d.npy", PIXELS)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(DataError, match="a single array"):
        open_dataset(tmp_path / "d.npz")
    with pytest.raises(DataError, match="holds: z"):
        open_dataset(saved(tmp_path / "c.npz", z=PIXELS))


def test_a_pickle_inside_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "it ran",))

    with pytest.raises(DataError, match="not a complete file of plain arrays"):
        open_dataset(saved(tmp_path / "a.npz", images=np.array([Bomb()], dtype=object)))
    assert not (tmp_path / "it ran").exists()


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*fashion-mnist"):
        open_dataset("fashion_mnist")
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="neither a folder nor"):
        open_dataset(tmp_path / "a.txt")


def test_only_the_batch_is_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.zeros((64, 8, 8), np.uint8))
    dataset = open_dataset(tmp_path / "big.npy", limit=10)
    assert len(dataset) == 10
    recipe = Preprocessing(crop=(8, 8), mean=(0.0,), std=(1.0,))
    assert [labels for _, labels in batches(dataset, recipe, 4)] == [None] * 3
