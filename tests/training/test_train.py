"""Training: reproducible, resumable, and clear about failures."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, DataError, ModelError, UsageError, WeightsError
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.tools.verify import verify
from deploy.training.train import TrainReport, train_model
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]


class InterruptingListener(Listener):  # type: ignore[misc,unused-ignore]
    """Records messages and interrupts at a step."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at

    def advance(self, done: int, total: int, text: str = "") -> None:
        if done == self.stop_at:
            raise KeyboardInterrupt


def stripes(path: Path, classes: int = 3, each: int = 12, channels: int = 1) -> Path:
    """Save images of noisy stripes, one spacing per class, which a network learns in a few steps."""
    random = np.random.RandomState(0)
    labels = np.arange(classes * each) % classes
    wave = np.sin(np.arange(16) * 2.2 / (labels[:, None] + 1)) * 80 + 128
    images = wave[:, None, :, None] + random.normal(0, 20, (len(labels), 16, 16, channels))
    np.savez(path, images=images.clip(0, 255).astype(np.uint8), labels=labels)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return stripes(tmp_path / "stripes.npz")


@pytest.fixture
def train(data: Path, store: Path) -> Callable[..., TrainReport]:
    def call(model: str | ModelRequest = "lenet5", **changes: Any) -> TrainReport:
        return train_model(
            model, **{"data": data, "artifacts": store, "epochs": 3, "batch_size": 8, "lr": 0.02, **changes}
        )

    return call


def weights(report: TrainReport) -> tuple[bytes, bytes]:
    return report.best.path.read_bytes(), report.last.path.read_bytes()


def test_the_files_and_manifests(train: Callable[..., TrainReport], store: Path) -> None:
    report = train(seed=3)
    folder = store / "lenet5"
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "lenet5.fp32.safetensors",
        "lenet5.fp32.safetensors.json",
        "lenet5.last.fp32.safetensors",
        "lenet5.last.fp32.safetensors.json",
        "lenet5.training.safetensors",
        "lenet5.training.csv",
        "lenet5.training.png",
    }
    assert not verify(folder).problems
    manifest = report.best.manifest
    assert (manifest.model, manifest.format, manifest.precision) == ("zoo/lenet5", "safetensors", "fp32")
    assert manifest.labels == ("0", "1", "2") and manifest.preprocessing is not None
    assert manifest.weights.trained and manifest.weights.seed == 3
    assert manifest.weights.source.startswith("trained on stripes (30 images of")
    assert manifest.accuracy is not None and manifest.accuracy["images"] == 6
    assert (manifest.options["last"], report.last.manifest.options["last"]) == (False, True)
    with Image.open(report.curve[1]) as image:
        assert image.format == "PNG" and image.width > 500
    with report.curve[0].open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["epoch"] for line in lines] == ["1", "2", "3"]
    assert float(lines[-1]["test_top1"]) == report.history[-1]["test_top1"]
    assert json.loads(json.dumps(report.to_dict()))["best_epoch"] == report.best_epoch


def test_the_checkpoint_restores_the_model(train: Callable[..., TrainReport]) -> None:
    report = train()
    model = resolve(ModelRequest.from_dict(report.best.manifest.reference))
    stored = load_file(report.best.path)
    assert all(torch.equal(value, stored[name]) for name, value in model.module.state_dict().items())
    assert stored["fc3.weight"].shape == (3, 84), "one output per class"


def test_it_learns(train: Callable[..., TrainReport]) -> None:
    report = train(epochs=12, lr=0.05)
    assert report.accuracy["top1"] == 1.0 and report.history[-1]["train_loss"] < report.history[0]["train_loss"] * 0.8


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "schedule": "cosine", "augment": "none"}])
def test_repeating_is_bitwise_equal(train: Callable[..., TrainReport], tmp_path: Path, changes: dict[str, str]) -> None:
    torch.manual_seed(1)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = weights(train(**changes))
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's generator was changed"
    torch.manual_seed(2)
    assert weights(train(**changes, artifacts=tmp_path / "elsewhere")) == first
    assert weights(train(**{**changes, "epochs": 1, "seed": 1})) != weights(train(**{**changes, "epochs": 1}))
    assert not torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == threads


