"""Functions refuse arguments that they would not use; the command line passes them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deploy
from deploy.data.collection import open_dataset
from deploy.models.resolve import resolve

Run = Callable[..., Any]


def test_weights_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(deploy.UsageError, match="--weights"):
        resolve(deploy.ModelRequest(name=str(path), arch="lenet5", weights="none"))


def test_options_of_a_module_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "built.py"
    path.write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n", encoding="utf-8")
    with pytest.raises(deploy.UsageError, match="-o width"):
        resolve(deploy.ModelRequest(name=f"{path}:model", inputs=("x:batch,2",), options={"width": "2"}))


def test_the_seed_of_the_probes(artifacts: Path) -> None:
    reports = [deploy.check(deploy.ModelRequest(name="lenet5", seed=seed), artifacts=artifacts) for seed in (0, 5)]
    assert [report.parity.verdict for report in reports] == ["pass", "pass"]
    assert reports[0].parity.to_dict() != reports[1].parity.to_dict()


@pytest.mark.parametrize("data", ["digits", "folder", "images.npz"])
def test_the_root_of_other_data(data: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.arange(2))
    path = data if data == "digits" else tmp_path / data
    with pytest.raises(deploy.UsageError, match="--data-root"):
        open_dataset(path, root=tmp_path)


def test_bad_images_of_data_without_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.arange(2))
    for data in ("digits", tmp_path / "images.npz"):
        with pytest.raises(deploy.UsageError, match="--skip-bad"):
            open_dataset(data, skip_bad=True)


@pytest.mark.parametrize(("name", "value"), [("preprocess", ["mean=0.5"]), ("skip_bad", True)])
def test_preparation_of_arrays(name: str, value: Any, artifacts: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", input=np.zeros((4, 1, 32, 32), np.float32))
    with pytest.raises(deploy.UsageError, match=f"--{name.replace('_', '-')}"):
        deploy.quantize("lenet5", calib=tmp_path / "inputs.npz", artifacts=artifacts, **{name: value})


def test_the_precision_of_a_file(artifacts: Path) -> None:
    file = str(artifacts / "lenet5" / "lenet5.fp32.onnx")
    with pytest.raises(deploy.UsageError, match="--precision"):
        deploy.package_models([file], server="triton", precision="fp16", artifacts=artifacts)


def test_calibration_without_int8() -> None:
    for request in (deploy.BuildRequest(calib="digits"), deploy.BuildRequest(samples=8)):
        with pytest.raises(deploy.UsageError, match="--int8"):
            request.check()
    with pytest.raises(deploy.UsageError, match="--calib"):
        deploy.measure_speed(["lenet5"], calib="digits", precisions=["fp32"])


def test_cuda_graphs_on_the_cpu() -> None:
    with pytest.raises(deploy.UsageError, match="--graph"):
        deploy.measure_speed(["lenet5"], graph=True)


def test_the_batch_of_a_file_with_a_fixed_one(store: Path, run: Run) -> None:
    report = deploy.export_model("lenet5", artifacts=store, dynamic=[], strategy="trace")
    ran = run("inspect", report.artifact.path, "--batch", 8)
    assert ran.code == 2 and "--batch" in ran.err


def test_options_that_describe_a_model_need_one(run: Run) -> None:
    ran = run("check", "--weights", "none")
    assert ran.code == 2 and "--weights" in ran.err and "MODEL" in ran.err
