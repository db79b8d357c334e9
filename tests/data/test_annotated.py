"""Images with boxes and masks: layouts, splits and bad input."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import DataError
from deploy.data.collection import open_dataset, open_splits
from deploy.data.outlines import Outline, read_outline, run_lengths
from deploy.data.truth import IGNORED
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]

WIDTH, HEIGHT = 20, 10


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (value,) * 3).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def box(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 1, 5, 4], "area": 20, "iscrowd": 0, **changes}


def coco(root: Path, *boxes: dict[str, Any], **changes: Any) -> Path:
    """Write two pictures, of which the second one shows nothing."""
    for name in ("a.png", "b.png"):
        picture(root / "images" / name)
    images = [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}, {"id": 8, "file_name": "b.png"}]
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    document = {"images": images, "categories": categories, "annotations": list(boxes), **changes}
    return text(root / "annotations.json", json.dumps(document))


def yolo(root: Path, labels: str) -> Path:
    for name in ("a", "b"):
        picture(root / "images" / f"{name}.png")
    text(root / "labels" / "a.txt", labels)
    text(root / "classes.txt", "cat\ndog\n")
    return root


def voc(root: Path, name: str = "cat", corners: str = "3 2 7 5", size: str = f"{WIDTH} {HEIGHT}") -> Path:
    for stem in ("a", "b"):
        picture(root / "JPEGImages" / f"{stem}.png")
    width, height = size.split()
    bounds = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners.split(), strict=False)
    )
    text(
        root / "Annotations" / "a.xml",
        f"<annotation><size><width>{width}</width><height>{height}</height></size><object><name>{name}</name>"
        f"<difficult>0</difficult><bndbox>{bounds}</bndbox></object></annotation>",
    )
    return root


def masks(root: Path, mask: np.ndarray, mode: str = "L") -> Path:
    picture(root / "images" / "a.png")
    path = root / "masks" / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 0)])
    image.save(path)
    text(root / "classes.txt", "ground\nroad\nsky\n")
    return root


def test_the_same_boxes_in_every_format(tmp_path: Path) -> None:
    folders = [coco(tmp_path / "coco", box()), yolo(tmp_path / "yolo", "0 0.225 0.3 0.25 0.4\n"), voc(tmp_path / "voc")]
    for folder in (*folders, tmp_path / "coco"):
        dataset = open_dataset(folder)
        truths = dataset.annotated()
        assert len(dataset) == 2 and dataset.classes[0] == "cat" and dataset.labels is None
        np.testing.assert_allclose(truths[0].boxes, [[2, 1, 7, 5]], atol=1e-5)
        assert truths[0].labels.tolist() == [0]
        assert len(truths[1].boxes) == 0, "an image without labels shows nothing"


def test_crowds_and_difficult_objects(tmp_path: Path) -> None:
    assert open_dataset(coco(tmp_path / "coco", box(iscrowd=1))).annotated()[0].crowd.tolist() == [True]
    folder = voc(tmp_path / "voc")
    path = folder / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    assert open_dataset(folder).annotated()[0].crowd.tolist() == [True]


def test_outlines_and_names_in_yaml(tmp_path: Path) -> None:
    folder = yolo(tmp_path, "1 0.1 0.1 0.5 0.1 0.3 0.6\n")
    (folder / "classes.txt").unlink()
    text(folder / "data.yaml", "names: {0: cat, 1: dog}\n")
    dataset = open_dataset(folder)
    assert dataset.classes == ("cat", "dog")
    np.testing.assert_allclose(dataset.annotated()[0].boxes, [[2, 1, 10, 6]], atol=1e-5)


def pixels_of(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an outline, by the package that defines them."""
    from pycocotools import mask as package

    warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)  # of the package
    compressed = isinstance(outline, dict) and isinstance(outline["counts"], str)
    coded = outline if compressed else package.frPyObjects(outline, *size)
    pixels: np.ndarray = package.decode(package.merge(coded) if isinstance(coded, list) else coded).astype(bool)
    return pixels


