"""Images in ``.npy`` and ``.npz`` files."""

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
    ("array", "datum"),
    [
        (np.zeros((0, 3, 4, 4), np.uint8), r"\[0, 3, 4, 4\]"),
        (np.zeros((2, 5, 5, 5), np.uint8), r"\[2, 5, 5, 5\]"),
        (np.zeros(7, np.uint8), r"\[7\]"),
        (np.full((2, 4, 4), 256), "256.*0..255"),
        (np.full((2, 4, 4), -1.0), r"-1\.0.*\[0, 1\]"),
        (np.full((2, 4, 4), 16.0), r"16\.0.*\[0, 1\]"),
        (np.full((2, 4, 4), np.nan), "nan"),
        (np.zeros((2, 4, 4), bool), "bool"),
        (np.zeros((2, 4, 4), complex), "complex128"),
    ],
)
def test_arrays_that_are_not_images(tmp_path: Path, array: np.ndarray, datum: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy.*{datum}"):
        open_dataset(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("labels", "datum"),
    [
        (np.arange(5), "5.* 6 "),
        (np.eye(6, dtype=int), r"\[6, 6\]"),
        (np.zeros(6), "float64"),
        (np.array([0, 1, 2, 3, 4, -1]), "-1 .*4"),
        (np.array([0, 1, 2, 3, 4, 10**9]), "1000000000"),
    ],
)
def test_invalid_labels(tmp_path: Path, labels: np.ndarray, datum: str) -> None:
    with pytest.raises(DataError, match=rf"a\.npz.*{datum}"):
        open_dataset(saved(tmp_path / "a.npz", images=PIXELS, labels=labels))


def test_a_class_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'1'"):
        open_splits(saved(tmp_path / "a.npz", images=PIXELS, labels=np.array([0, 0, 0, 2, 2, 2])))


def test_files_that_are_not_arrays(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        path.write_bytes(b"nonsense")
        with pytest.raises(DataError, match=name):
            open_dataset(path)
    whole = saved(tmp_path / "b.npz", images=PIXELS).read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.npz"):
        open_dataset(tmp_path / "b.npz")
    np.save(tmp_path / "d.npy", PIXELS)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(DataError, match=r"d\.npz.*single array"):
        open_dataset(tmp_path / "d.npz")
    with pytest.raises(DataError, match=r"c\.npz.*\bz\b"):
        open_dataset(saved(tmp_path / "c.npz", z=PIXELS))


def test_a_pickle_in_an_archive_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    with pytest.raises(DataError, match=r"a\.npz"):
        open_dataset(saved(tmp_path / "a.npz", images=np.array([Bomb()], dtype=object)))
    assert not (tmp_path / "executed").exists()


def test_unknown_data(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        open_dataset("fashion_mnist")
    assert "fashion-mnist" in caught.value.suggestions
    with pytest.raises(DataError, match="nowhere"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"a\.txt"):
        open_dataset(tmp_path / "a.txt")


def test_a_limit_on_arrays_and_batches_without_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.zeros((64, 8, 8), np.uint8))
    dataset = open_dataset(tmp_path / "big.npy", limit=10)
    assert len(dataset) == 10
    recipe = Preprocessing(crop=(8, 8), mean=(0.0,), std=(1.0,))
    assert [labels for _, labels in batches(dataset, recipe, 4)] == [None] * 3
