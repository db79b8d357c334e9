"""The bundled data sets."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from deploy.core.errors import DataError
from deploy.data.collection import bundled_names, open_dataset, open_splits


def test_names() -> None:
    assert bundled_names() == ["cifar10", "digits", "fashion-mnist", "mnist", "shapes"]


def test_digits_are_complete_balanced_and_reproducible() -> None:
    train, held_out = open_splits("digits")
    assert (len(train), len(held_out), train.classes) == (1438, 359, tuple("0123456789"))
    assert np.bincount(held_out.labeled()).min() >= 34
    assert train.images[0].shape == (8, 8, 1)
    assert max(train.images[index].max() for index in range(20)) == 255
    seen = {train.images[index].tobytes() for index in range(len(train))}
    fresh = [held_out.images[index].tobytes() not in seen for index in range(len(held_out))]
    assert sum(fresh) == len(fresh), "an image is in both splits"
    again = open_dataset("digits")
    assert again.digest == held_out.digest and again.labeled().tolist() == held_out.labeled().tolist()


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_existing_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    random = np.random.RandomState(0)
    for part, count in (("train", 20), ("t10k", 10)):
        images = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(_idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(_idx(np.arange(count, dtype=np.uint8) % 10))
    train, held_out = open_splits(name, root=tmp_path)
    assert (len(train), len(held_out), len(train.classes), train.split) == (20, 10, 10, "train")
    assert np.array_equal(held_out.images[9][:, :, 0], images[9]) and held_out.labeled()[9] == 9


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_files_without_a_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}.*{tmp_path}") as caught:
        open_dataset(name, root=tmp_path)  # conftest blocks the network
    assert "--data-root DIR" in (caught.value.hint or "") and "DIR/" in (caught.value.hint or "")


def test_damaged_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(gzip.compress(b"not what it says"))
    with pytest.raises(DataError, match=f"mnist.*{tmp_path}"):
        open_dataset("mnist", root=tmp_path)