def outlined(mask: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return a mask as run lengths in both forms of COCO."""
    from pycocotools import mask as package

    coded = package.encode(np.asfortranarray(mask, np.uint8))
    return {"list": run_lengths(mask), "text": {**coded, "counts": coded["counts"].decode()}}  # type: ignore[dict-item]


def test_masks_of_objects_in_every_form(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[1:5, 2:7] = True
    polygon = [2, 1, 7, 1, 7, 5, 2, 5]
    lines = " ".join(str(value / side) for value, side in zip(polygon, (WIDTH, HEIGHT) * 4, strict=True))
    folders = [yolo(tmp_path / "yolo", f"0 {lines}\n"), coco(tmp_path / "polygon", box(segmentation=[polygon]))]
    folders += [coco(tmp_path / name, box(segmentation=value)) for name, value in outlined(mask).items()]
    for folder in folders:
        truth, empty = (open_dataset(folder).annotated()[index] for index in (0, 1))
        assert truth.masks is not None and len(truth.masks) == 1 and empty.masks == () and truth.unmasked == ""
        np.testing.assert_array_equal(pixels_of(truth.masks[0], truth.size), mask)


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_coco(seed: int) -> None:
    random = np.random.RandomState(seed)
    height, width = (int(side) for side in random.randint(1, 300, 2))
    mask = random.rand(height, width) < random.rand() ** 3
    both = outlined(mask)
    assert read_outline(both["text"], (height, width)) == both["text"]
    np.testing.assert_array_equal(pixels_of(both["list"], (height, width)), mask)


def test_boxes_without_masks(tmp_path: Path) -> None:
    for case, value in {"none": {}, "empty": {"segmentation": []}}.items():
        truth = open_dataset(coco(tmp_path / case, box(**value))).annotated()[0]
        assert truth.masks is None and truth.unmasked == ""


BAD_OUTLINES: dict[str, Any] = {
    "two points": [[2, 1, 7, 1]],
    "half a point": [[2, 1, 7, 1, 7, 5, 2]],
    "no list": [2, 1, 7, 1, 7, 5],
    "text": [[2, 1, 7, 1, 7, "5"]],
    "a truth value": [[2, 1, 7, 1, 7, True]],
    "outside": [[2, 1, 7000000000, 1, 7, 5]],
    "far outside": [[2, 1, 10**400, 1, 7, 5]],
    "not finite": [[2, 1, float("nan"), 1, 7, 5]],
    "another size": {"size": [3, 3], "counts": [9]},
    "too few pixels": {"size": [HEIGHT, WIDTH], "counts": [4, 5]},
    "too many pixels": {"size": [HEIGHT, WIDTH], "counts": [0, 10**12]},
    "a negative run": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 5, -5]},
    "broken text": {"size": [HEIGHT, WIDTH], "counts": "\u00ff1"},
    "text that ends early": {"size": [HEIGHT, WIDTH], "counts": "XX"},
    "text of one endless number": {"size": [HEIGHT, WIDTH], "counts": "o" * 5000},
    "no counts": {"size": [HEIGHT, WIDTH]},
    "a number": 5,
}


@pytest.mark.parametrize("case", BAD_OUTLINES)
def test_bad_outlines_leave_the_boxes(tmp_path: Path, case: str) -> None:
    path = coco(tmp_path, box(id=4, segmentation=BAD_OUTLINES[case]))
    truth = open_dataset(path).annotated()[0]
    assert len(truth.boxes) == 1 and truth.masks is None
    assert "annotation 4" in truth.unmasked and "a.png" in truth.unmasked


def test_some_masks_are_missing(tmp_path: Path) -> None:
    polygon = [[2, 1, 7, 1, 7, 5]]
    truth = open_dataset(coco(tmp_path / "coco", box(segmentation=polygon), box(id=2))).annotated()[0]
    assert truth.masks is None and "annotation 2" in truth.unmasked
    folder = yolo(tmp_path / "yolo", "0 0.225 0.3 0.25 0.4\n1 0.1 0.1 0.5 0.1 0.3 0.6\n")
    truth = open_dataset(folder).annotated()[0]
    assert truth.masks is None and "a.txt" in truth.unmasked


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks(tmp_path: Path, mode: str) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:4], mask[9] = 2, IGNORED
    dataset = open_dataset(masks(tmp_path, mask, mode))
    pixels = dataset.annotated(pixels=True)[0].pixels
    assert pixels is not None and (pixels == mask).all()
    assert dataset.pixel_classes == ("ground", "road", "sky") and dataset.classes == ()
    with pytest.raises(DataError):
        dataset.annotated()


def test_splits_in_both_orders_of_folders(tmp_path: Path) -> None:
    for name in ("train", "val"):
        yolo(tmp_path / "inner" / name, "0 0.5 0.5 0.5 0.5\n")
        picture(tmp_path / "outer" / "images" / name / "a.png")
        text(tmp_path / "outer" / "labels" / name / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    picture(tmp_path / "inner" / "train" / "images" / "c.png")
    text(tmp_path / "outer" / "classes.txt", "cat\n")
    train, held_out = open_splits(tmp_path / "inner")
    assert (train.split, held_out.split, len(train), len(held_out)) == ("train", "test", 3, 2)
    train, held_out = open_splits(tmp_path / "outer")
    assert train.classes == held_out.classes == ("cat",) and len(train) == len(held_out) == 1
    (tmp_path / "inner" / "val").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="train"):
        open_dataset(tmp_path / "inner", split="test")


def test_a_fifth_is_held_out_reproducibly(tmp_path: Path) -> None:
    for index in range(10):
        picture(tmp_path / "images" / f"{index}.png", index)
    text(tmp_path / "labels" / "3.txt", "0 0.5 0.5 0.5 0.5\n")
    first, second = open_splits(tmp_path), open_splits(tmp_path)
    assert [len(part) for part in first] == [8, 2]
    assert [[int(image[0, 0, 0]) for image in map(part.images.__getitem__, range(len(part)))] for part in first] == [
        [int(image[0, 0, 0]) for image in map(part.images.__getitem__, range(len(part)))] for part in second
    ]


def test_shapes_have_boxes_masks_and_a_held_out_part() -> None:
    train, held_out = open_splits("shapes")
    assert (len(train), len(held_out), len(train.classes), len(train.pixel_classes)) == (960, 240, 4, 5)
    counts, sides = [], []
    for index in range(len(held_out)):
        truth = held_out.annotated()[index]
        counts.append(len(truth.labels))
        assert truth.masks is not None and truth.pixels is not None
        for (x1, y1, x2, y2), outline, label in zip(truth.boxes.astype(int), truth.masks, truth.labels, strict=True):
            mask = pixels_of(outline, truth.size)
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
            assert (truth.pixels[mask] == label + 1).all()
            sides.append(max(x2 - x1, y2 - y1))
    assert min(counts) == 0 and max(counts) >= 6 and min(sides) <= 10 and max(sides) >= 40
    assert len({train.digest, held_out.digest, open_dataset("shapes").digest}) == 1


BAD_YOLO = {
    "a class out of range": ("2 0.5 0.5 0.5 0.5", "a.txt"),
    "a class that is no index": ("cat 0.5 0.5 0.5 0.5", "a.txt"),
    "a negative class": ("-1 0.5 0.5 0.5 0.5", "a.txt"),
    "a box outside": ("0 0.9 0.5 0.5 0.5", "a.txt"),
    "a box in pixels": ("0 10 5 4 4", "a.txt"),
    "an empty box": ("0 0.5 0.5 0 0.5", "a.txt"),
    "a box that is not finite": ("0 nan 0.5 0.5 0.5", "a.txt"),
    "too few numbers": ("0 0.5 0.5 0.5", "a.txt"),
}


@pytest.mark.parametrize("case", BAD_YOLO)
def test_bad_label_files(tmp_path: Path, case: str) -> None:
    labels, named = BAD_YOLO[case]
    folder = yolo(tmp_path, f"0 0.5 0.5 0.5 0.5\n{labels}\n")
    with pytest.raises(DataError, match=named) as caught:
        open_dataset(folder)
    assert "line 2" in caught.value.message or "box" in caught.value.message
    listener = Listener()
    assert len(open_dataset(folder, skip_bad=True, progress=listener)) == 1 and named in listener.warnings[0]


BAD_COCO: dict[str, tuple[dict[str, Any], str]] = {
    "a box outside": (box(bbox=[18, 1, 5, 4]), "a.png"),
    "a box at negative coordinates": (box(bbox=[-4, 1, 5, 4]), "a.png"),
    "an empty box": (box(bbox=[2, 1, 0, 4]), "a.png"),
    "a box with negative sides": (box(bbox=[2, 1, -2, 4]), "a.png"),
    "three numbers": (box(bbox=[2, 1, 5]), "a.png"),
    "no numbers": (box(bbox=["x", 1, 5, 4]), "a.png"),
    "not finite": (box(bbox=[2, 1, float("inf"), 4]), "a.png"),
    "an unknown category": (box(category_id=4), "category 4"),
    "an unknown image": (box(image_id=99), "image 99"),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_bad_coco_annotations(tmp_path: Path, case: str) -> None:
    bad, named = BAD_COCO[case]
    path = coco(tmp_path, box(id=2), bad)
    with pytest.raises(DataError, match=r"annotations\.json") as caught:
        open_dataset(path)
    assert named in caught.value.message


def test_annotations_of_missing_images_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    path = coco(tmp_path / "coco", box(), box(id=5, image_id=99))
    (tmp_path / "coco" / "images" / "b.png").unlink()
    folder = yolo(tmp_path / "yolo", "0 0.5 0.5 0.5 0.5")
    text(folder / "labels" / "gone.txt", "0 0.5 0.5 0.5 0.5")
    other = voc(tmp_path / "voc")
    (other / "JPEGImages" / "a.png").unlink()
    for data, named, left in ((path, "b.png", 1), (folder, "gone.txt", 2), (other, "a.xml", 1)):
        with pytest.raises(DataError, match=named):
            open_dataset(data)
        listener = Listener()
        dataset = open_dataset(data, skip_bad=True, progress=listener)
        assert len(dataset) == left and dataset.skipped and named in listener.warnings[0]


def test_a_coco_file_of_another_kind(tmp_path: Path) -> None:
    for content in ("[]", "{", '{"images": 1}', '{"images": [], "annotations": [], "categories": []}'):
        with pytest.raises(DataError):
            open_dataset(text(tmp_path / "some.json", content))
    for name in ("/etc/passwd", "../secret.png", "", 3):
        with pytest.raises(DataError, match="name"):
            open_dataset(coco(tmp_path, images=[{"id": 7, "file_name": name}]))
    with pytest.raises(DataError, match="twice"):
        open_dataset(coco(tmp_path, images=[{"id": 7, "file_name": "a.png"}] * 2))
    with pytest.raises(DataError, match=f"{WIDTH} x {HEIGHT}"):
        open_dataset(coco(tmp_path, images=[{"id": 7, "file_name": "a.png", "width": HEIGHT, "height": WIDTH}]))


@pytest.mark.parametrize(
    "changes",
    [{"corners": "3 2 3 1"}, {"corners": "3 2 60 5"}, {"corners": "3 2 x 5"}, {"size": "9 9"}, {"corners": "1"}],
)
def test_bad_voc_files(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"a\.xml"):
        open_dataset(voc(tmp_path, **changes))


def test_bad_xml(tmp_path: Path) -> None:
    path = voc(tmp_path) / "Annotations" / "a.xml"
    entities = '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    for content in ("<annotation>", "", entities, path.read_text().replace("cat", "bird")):
        text(tmp_path / "classes.txt", "cat\n")
        path.write_text(content)
        with pytest.raises(DataError, match=r"a\.xml"):
            open_dataset(tmp_path)


def test_bad_masks(tmp_path: Path) -> None:
    good = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, mask in {"size": good.T, "value": good + 3, "colors": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}.items():
        with pytest.raises(DataError, match=r"masks/a\.png"):
            open_dataset(masks(tmp_path / name, mask))
    folder = masks(tmp_path / "missing", good)
    picture(folder / "images" / "b.png")
    with pytest.raises(DataError, match=r"b\.png.*no mask"):
        open_dataset(folder)
    (folder / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        open_dataset(folder)
    (tmp_path / "broken" / "masks").mkdir(parents=True)
    picture(tmp_path / "broken" / "images" / "a.png")
    text(tmp_path / "broken" / "masks" / "a.png", "no image")
    with pytest.raises(DataError, match=r"a\.png"):
        open_dataset(tmp_path / "broken")
