"""Folders of images: accepted layouts, unreadable files and errors."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import DataError
from deploy.core.model import Preprocessing
from deploy.data.collection import open_dataset, open_splits
from deploy.data.preprocess import batches
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]


def picture(path: Path, value: int = 100, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "I;16") else (value,) * len(mode)).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name, count in (("cat", 6), ("dog", 4)):
        for index in range(count):
            picture(tmp_path / "pets" / name / f"{index}.png", 20 * index + 10)
    return tmp_path / "pets"


def test_class_folders(pets: Path) -> None:
    dataset = open_dataset(pets)
    assert (dataset.name, dataset.split, dataset.classes, len(dataset)) == ("pets", "all", ("cat", "dog"), 10)
    assert dataset.labels is not None and dataset.labels.tolist() == [0] * 6 + [1] * 4
    assert dataset.images[1].shape == (7, 9, 3) and (dataset.images[1] == 30).all()


def test_the_digest_depends_on_names_and_contents(pets: Path) -> None:
    before = open_dataset(pets).digest
    assert open_dataset(pets).digest == before
    picture(pets / "cat" / "0.png", 11)
    changed = open_dataset(pets).digest
    (pets / "cat" / "0.png").rename(pets / "cat" / "zero.png")
    assert len({before, changed, open_dataset(pets).digest}) == 3


def test_nested_and_hidden_files_and_other_files(pets: Path) -> None:
    picture(pets / "cat" / "more" / "a.PNG")
    picture(pets / "cat" / ".hidden.png")
    picture(pets / ".git" / "a.png")
    (pets / "cat" / "notes.txt").write_text("no image")
    (pets / "cat" / "again").symlink_to(pets / "cat", target_is_directory=True)
    assert len(open_dataset(pets)) == 11


def test_a_fifth_of_every_class_is_held_out_reproducibly(pets: Path) -> None:
    train, held_out = open_splits(pets)
    assert (train.split, held_out.split, len(train), len(held_out)) == ("train", "test", 8, 2)
    assert held_out.labeled().tolist() == [0, 1]
    again = open_splits(pets)[1]
    assert all(np.array_equal(held_out.images[index], again.images[index]) for index in range(2))


def test_train_and_val_folders(tmp_path: Path) -> None:
    for part, names in (("train", "abc"), ("val", "cb"), ("test", "a")):
        for name in names:
            picture(tmp_path / part / name / "1.png")
    train, held_out = open_splits(tmp_path)
    assert train.classes == held_out.classes == ("a", "b", "c")
    assert (train.split, held_out.split) == ("train", "test")
    assert held_out.labeled().tolist() == [1, 2], "labels are those of the training classes"
    assert open_dataset(tmp_path).classes == ("a",), "for evaluation, test is preferred over val"


def test_a_held_out_class_that_is_not_trained_on(tmp_path: Path) -> None:
    for path in ("train/a", "train/b", "val/c"):
        picture(tmp_path / path / "1.png")
    with pytest.raises(DataError, match="'c'"):
        open_splits(tmp_path)


def test_a_missing_part(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="test or val") as caught:
        open_dataset(tmp_path)
    assert str(tmp_path / "train") in (caught.value.hint or "")


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    for name in ("plane", "train"):
        picture(tmp_path / name / "1.png")
    assert open_dataset(tmp_path).classes == ("plane", "train")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for index in range(3):
        picture(tmp_path / f"{index}.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.labels, dataset.classes, len(dataset)) == (None, (), 3)
    with pytest.raises(DataError, match="labels"):
        open_splits(tmp_path)


def test_images_outside_class_folders_are_reported(pets: Path) -> None:
    picture(pets / "cover.png")
    listener = Listener()
    assert len(open_dataset(pets, progress=listener)) == 10
    assert len(listener.notes) == 1 and "1 images" in listener.notes[0]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: (path / "cat").mkdir()])
def test_no_images(tmp_path: Path, make: object) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        open_dataset(tmp_path)


def test_a_class_folder_without_images(pets: Path) -> None:
    (pets / "emu").mkdir()
    with pytest.raises(DataError, match="'emu'"):
        open_dataset(pets)


def test_one_class_only(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match="cat"):
        open_splits(tmp_path)


def test_unreadable_images_are_listed_and_refused(pets: Path) -> None:
    good = (pets / "cat" / "1.png").read_bytes()
    (pets / "cat" / "cut.png").write_bytes(good[: len(good) // 2])
    (pets / "cat" / "empty.png").write_bytes(b"")
    (pets / "dog" / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match="3 of 13") as caught:
        open_dataset(pets)
    for name in ("cat/cut.png", "cat/empty.png", "dog/text.jpg"):
        assert name in caught.value.message
    assert "--skip-bad" in (caught.value.hint or "")


def test_unreadable_images_can_be_skipped(pets: Path) -> None:
    (pets / "cat" / "bad.png").write_bytes(b"bad")
    listener = Listener()
    dataset = open_dataset(pets, skip_bad=True, progress=listener)
    assert len(dataset) == 10 and [text.partition(":")[0] for text in dataset.skipped] == ["cat/bad.png"]
    assert len(listener.warnings) == 1 and "1 of 11" in listener.warnings[0]


def test_a_class_with_bad_images_only_is_not_skipped(pets: Path) -> None:
    (pets / "emu").mkdir()
    (pets / "emu" / "bad.png").write_bytes(b"bad")
    with pytest.raises(DataError, match="'emu'"):
        open_dataset(pets, skip_bad=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_never_hangs(pets: Path, tmp_path: Path) -> None:
    os.mkfifo(pets / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"cat/pipe\.png"):
        open_dataset(pets)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=r"pipe\.npz"):
        open_dataset(tmp_path / "pipe.npz")


def test_an_image_that_is_damaged_later_is_named(pets: Path) -> None:
    dataset = open_dataset(pets)
    (pets / "cat" / "0.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=r"cat/0\.png"):
        dataset.images[0]


@pytest.mark.parametrize(
    ("mode", "value", "shape", "expected"),
    [
        ("L", 51, (7, 9, 1), 51),
        ("RGBA", 51, (7, 9, 3), 51),
        ("LA", 51, (7, 9, 1), 51),
        ("I;16", 13107, (7, 9, 1), np.float32(0.2)),
    ],
)
def test_kinds_of_images(tmp_path: Path, mode: str, value: int, shape: tuple[int, ...], expected: float) -> None:
    picture(tmp_path / "a.png", value, mode)
    image = open_dataset(tmp_path).images[0]
    assert image.shape == shape and (image == expected).all()


def test_a_limit_covers_all_classes_and_only_its_images_are_decoded(pets: Path) -> None:
    (pets / "cat" / "1.png").write_bytes(b"bad, but not selected")
    dataset = open_dataset(pets, limit=4)
    assert dataset.labeled().tolist() == [0, 0, 1, 1]


def test_batches_have_at_most_the_given_size(pets: Path) -> None:
    recipe = Preprocessing(crop=(4, 4), mean=(0.5,), std=(0.5,), gray=True)
    shapes = [images.shape for images, _ in batches(open_dataset(pets), recipe, 4)]
    assert shapes == [(4, 1, 4, 4), (4, 1, 4, 4), (2, 1, 4, 4)]
