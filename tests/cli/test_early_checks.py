"""What is certainly wrong is refused before PyTorch is imported and before anything is made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from deploy.core.extras import EXTRAS as EXTRAS_OF_OURS

WITHOUT_TORCH = """
    import importlib.abc, importlib.machinery, importlib.util, json, pathlib, sys

    hidden = sys.argv[2].split(",")

    class Reached(BaseException):
        pass

    class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            heavy = ("torch", "onnx", "onnxruntime", "openvino", "torchvision", "timm", "sklearn")
            if name in heavy and name not in hidden:
                return importlib.util.spec_from_loader(name, self)

        def create_module(self, spec):
            raise Reached(spec.name)

        def exec_module(self, module):
            pass

    found = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = lambda name, path=None, target=None: (
        None if name.partition(".")[0] in hidden else found(name, path, target)
    )
    sys.meta_path.insert(0, Hook())
    from deploy.cli.main import main
    ended = {}
    for line in json.loads(sys.argv[1]):
        try:
            main(["--json", *line.split()])
        except SystemExit as exc:
            ended[line] = exc.code
        except Reached as exc:
            ended[line] = f"imported {exc}"
        sys.stdout.flush()
    pathlib.Path("ended.json").write_text(json.dumps(ended))
"""

CASES = {
    # -o, --name, --input, --preprocess, --format, --precision and the like
    "export lenet5 -o out.onnx": "UsageError",
    "models lenet5 --layers -o out.onnx": "UsageError",
    "train lenet5 --data digits -o 5=x": "UsageError",
    "check lenet5 -o out.onnx": "UsageError",
    "export lenet5 --name out.onnx": "UsageError",
    "edit there.onnx --name out.onnx": "UsageError",
    "export lenet5 --input x": "InputSpecError",
    "check lenet5 --input x:batch,three-": "InputSpecError",
    "quantize lenet5 --calib digits --preprocess corp=3": "UnknownKey",
    "adopt there.onnx --preprocess corp=3": "UnknownKey",
    "export lenet5 --format onx": "UnknownNameError",
    "export lenet5 --format out.onnx": "UnknownNameError",
    "export lenet5 --precision int9": "UsageError",
    "bench lenet5 --precision int9": "UnknownNameError",
    "sweep lenet5 --precision fp32,int9": "UnknownNameError",
    "export lenet5 --probes data": "UsageError",
    "convert lenet5 --probes data": "UsageError",
    "quantize lenet5 --calib digits --target tensort": "UnknownNameError",
    "quantize lenet5 --calib digits --method mean": "UnknownNameError",
    "trt build lenet5 --int8 --calib digits --method mean": "UnknownNameError",
    # devices
    "bench lenet5 --device gpu": "UsageError",
    "package lenet5 --for triton --device gpu": "UsageError",
    "compare torch openvino --model lenet5 --device gpu": "UsageError",
    # backends
    "bench lenet5 --backends torch,foo": "UnknownNameError",
    "bench lenet5 --baseline foo": "UnknownNameError",
    "profile lenet5 --backends foo": "UnknownNameError",
    "sweep lenet5 --backends foo": "UnknownNameError",
    "check lenet5 --backend foo": "UnknownNameError",
    "serve lenet5 --backend foo": "UnknownNameError",
    # data
    "quantize lenet5 --calib empty": "DataError",
    "quantize lenet5 --calib no/folder": "DataError",
    "quantize lenet5 --calib notes.txt": "DataError",
    "quantize lenet5 --calib damaged.npz": "DataError",
    "quantize lenet5 --calib digit": "UnknownNameError",
    "trt build lenet5 --int8 --calib empty": "DataError",
    "bench lenet5 --precision int8 --calib empty": "DataError",
    "compare lenet5 lenet5 --precision int8 --calib empty": "DataError",
    "profile lenet5 --precision int8 --calib empty": "DataError",
    "sweep lenet5 --precision int8 --calib empty": "DataError",
    "sweep lenet5 --data empty": "DataError",
    "train lenet5 --data empty": "DataError",
    "evaluate lenet5 --data empty": "DataError",
    "export lenet5 --data empty": "DataError",
    "check lenet5 --data nothing.npz": "DataError",
    "convert there.onnx --data empty": "DataError",
    "edit there.onnx --data empty": "DataError",
    "package lenet5 --for triton --data empty": "DataError",
    # models and files
    "export nothing.pt": "WeightsError",
    "export nothing.pt2": "ModelError",
    "export nothing.py:net": "ModelError",
    "export nothing.py": "ModelError",
    "export some.package:net": "ModelError",
    "export torchvision/resnt18": "UnknownNameError",
    "export zoo/lenet6": "UnknownNameError",
    "export runs/model": "UnknownNameError",
    "export lenet5 --weights nothing.pt": "WeightsError",
    "train lenet5 --data digits --weights nothing.pt": "WeightsError",
    "check nothing.onnx": "ArtifactError",
    "check lenet5 --onnx nothing.onnx": "ArtifactError",
    "check there.onnx --against nothing.onnx": "ArtifactError",
    "bench nothing.onnx": "ArtifactError",
    "bench zoo/lenet6": "UnknownNameError",
    "compare nothing.onnx there.onnx": "ArtifactError",
    "compare zoo/lenet6@torch zoo/lenet5@torch": "UnknownNameError",
    "profile nothing.onnx": "ArtifactError",
    "evaluate nothing.onnx --data digits": "ArtifactError",
    "quantize nothing.onnx --calib digits": "ArtifactError",
    "convert nothing.onnx": "ArtifactError",
    "edit nothing.onnx --fold": "ArtifactError",
    "inspect nothing.onnx": "ArtifactError",
    "adopt nothing.onnx": "ArtifactError",
    "package nothing.onnx --for triton": "ArtifactError",
    "serve nothing.onnx": "ArtifactError",
    "trt build nothing.onnx": "ArtifactError",
    "sweep nothing.onnx": "ArtifactError",
    "models zoo/lenet6": "UnknownNameError",
}
"""Command lines and the kind of their error."""


def refusals(lines: list[str], folder: Path, hidden: Sequence[str] = ()) -> dict[str, tuple[object, str]]:
    """Run command lines in one process that cannot import heavy packages; return exit codes and kinds of errors.

    The modules ``hidden`` are as if they were not installed.
    """
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no data")
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04 no archive")
    (folder / "there.onnx").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_TORCH), json.dumps(lines), ",".join(hidden)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads((folder / "ended.json").read_text())
    errors = [json.loads(text)["error"]["kind"] for text in done.stdout.splitlines() if text.startswith('{"error"')]
    assert len(errors) == sum(isinstance(code, int) for code in codes.values()), (codes, done.stdout, done.stderr)
    kinds = iter(errors)
    return {line: (code, next(kinds) if isinstance(code, int) else "") for line, code in codes.items()}


def test_what_is_wrong_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    found = refusals(list(CASES), tmp_path)
    wrong = {}
    for line, kind in CASES.items():
        wanted = "UsageError" if kind == "UnknownKey" else kind
        usage = wanted in ("UsageError", "UnknownNameError", "InputSpecError")
        if found[line] != (2 if usage else 1, wanted):
            wrong[line] = found[line]
    assert not wrong
    assert not (tmp_path / "artifacts").exists(), "something was made"


EXTRAS = {
    "report": "plotly",
    "serve lenet5": "starlette",
    "sign --key there.onnx": "model_signing",
    "verify --key there.onnx": "OpenSSL",
    "edit there.onnx --simplify": "onnxslim",
    "sweep some.yaml": "yaml",
    "sweep lenet5 --engine ray": "ray",
    "bench lenet5 --scenario loadgen": "mlperf_loadgen",
    "trt build lenet5": "tensorrt_rtx",
    "trt build lenet5 --runtime tensorrt": "tensorrt",
    "bench lenet5 --backends openvino": "openvino",
    "train lenet5 --data digits": "sklearn",
    "models timm/resnet18": "timm",
    "export hf/facebook/deit-tiny-patch16-224": "transformers",
}
"""Command lines, and a module of the extra that they need."""


def test_missing_extras_are_named_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("models: [lenet5]")
    found = refusals(list(EXTRAS), tmp_path, [*EXTRAS.values()])
    assert set(found.values()) == {(1, "MissingPackageError")}, found
    assert not (tmp_path / "artifacts").exists(), "something was made"


@pytest.mark.parametrize("extra", EXTRAS_OF_OURS)
def test_every_package_of_an_extra_is_declared(extra: str) -> None:
    """`deploy.core.extras` and pyproject.toml name the same packages."""
    needed = [item for item in metadata.requires("deploy-toolkit") or () if f'extra == "{extra}"' in item]
    names = {re.split(r"[\[<>=; ]", item)[0].lower() for item in needed}
    assert set(EXTRAS_OF_OURS[extra].packages.values()) <= names


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    from deploy.support.cuda_driver import gpus

    if gpus():
        pytest.skip("this machine has a GPU")
    lines = ["bench lenet5 --device cuda", "compare torch onnxruntime --model lenet5 --device cuda"]
    assert set(refusals(lines, tmp_path).values()) == {(1, "BackendError")}


def test_the_catalog_answers_without_importing_a_model(tmp_path: Path) -> None:
    code = (
        "import sys; from deploy.models.catalog import list_models; lines = list_models();"
        "assert len(lines) > 100 and not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