@pytest.mark.parametrize(("model", "optimizer"), [("lenet_bn", "sgd"), ("nets", "adamw")])
def test_resuming_is_bitwise_equal(
    train: Callable[..., TrainReport], tmp_path: Path, store: Path, optimizer: str, model: str
) -> None:
    request: str | ModelRequest = model
    if model == "nets":  # dropout, batch normalization, and a weight shared by two layers
        path = tmp_path / "tied.py"
        path.write_text(
            "from torch import nn\n"
            "def net():\n"
            "    a, b = nn.Linear(16, 16), nn.Linear(16, 16)\n"
            "    b.weight = a.weight\n"
            "    head = nn.Linear(16, 3)\n"
            "    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 16)), nn.Flatten(), a, nn.BatchNorm1d(16), nn.ReLU(),\n"
            "                         nn.Dropout(), b, nn.ReLU(), head)\n"
        )
        request = ModelRequest(name=f"{path}:net", inputs=("x:batch,1,16,16",))
    options: dict[str, Any] = {"optimizer": optimizer, "epochs": 4}
    whole = train(request, **options, artifacts=tmp_path / "whole")
    for stop_at in (5, 9):  # steps; an epoch has three
        with pytest.raises(KeyboardInterrupt):
            train(request, **options, resume=True, progress=InterruptingListener(stop_at))
    resumed = train(request, **options, resume=True)
    assert resumed.resumed_from == 2 and weights(resumed) == weights(whole)
    assert [row["train_loss"] for row in resumed.history] == [row["train_loss"] for row in whole.history]
    headers = [report.curve[0].read_text().splitlines()[0] for report in (resumed, whole)]
    assert headers[0] == headers[1] and headers[0].startswith("epoch,")
    again = train(request, **options, resume=True)
    assert again.resumed_from == 4 and weights(again) == weights(whole)
    assert not verify(store).problems


