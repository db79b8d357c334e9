"""Specifications of sweeps: reading them, and errors with their line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import UsageError
from deploy.sweeps.spec import Machine, SpecError, SweepModel, parse_spec, read_spec

ALL_FIELDS = """\
# every field
models:
  - lenet5
  - name: runs/best.pt
    arch: resnet18
    weights: auto
    seed: 3
    options: {num_classes: 10, pretrained: false}
  - name: nets.py:small
    inputs: ["x:batch,3,16,16"]
precisions: [fp32, int8]
backends: [torch, onnxruntime]
batches: [1, 8]
threads: 1
calib: digits
samples: 64
data: digits
repetitions: 3
min_time: 0.5
seed: 7
baseline: torch
machines:
  - name: epyc
  - name: h100
    resource: accelerator_type:H100
    gpus: 1
    cpus: 8
    device: cuda
    backends: [torch, onnxruntime, tensorrt]
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_fields(tmp_path: Path) -> None:
    spec = read_spec(_write(tmp_path, ALL_FIELDS))
    assert spec.models[0] == SweepModel(name="lenet5")
    assert spec.models[1].options == {"num_classes": "10", "pretrained": "False"} and spec.models[1].title == "best"
    assert (spec.models[1].seed, spec.models[2].inputs) == (3, ("x:batch,3,16,16",))
    assert (spec.precisions, spec.batches, spec.min_time, spec.seed) == (("fp32", "int8"), (1, 8), 0.5, 7)
    assert (spec.backends, spec.threads, spec.calib, spec.samples) == (("torch", "onnxruntime"), 1, "digits", 64)
    assert (spec.data, spec.repetitions, spec.baseline) == ("digits", 3, "torch")
    assert spec.machines[0] == Machine(name="epyc")
    assert spec.machines[1] == Machine(
        name="h100",
        resource="accelerator_type:H100",
        gpus=1,
        cpus=8,
        device="cuda",
        backends=("torch", "onnxruntime", "tensorrt"),
    )


def test_empty_values_are_defaults(tmp_path: Path) -> None:
    assert read_spec(_write(tmp_path, "models: [lenet5]\nthreads:\nmin_time: 1\nbackends: ~")) == parse_spec(
        {"models": ("lenet5",), "batches": (1,)}
    )


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("", 1, ""),
        ("models: []", 1, "models"),
        ("- lenet5", 1, ""),
        ("models: [lenet5]\nprecision: [fp32]", 2, "precision"),
        ("models: [lenet5]\n\nprecisions:\n  - fp32\n  - fp23", 5, "precisions[1]"),
        ("models: [lenet5]\nbackends: [torch, onnx]", 2, "backends[1]"),
        ("models: [lenet5]\nbackends: torch", 2, "backends"),
        ("models: [lenet5]\nbackends: ['']", 2, "backends[0]"),
        ("models: [lenet5]\nbaseline: tourch", 2, "baseline"),
        ("models: [lenet5]\nbatches:\n  - 1\n  - 0", 4, "batches[1]"),
        ("models: [lenet5]\nbatches: [1, true]", 2, "batches[1]"),
        ("models: [lenet5]\nbatches: [1, 8, 1]", 2, "batches[2]"),
        ("models: [lenet5]\nthreads: two", 2, "threads"),
        ("models: [lenet5]\nseed: -1", 2, "seed"),
        ("models: [lenet5]\nmin_time: -1", 2, "min_time"),
        ("models: [lenet5]\nmin_time: .nan", 2, "min_time"),
        ("models: [lenet5]\nmin_time: .inf", 2, "min_time"),
        ("models: [lenet5]\nprecisions: [int8]", 2, "precisions"),
        ("models: [lenet5, zoo/lenet5]", 1, "models[1]"),
        ("models:\n  - lenet5\n  - 5", 3, "models[1]"),
        ("models:\n  - arch: resnet18", 2, "models[0]"),
        ("models:\n  - name: no", 2, "models[0].name"),
        ("models:\n  - name: a\n    weight: b", 3, "models[0].weight"),
        ("models:\n  - name: a\n    options: [1]", 3, "models[0].options"),
        ("models:\n  - name: a\n    options:\n      c: 1\n      b: [1]", 5, "models[0].options.b"),
        ("models: [a]\nmachines:\n  - name: x\n  - name: x", 4, "machines[1]"),
        ("models: [a]\nmachines:\n  - name: 'x y'", 3, "machines[0].name"),
        ("models: [a]\nmachines:\n  - name: x\n    device: cuda", 4, "machines[0].device"),
        ("models: [a]\nmachines:\n  - name: x\n    cpus: 4", 4, "machines[0].cpus"),
        ("models: [a]\nmachines:\n  - name: x\n    device: tpu", 4, "machines[0].device"),
        ("models: [a]\nmachines:\n  - name: x\n    gpu: 1", 4, "machines[0].gpu"),
        ("models: [a]\nmodels: [b]", 2, "models"),
        ("models: [a]\n1: 2", 2, ""),
        ("models: [a\nbatches: [1]", 2, ""),
        ("models: [a]\n\tbatches: [1]", 2, ""),
        ("models: &m [a]\nbackends: *m", 2, ""),
        ("models: [a]\nseed: !!python/object/apply:os.system [id]", 2, "seed"),
    ],
)
def test_an_error_has_its_line_and_key(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(UsageError) as refused:
        read_spec(path)
    assert refused.value.message.startswith(f"{path}:{line}: {key}: " if key else f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("values", "datum"),
    [
        ({"precision": ["fp32"]}, "precisions?"),
        ({"models": [{"name": "a", "weight": "b"}]}, "weights?"),
        ({"backends": ["onnxruntimes"]}, "onnxruntime?"),
        ({"precisions": ["fp23"]}, "fp32, fp16, bf16, int8"),
        ({"machines": [{"name": "x", "device": "tpu"}]}, "cpu, cuda"),
        ({"models": [{"name": False}]}, "quotes"),
        ({"models": [{}]}, "`name`"),
        ({"precisions": ["int8"]}, "calib"),
        ({"batches": [1, 8, 1]}, "1 "),
        ({"batches": [0]}, "got 0"),
        ({"threads": "two"}, "'two'"),
        ({"machines": ["x"]}, "'x'"),
    ],
)
def test_an_error_names_what_is_meant(values: dict[str, Any], datum: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec({"models": ["a"], **values})
    assert datum in refused.value.message.rpartition(": ")[2]


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for content in (b"\xff\xfe\x00", b"#" * (1 << 21), b"models: " + b"[" * 5000):
        path.write_bytes(content)
        with pytest.raises(UsageError) as refused:
            read_spec(path)
        assert refused.value.message.startswith(f"{path}:")
    with pytest.raises(UsageError, match=r"nothing\.yaml"):
        read_spec(tmp_path / "nothing.yaml")


def test_an_error_without_a_file_has_its_place() -> None:
    with pytest.raises(SpecError, match=r"^machines\[1\]\.backends\[0\]: ") as refused:
        parse_spec({"models": ["a"], "machines": [{"name": "x"}, {"name": "y", "backends": ["nothing"]}]})
    assert refused.value.place == ("machines", 1, "backends", 0)
