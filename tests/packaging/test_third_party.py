"""A package target of a third party, registered through an entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distribution import deploy, install

SHELF = '''
"""A folder with one file per model; its runtime reads OpenVINO's INT8 files."""

from deploy.packaging.target import PackageTarget, PipelineOutput, RankedLabel, copy_artifact


def write(folder, items, options):
    for item in items:
        (folder / item.name).mkdir(exist_ok=True)
        copy_artifact(item.artifacts[0], folder / item.name)
    (folder / "shelf.txt").write_text(f"{options.max_delay_ms} {sorted(path.name for path in folder.iterdir())}")


def classify(folder, item, images):
    assert (folder / item.name / item.artifacts[0].path.name).is_file()
    assert all(image.dtype == "uint8" and image.ndim == 3 for image in images)
    return PipelineOutput(labels=[(RankedLabel(label=item.labels[0], probability=1.0),)] * len(images))


TARGET = PackageTarget(
    name="shelf",
    title="Shelf",
    write=write,
    backends=("openvino",),
    precisions=("int8", "fp16"),
    options=("max_delay_ms",),
    example="first.png",
    classify=classify,
)
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "site"
    folder.mkdir()
    sources = {"shelf": SHELF, "broken": "raise RuntimeError('no such library')", "empty": ""}
    return install(folder, sources, {"deploy.packaging.targets": {name: name for name in sources}})


@pytest.mark.slow
def test_it_is_packaged_for_as_declared(made: Path, environment: dict[str, str]) -> None:
    words = ("package", "lenet5", "--for", "shelf", "--precision", "fp16")
    done = deploy(environment, made, *words, "--max-delay-ms", 2.5, "--json")
    assert done.returncode == 0, done.stderr
    folder, report = made / "packages" / "shelf", json.loads(done.stdout)
    assert report["server"] == "shelf" and report["folder"] == str(folder)
    (model,) = report["models"]
    assert model["name"] == "lenet5" and model["proof"]["example"] == [{"label": "0", "probability": 1.0}]
    assert model["proof"]["equal_inputs"] is None and model["proof"]["same_first_label"] < model["proof"]["pictures"]
    assert (folder / "lenet5" / "lenet5.fp16.onnx").is_file() and (folder / "first.png").is_file()
    assert (folder / "shelf.txt").read_text().startswith("2.5 ")
    (folder / "shelf.txt").write_bytes(b"changed")
    assert deploy(environment, made, "verify", folder).returncode == 3


@pytest.mark.slow
def test_it_refuses_what_it_does_not_declare(made: Path, environment: dict[str, str]) -> None:
    fp32 = deploy(environment, made, "package", "lenet5", "--for", "shelf")
    assert fp32.returncode == 1 and "lenet5.fp32.onnx" in fp32.stderr and "Shelf" in fp32.stderr
    option = deploy(environment, made, "package", "lenet5", "--for", "shelf", "--precision", "fp16", "--instances", 2)
    assert option.returncode == 2 and "--instances" in option.stderr
    int8 = deploy(environment, made, "package", "lenet5", "--for", "shelf", "--precision", "int8")
    assert int8.returncode == 1 and "deploy quantize lenet5 --target openvino" in int8.stderr
    assert not (made / "packages").exists()


@pytest.mark.slow
def test_it_takes_the_int8_file_of_its_backend(made: Path, environment: dict[str, str]) -> None:
    from deploy.quantization.quantize import quantize

    for target in ("openvino", "onnxruntime"):
        quantize("lenet5", calib="digits", target=target, artifacts=made)
    done = deploy(environment, made, "package", "lenet5", "--for", "shelf", "--precision", "int8", "--json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert [Path(file).name for file in model["files"]] == ["lenet5.int8-openvino.onnx"]
    other = deploy(environment, made, "package", made / "lenet5" / "lenet5.int8-onnxruntime.onnx", "--for", "shelf")
    assert other.returncode == 1 and "made for onnxruntime" in other.stderr


@pytest.mark.slow
def test_a_broken_plug_in_is_named(made: Path, environment: dict[str, str]) -> None:
    for name, reason in (("broken", "no such library"), ("empty", "TARGET")):
        done = deploy(environment, made, "package", "lenet5", "--for", name)
        assert done.returncode == 1 and repr(name) in done.stderr and reason in done.stderr
    unknown = deploy(environment, made, "package", "lenet5", "--for", "shelv")
    assert unknown.returncode == 2 and "shelf" in unknown.stderr


def test_without_classify_nothing_is_compared(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    text = SHELF.replace("    classify=classify,\n", "")
    environment = install(folder, {"shelf": text}, {"deploy.packaging.targets": {"shelf": "shelf"}})
    done = deploy(environment, made, "package", "lenet5", "--for", "shelf", "--precision", "fp16", "--json")
    assert done.returncode == 0 and "WARNING" in done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["proof"] is None and model["without"]
