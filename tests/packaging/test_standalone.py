"""A folder with a script, run in an environment that has nothing else; a KServe service's YAML."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran

Run = Callable[..., Ran]
ENVIRONMENT = dict(os.environ)
"""The environment before the tests closed the network, which pip needs."""


def test_it_runs_in_a_bare_environment(run: Run, made: Path, tmp_path: Path) -> None:
    done = run("package", "lenet5", "--for", "standalone", "--data", "digits", "--output", tmp_path / "alone", "--json")
    proof = done.json["models"][0]["proof"]
    assert done.code == 0 and proof["same_first_label"] == proof["pictures"] > 60
    folder = tmp_path / "alone"
    assert len((folder / "infer.py").read_text().splitlines()) <= 60
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-r", folder / "requirements.txt"]
    subprocess.run(install, check=True, env=ENVIRONMENT)
    ran = subprocess.run([python, folder / "infer.py"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    answers = [line.split() for line in ran.stdout.splitlines()[1:]]
    assert [label for _, label in answers] == [item["label"] for item in proof["example"]]
    assert [float(value) for value, _ in answers] == pytest.approx(
        [item["probability"] for item in proof["example"]], abs=2e-6
    )
    (folder / "lenet5.fp32.onnx").write_bytes((folder / "lenet5.fp32.onnx").read_bytes()[:-1] + b"\0")
    harmed = subprocess.run([python, folder / "infer.py"], capture_output=True, text=True)
    assert harmed.returncode == 1 and "lenet5.fp32.onnx" in harmed.stderr and not harmed.stdout


def test_the_script_prepares_pictures_as_training_did(tmp_path: Path) -> None:
    """Colors, a crop, a picture smaller than the crop: to the bit."""
    import importlib.util
    from unittest.mock import patch

    import numpy as np
    from PIL import Image

    import deploy.packaging
    from deploy.core.model import Preprocessing
    from deploy.data.preprocess import prepare

    text = (Path(deploy.packaging.__file__).parent / "assets" / "infer.py").read_text()
    (tmp_path / "script.py").write_text(text.partition("\nsession, manifest")[0])
    spec = importlib.util.spec_from_file_location("script", tmp_path / "script.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    with patch.object(sys, "argv", ["script.py"]):
        spec.loader.exec_module(script)
    colors = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    recipes = [
        Preprocessing(crop=(224, 224), resize=256, **colors),
        Preprocessing(crop=(96, 63), resize=73, interpolation="bicubic", **colors),
        Preprocessing(crop=(28, 27), mean=(0.5,), std=(0.5,), gray=True),
    ]
    rng = np.random.default_rng(5)
    for size in ((300, 200), (61, 97), (256, 256)):
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "picture.png")
        for recipe in recipes:
            plain = {name: getattr(recipe, name) for name in ("crop", "resize", "mean", "std", "interpolation")}
            found = script.prepare(str(tmp_path / "picture.png"), plain)
            np.testing.assert_array_equal(found[0], prepare(image, recipe))


def test_a_service_for_kserve(run: Run, made: Path) -> None:
    import yaml

    refused = run("package", "lenet5", "--for", "kserve", "--max-delay-ms", 1)
    assert refused.code == 2 and "--storage-uri" in refused.err
    words = ("package", "lenet5", "--for", "kserve", "--storage-uri", "s3://models/a: b", "--device", "cuda")
    assert run(*words, "--cpu", "2", "--memory", "4Gi").code == 0
    folder = made / "packages" / "kserve"
    service = yaml.safe_load((folder / "inferenceservice.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["storageUri"] == "s3://models/a: b" and model["runtime"] == "kserve-tritonserver"
    assert model["resources"]["limits"] == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    assert (folder / "models" / "lenet5" / "config.pbtxt").is_file() and run("verify", folder).code == 0
    bad = run(*words, "--name", "Not A Name")
    assert bad.code == 2 and "Not A Name" in bad.err


def test_options_that_are_not_used_are_refused(run: Run, made: Path) -> None:
    for option, value in (("--max-batch", 8), ("--max-delay-ms", 1), ("--device", "cpu"), ("--storage-uri", "s3://b")):
        ran = run("package", "lenet5", "--for", "standalone", option, value)
        assert ran.code == 2 and option in ran.err
    ran = run("package", "lenet5", "--for", "triton", "--name", "service")
    assert ran.code == 2 and "--name" in ran.err
    ran = run("package", "lenet5", "--for", "triton", "--no-preprocessing", "--data", "digits")
    assert ran.code == 2 and "--data" in ran.err
    assert not (made / "packages").exists()


def test_what_the_script_cannot_take(run: Run, made: Path, nets: Path) -> None:
    assert run("export", f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6").code == 0
    ran = run("package", "nets-two", "--for", "standalone")
    assert ran.code == 1 and "nets-two.fp32.onnx" in ran.err and "--for triton" in ran.err
    both = run("package", "lenet5", "nets-two", "--for", "standalone")
    assert both.code == 2 and "--for standalone" in both.err
    assert not (made / "packages").exists() or not list((made / "packages").iterdir())
