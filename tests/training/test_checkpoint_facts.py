"""A checkpoint of ``deploy train`` brings the preprocessing and the class names that it was trained with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran

NET = """
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 10))
"""


def test_a_factory_and_its_checkpoint(tmp_path: Path, run: Callable[..., Ran]) -> None:
    (tmp_path / "nets.py").write_text(NET)
    described = (f"{tmp_path / 'nets.py'}:build", "--input", "image:batch,1,16,16", "--name", "mine")
    root = ("--artifacts", str(tmp_path / "artifacts"))
    assert run(*root, "train", *described, "--data", "digits", "--epochs", "1").code == 0
    checkpoint = tmp_path / "artifacts" / "mine" / "mine.fp32.safetensors"
    known = json.loads(Path(f"{checkpoint}.json").read_text())
    done = run(*root, "export", *described, "--weights", str(checkpoint), "--probes", "quick", "--json")
    assert done.code == 0, done.err
    made = json.loads(Path(f"{json.loads(done.out)['file']}.json").read_text())
    assert made["preprocessing"] == known["preprocessing"] is not None
    assert made["labels"] == known["labels"] and len(made["labels"]) == 10
    assert run(*root, "quantize", "mine", "--calib", "digits", "--samples", "32").code in (0, 4)
    alone = tmp_path / "alone.safetensors"
    shutil.copyfile(checkpoint, alone)  # without its manifest nothing is known
    Path(f"{alone}.json").write_text('{"somebody": "else"}')
    assert run(*root, "export", *described, "--weights", str(alone), "--probes", "quick", "--force").code == 0
    refused = run(*root, "quantize", str(tmp_path / "artifacts/mine/mine.fp32.onnx"), "--calib", "digits")
    assert refused.code == 2 and "--preprocess crop=16" in refused.err
    recipe = ("--preprocess", "crop=16", "--preprocess", "mean=0.5", "--preprocess", "std=0.5")
    assert run(*root, "quantize", "mine", "--calib", "digits", "--samples", "32", *recipe).code in (0, 4)
