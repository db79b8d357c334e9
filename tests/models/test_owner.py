"""Names of folders and files, and folders that belong to one model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import deploy
from deploy.models.resolve import resolve
from tests.conftest import Listener, Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
NET = """
import torch


def build(width=3):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.{activation}())
"""
FAST = ("--strategy", "trace", "--probes", "quick")
INPUT = ("--input", "x:batch,4")


def factory(path: Path, activation: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NET.format(activation=activation), encoding="utf-8")
    return f"{path}:build"


def checkpoint(path: Path, seed: int) -> Path:
    """Weights of the factory's network from another seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file({"0.weight": torch.randn(3, 4), "0.bias": torch.randn(3)}, path)
    return path


@pytest.mark.parametrize(
    ("request_", "folder"),
    [
        (deploy.ModelRequest(name="resnet18"), None),
        (deploy.ModelRequest(name="nets.py:build"), None),
        (deploy.ModelRequest(name="runs/best.pt", arch="resnet18"), "best"),
        (deploy.ModelRequest(name="resnet18", weights="runs/best.pth.tar"), "best"),
        (deploy.ModelRequest(name="resnet18", weights="runs/epoch.12.ckpt"), "epoch.12"),
        (deploy.ModelRequest(name="resnet18", weights="last.pt#ema"), "last-ema"),
        (deploy.ModelRequest(name="resnet18", weights="model.safetensors.index.json"), "model"),
        (deploy.ModelRequest(name="x", weights="artifacts/x/timm-x.fp32.safetensors"), "timm-x"),
        (deploy.ModelRequest(name="x", weights="my weights (2).pt"), "my-weights-2-"),
        (deploy.ModelRequest(name="x", weights="report.pt"), "report-model"),
        (deploy.ModelRequest(name="x", weights="a.onnx.pt"), "a-onnx-model"),
        (deploy.ModelRequest(name="x", weights=".pt"), "model"),
        (deploy.ModelRequest(name="runs/best.pt", arch="x", slug="prod"), "prod"),
        (deploy.ModelRequest(name="resnet18", slug="v1.2"), "v1.2"),
    ],
)
def test_the_name_of_the_folder(request_: deploy.ModelRequest, folder: str | None) -> None:
    assert request_.folder == folder


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "-x", "net.onnx", "net.pt", "report", "a b"])
def test_names_that_cannot_be_used(name: str, tmp_path: Path, run: Run, store: Path) -> None:
    refused = run("export", factory(tmp_path / "nets.py", "ReLU"), *INPUT, f"--name={name}")
    assert refused.code == 2 and not store.exists()


def test_two_factories_of_one_name(tmp_path: Path, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = factory(tmp_path / "nets.py", "ReLU"), factory(tmp_path / "pk" / "sub" / "nets.py", "Tanh")
    assert run("export", first, *INPUT, *FAST).code == 0
    path = store / "nets-build" / "nets-build.fp32.onnx"
    before = path.read_bytes()
    refused = run("export", second, *INPUT, *FAST)
    assert refused.code == 2 and first in refused.err
    assert path.read_bytes() == before and run("verify").code == 0
    (name,) = re.findall(r"--name (\S+)", refused.err)
    assert run("export", second, *INPUT, *FAST, "--name", name).code == 0
    assert run("check", second, "--onnx", store / name / f"{name}.fp32.onnx", "--probes", "quick").code == 0
    for model in (first, second):  # by its own name, each finds its own
        assert run("check", model, *INPUT, "--probes", "quick").code == 0
    monkeypatch.chdir(tmp_path)  # the same file, written otherwise
    assert run("export", "nets.py:build", *INPUT, *FAST).code == 0
    assert run("export", first, *INPUT, *FAST, "-o", "width=5").code == 2
    assert run("export", second, *INPUT, *FAST, "--force").code == 0
    assert path.read_bytes() != before


def test_checkpoints_of_one_architecture(tmp_path: Path, run: Run, store: Path) -> None:
    arch = factory(tmp_path / "nets.py", "ReLU")
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "runs/b.safetensors")]
    for seed, file in enumerate(files):
        checkpoint(file, seed)
    for file in files[:2]:
        assert run("export", file, "--arch", arch, *INPUT, *FAST).code == 0
    assert run("export", arch, "--weights", files[2], *INPUT, *FAST).code == 2
    assert run("export", arch, "--weights", files[2], *INPUT, *FAST, "--name", "c").code == 0
    assert sorted(path.name for path in store.iterdir()) == ["a", "b", "c"]
    found = run("check", files[1], "--arch", arch, *INPUT, "--probes", "quick", "--json")
    assert found.code == 0 and Path(found.json["file"]).parent.name == "b"
    moved = tmp_path / "copy" / "a.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(files[0].read_bytes())
    assert run("export", moved, "--arch", arch, *INPUT, *FAST).code == 0  # the same weights


