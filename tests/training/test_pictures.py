"""Training of a detector and of a network for the classes of pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.core.artifact import Artifact
from deploy.core.errors import DataError, UsageError
from deploy.training.augment import small_moves, warp, warp_boxes
from deploy.training.train import train_model

SIDE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a bright square, once with boxes and once with masks; one picture shows nothing."""
    root, random = tmp_path_factory.mktemp("data"), np.random.RandomState(0)
    for folder in ("boxes/images", "boxes/labels", "masks/images", "masks/masks"):
        (root / folder).mkdir(parents=True)
    for index in range(10):
        image = random.randint(0, 40, (SIDE, SIDE, 3)).astype(np.uint8)
        mask, lines = np.zeros((SIDE, SIDE), np.uint8), ""
        if index:
            left, top = random.randint(0, SIDE - 12, 2)
            image[top : top + 12, left : left + 12] += 200
            mask[top : top + 12, left : left + 12] = 1
            lines = f"0 {(left + 6) / SIDE} {(top + 6) / SIDE} {12 / SIDE} {12 / SIDE}"
        for folder in ("boxes", "masks"):
            Image.fromarray(image).save(root / folder / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / "masks" / f"{index}.png")
        (root / "boxes" / "labels" / f"{index}.txt").write_text(lines)
    (root / "boxes" / "classes.txt").write_text("square")
    (root / "masks" / "classes.txt").write_text("ground\nsquare")
    return root


@pytest.mark.parametrize(
    ("model", "folder", "column", "task", "labels"),
    [
        ("fcos_small", "boxes", "test_map", "detection", ("square",)),
        ("unet_small", "masks", "test_miou", "semantic-segmentation", ("ground", "square")),
    ],
)
def test_training(
    data: Path, tmp_path: Path, model: str, folder: str, column: str, task: str, labels: tuple[str, ...]
) -> None:
    def train(where: str, epochs: int) -> list[dict[str, float]]:
        report = train_model(model, data=data / folder, artifacts=tmp_path / where, epochs=epochs, batch_size=4)
        manifest = Artifact.open(report.best.path).manifest
        assert manifest.task == task and manifest.labels == labels
        assert report.data["training"]["images"] == 8 and report.data["held_out"]["images"] == 2
        assert manifest.accuracy is not None and 0 <= manifest.accuracy["interval"][0] <= manifest.accuracy["value"]
        assert all(path.is_file() for path in report.curve)
        return [{name: value for name, value in row.items() if name != "seconds"} for row in report.history]

    first = train("first", 2)
    assert {column, "train_loss", "test_loss"} < set(first[0]) and "train_top1" not in first[0]
    assert first[-1]["train_loss"] < first[0]["train_loss"]
    assert train("second", 2) == first, "repeating gives the same"


def test_refusals(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="boxes"):
        train_model("fcos_small", data=data / "masks", artifacts=tmp_path)
    with pytest.raises(DataError, match="masks"):
        train_model("unet_small", data=data / "boxes", artifacts=tmp_path)
    with pytest.raises(UsageError, match="classifier"):
        train_model("lenet5", data=data / "boxes", artifacts=tmp_path)
    with pytest.raises(UsageError, match="not a classifier"):
        train_model("unet_small", data="digits", artifacts=tmp_path)


def test_boxes_move_with_the_image() -> None:
    torch.manual_seed(0)
    moves = small_moves(20)
    assert (moves[:, 0, 0] < 0).any() and (moves[:, 0, 0] > 0).any()
    image = torch.zeros(1, 1, 40, 60)
    image[:, :, 10:25, 20:45] = 1
    for move in moves:
        moved = warp(image, move[None], "nearest")[0, 0] > 0.5
        rows, columns = torch.nonzero(moved.any(1)).ravel(), torch.nonzero(moved.any(0)).ravel()
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        boxes, labels = warp_boxes(torch.tensor([[20.0, 10, 45, 25]]), torch.tensor([3]), move, (40, 60))
        assert labels.tolist() == [3] and (boxes[0] - torch.tensor(expected)).abs().max() <= 1
    outside = torch.tensor([[-1.0, 0, 0.8], [0, 1, 0]])
    boxes, _ = warp_boxes(torch.tensor([[0.0, 10, 20, 25], [20, 10, 45, 25]]), torch.tensor([0, 1]), outside, (40, 60))
    assert len(boxes) == 1, "a box of which too little is left is dropped"