def test_resumed_after_a_kill(train: Callable[..., TrainReport], data: Path, store: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from deploy.core.progress import Progress\n"
        "from deploy.training.train import train_model\n"
        "class Kill(Progress):\n"
        "    def advance(self, done, total, text=''):\n"
        "        if done == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "train_model('lenet5', data=sys.argv[1], artifacts=Path(sys.argv[2]), epochs=3, batch_size=8, lr=0.02,\n"
        "            progress=Kill())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code, str(data), str(store)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    listener = Listener()
    resumed = train(resume=True, progress=listener)
    assert resumed.resumed_from == 2 and not any("threads" in text for text in listener.warnings)
    assert weights(resumed) == weights(train(artifacts=tmp_path / "whole"))
    assert not verify(store).problems


def test_resume_refuses_other_settings(train: Callable[..., TrainReport]) -> None:
    train(epochs=1)
    with pytest.raises(UsageError, match=r"lr.*0\.02.*0\.03"):
        train(epochs=1, lr=0.03, resume=True)
    with pytest.raises(UsageError, match=r"epochs.*1.*2"):
        train(epochs=2, resume=True)


def test_resume_without_a_state_starts_from_the_beginning(train: Callable[..., TrainReport]) -> None:
    listener = Listener()
    assert train(epochs=1, resume=True, progress=listener).resumed_from is None
    assert listener.notes


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-9] + bytes(9)])
def test_resume_refuses_a_damaged_state(
    train: Callable[..., TrainReport], store: Path, damage: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(progress=InterruptingListener(5))
    state = store / "lenet5" / "lenet5.training.safetensors"
    with safetensors.safe_open(state, framework="pt") as file:
        assert set(file.metadata()) == {"state", "sha256"}
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(ArtifactError, match=state.name):
        train(resume=True)


def test_an_interruption_keeps_finished_epochs(train: Callable[..., TrainReport], store: Path) -> None:
    listener = InterruptingListener(7)
    with pytest.raises(KeyboardInterrupt):
        train(progress=listener)
    assert "1 to 2" in listener.notes[-1] and "--resume" in listener.notes[-1]
    assert (store / "lenet5" / "lenet5.training.png").is_file() and not verify(store).problems


def test_divergence_stops_and_keeps_the_last_good_checkpoint(train: Callable[..., TrainReport], store: Path) -> None:
    with pytest.raises(ModelError, match=r"zoo/lenet5.*epoch 1\b") as caught:
        train(lr=1e18)
    assert caught.value.exit_code == 1 and "--lr" in (caught.value.hint or "")
    assert not store.exists() or not list(store.glob("*/*.safetensors"))


def test_divergence_later_keeps_earlier_epochs(train: Callable[..., TrainReport], store: Path) -> None:
    # the warm-up keeps the learning rate small in the first of many epochs
    with pytest.raises(ModelError, match=r"zoo/lenet5.*epoch (?!1\b)\d+"):
        train(lr=1e9, epochs=2000, batch_size=30, augment="none")
    last = Artifact.open(store / "lenet5" / "lenet5.last.fp32.safetensors")
    last.verify()
    assert all(torch.isfinite(value).all() for value in load_file(last.path).values())
    assert any(payload.file.endswith(".png") for payload in last.manifest.files)
    assert not verify(store).problems


def test_a_warning_if_nothing_is_learned(train: Callable[..., TrainReport]) -> None:
    listener = Listener()
    train(lr=1e-12, progress=listener)
    assert len(listener.warnings) == 1 and "zoo/lenet5" in listener.warnings[0]


def test_fine_tuning(train: Callable[..., TrainReport], tmp_path: Path) -> None:
    first = train(epochs=6, lr=0.05)
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(first.best.path.read_bytes())
    same = train(ModelRequest(name="lenet5", weights=str(kept)), epochs=1, lr=1e-9)
    assert same.history[0]["test_top1"] == first.accuracy["top1"]
    assert same.best.manifest.weights.source.endswith("from kept.safetensors")
    listener = Listener()
    five = stripes(tmp_path / "five.npz", classes=5)
    other = train(ModelRequest(name="lenet5", weights=str(kept)), data=five, epochs=1, lr=1e-9, progress=listener)
    assert "fc3.weight, fc3.bias" in listener.notes[0]
    stored, begun = load_file(other.best.path), load_file(kept)
    assert torch.allclose(stored["fc2.weight"], begun["fc2.weight"]) and stored["fc3.weight"].shape == (5, 84)
    with pytest.raises(WeightsError, match=r"kept\.safetensors"):
        train(ModelRequest(name="lenet_bn", weights=str(kept)))


def test_color_and_factories(train: Callable[..., TrainReport], nets: Path, tmp_path: Path) -> None:
    color = stripes(tmp_path / "color.npz", channels=3)
    assert train(data=color, epochs=1).best.manifest.preprocessing.gray  # type: ignore[union-attr]
    listener = Listener()
    request = ModelRequest(name=f"{nets}:small", inputs=("x:batch,3,16,16",), options={"classes": "3"})
    report = train(request, epochs=1, progress=listener)
    recipe = report.best.manifest.preprocessing
    assert recipe is not None and recipe.crop == (16, 16) and len(recipe.mean) == 3
    with pytest.raises(DataError, match=r"\b3 classes.*\b5 outputs"):
        train(dataclasses.replace(request, options={}))


def test_other_sources(train: Callable[..., TrainReport]) -> None:
    small = ("x:batch,3,32,32",)
    report = train(ModelRequest(name="torchvision/mobilenet_v3_small", inputs=small), epochs=1)
    assert report.best.manifest.preprocessing.crop == (32, 32)  # type: ignore[union-attr]
    assert report.best.manifest.reference["options"] == {"num_classes": "3"}


@pytest.mark.parametrize(
    ("changes", "error", "datum"),
    [
        ({"model": "inception_block"}, UsageError, "inception_block"),
        ({"model": "torchvision/r3d_18"}, UsageError, "torchvision/r3d_18"),
        ({"model": "model.pt2"}, UsageError, r"model\.pt2"),
        ({"model": "model.safetensors"}, UsageError, r"model\.safetensors"),
        ({"model": ModelRequest(name="lenet5", options={"num_classes": "10"})}, DataError, "num_classes=10.* 3 "),
        ({"model": ModelRequest(name="lenet5", weights="default")}, WeightsError, "zoo/lenet5"),
        ({"lr": float("nan")}, UsageError, "learning rate nan"),
        ({"optimizer": "adam"}, UsageError, "'adam'.*sgd, adamw"),
        ({"epochs": 0}, UsageError, "epochs"),
        ({"model": "lenet_bn", "batch_size": 1}, ModelError, "zoo/lenet_bn"),
    ],
)
def test_refusals(
    train: Callable[..., TrainReport], store: Path, changes: dict[str, Any], error: type[Exception], datum: str
) -> None:
    with pytest.raises(error, match=datum):
        train(**changes)
    assert not list(store.glob("**/*.safetensors"))


def test_the_command(run: Callable[..., Any], data: Path, store: Path) -> None:
    done = run("train", "lenet5", "--data", data, "--epochs", 1, "--batch-size", 8, "--json")
    assert done.code == 0 and done.json["file"] == str(store / "lenet5" / "lenet5.fp32.safetensors")
    assert "epoch 1/1" in done.err
    shown = run("train", "lenet5", "--data", data, "--epochs", 1, "--batch-size", 8, "--resume")
    assert shown.code == 0 and f"{done.json['accuracy']['top1']:.2%}" in shown.out
    refused = run("train", "lenet5", "--data", "nothing", "--json")
    assert refused.code == 2 and refused.json["error"]["kind"] == "UnknownNameError"
    diverged = run("train", "lenet5", "--data", data, "--lr", "1e18", "--json")
    assert diverged.code == 1 and diverged.json["error"]["kind"] == "ModelError"