def test_other_weights_of_the_same_model(tmp_path: Path, run: Run, store: Path) -> None:
    arch, file = factory(tmp_path / "nets.py", "ReLU"), checkpoint(tmp_path / "best.safetensors", 1)
    assert run("export", file, "--arch", arch, *INPUT, *FAST).code == 0
    checkpoint(file, 2)
    again = run("export", file, "--arch", arch, *INPUT, *FAST, "--json")
    assert again.code == 0
    (note,) = (text for text in again.json["notes"] if "other weights" in text)
    assert again.json["weights"]["sha256"][:8] in note
    untrained = ("export", arch, "--weights", "none", "--name", "best", *INPUT, *FAST)
    before = (store / "best" / "best.fp32.onnx").read_bytes()
    refused = run(*untrained)
    assert refused.code == 2 and "--force" in refused.err
    assert (store / "best" / "best.fp32.onnx").read_bytes() == before
    assert run(*untrained, "--force").code == 0


def test_factories_have_a_digest_of_their_weights(tmp_path: Path, store: Path) -> None:
    name = factory(tmp_path / "nets.py", "ReLU")
    request = deploy.ModelRequest(name=name, inputs=("x:batch,4",))
    model = resolve(request)
    assert model.weights.sha256 == resolve(request).weights.sha256 is not None
    with torch.no_grad():
        model.module.get_submodule("0").weight[0, 0] += 1  # type: ignore[index]
    progress = Listener()
    deploy.export_model(request, artifacts=store, strategy="trace", probes="quick", progress=progress)
    deploy.export_model(request, artifacts=store, strategy="trace", probes="quick", progress=progress)
    assert not any("other weights" in text for text in progress.notes)
    text = (tmp_path / "nets.py").read_text(encoding="utf-8")
    (tmp_path / "nets.py").write_text(text.replace("manual_seed(0)", "manual_seed(1)"), encoding="utf-8")
    report = deploy.export_model(request, artifacts=store, strategy="trace", probes="quick")
    assert [text for text in report.notes if "other weights" in text]


def test_two_files_of_one_name_are_quantized(tmp_path: Path, run: Run, store: Path) -> None:
    data = tmp_path / "data.npy"
    import numpy as np

    np.save(data, np.random.default_rng(0).normal(size=(24, 4)).astype("float32"))
    lone = []
    for activation in ("ReLU", "Tanh"):
        module = torch.nn.Sequential(torch.nn.Linear(4, 3), getattr(torch.nn, activation)())
        made = deploy.export_model(
            module, inputs="x:batch,4", strategy="trace", probes="quick", artifacts=tmp_path / activation
        )
        lone.append(tmp_path / activation / "model.onnx")
        made.artifact.path.rename(lone[-1])
    assert run("quantize", lone[0], "--calib", data).code == 0
    path = store / "model" / "model.int8-onnxruntime.onnx"
    before = path.read_bytes()
    refused = run("quantize", lone[1], "--calib", data)
    assert refused.code == 2 and path.read_bytes() == before
    (name,) = re.findall(r"--name (\S+)", refused.err)
    assert run("quantize", lone[1], "--calib", data, "--name", name).code == 0
    assert (store / name / f"{name}.int8-onnxruntime.onnx").is_file()
    assert run("quantize", lone[0], "--calib", data).code == 0


def test_two_models_are_not_trained_in_one_folder(tmp_path: Path, store: Path) -> None:
    net = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
    names = []
    for place in ("nets.py", "other/nets.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(net, encoding="utf-8")
        names.append(deploy.ModelRequest(name=f"{tmp_path / place}:build", inputs=("x:batch,1,8,8",)))
    report = deploy.train_model(names[0], data="digits", epochs=1, artifacts=store)
    with pytest.raises(deploy.UsageError) as refused:
        deploy.train_model(names[1], data="digits", epochs=1, artifacts=store)
    assert "--name" in (refused.value.hint or "")
    other = deploy.train_model(names[1], data="digits", epochs=1, name="other", artifacts=store)
    assert other.best.path == store / "other" / "other.fp32.safetensors" and report.best.path.is_file()
    deploy.train_model(names[0], data="digits", epochs=1, artifacts=store)


def test_a_zoo_model_is_trained_and_exported_again(artifacts: Path, run: Run) -> None:
    assert run("train", "lenet5", "--data", "digits", "--epochs", 1).code == 0
    exported = run("export", "lenet5", *FAST, "--json")
    assert exported.code == 0 and exported.json["weights"]["trained"]
    assert Path(exported.json["file"]) == artifacts / "lenet5" / "lenet5.fp32.onnx"
    assert [text for text in exported.json["notes"] if "other weights" in text]
    assert run("export", "lenet5", "--weights", "none", *FAST).code == 2


@pytest.mark.slow
def test_a_zoo_model_is_trained_under_a_name(store: Path, run: Run) -> None:
    assert run("export", "lenet5", *FAST).code == 0  # untrained
    for named in ((), ("--name", "small")):
        assert run("train", "lenet5", "--data", "digits", "--epochs", 1, *named).code == 0
        exported = run("export", "lenet5", *FAST, *named, "--json")
        assert exported.code == 0 and exported.json["weights"]["trained"]
        assert Path(exported.json["file"]).parent.name == (named[1] if named else "lenet5")
