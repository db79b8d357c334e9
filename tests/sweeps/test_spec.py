"""A sweep's file: what is wrong in it is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.core.errors import UsageError
from deploy.sweeps.document import read
from deploy.sweeps.spec import Entry, Machine, SpecError, parse

BACKENDS = ("torch", "onnxruntime", "openvino", "tensorrt")
WHOLE = """\
# everything that a sweep can say
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


def _written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_that_it_can_say(tmp_path: Path) -> None:
    spec = read(_written(tmp_path, WHOLE), BACKENDS)
    assert spec.models[0] == Entry(name="lenet5")
    assert spec.models[1].options == {"num_classes": "10", "pretrained": "False"} and spec.models[1].title == "resnet18"
    assert (spec.precisions, spec.batches, spec.min_time, spec.seed) == (("fp32", "int8"), (1, 8), 0.5, 7)
    assert spec.machines[0] == Machine(name="epyc")
    assert spec.machines[1].resource == "accelerator_type:H100" and spec.machines[1].backends[2] == "tensorrt"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 1, "at least one model"),
        ("models: []", 1, "at least one model"),
        ("- lenet5", 1, "expected a mapping"),
        ("models: [lenet5]\nprecision: [fp32]", 2, "precision: unknown. Did you mean precisions?"),
        ("models: [lenet5]\n\nprecisions:\n  - fp32\n  - fp23", 5, "'fp23' is not one of fp32, fp16, int8"),
        ("models: [lenet5]\nbackends: [torch, onnx]", 2, "'onnx' is not one of"),
        ("models: [lenet5]\nbackends: torch", 2, "expected a list, found 'torch'"),
        ("models: [lenet5]\nbatches:\n  - 1\n  - 0", 4, "a whole number from 1 on, found 0"),
        ("models: [lenet5]\nbatches: [1, true]", 2, "a whole number from 1 on, found True"),
        ("models: [lenet5]\nbatches: [1, 8, 1]", 2, "1 is named twice"),
        ("models: [lenet5]\nthreads: two", 2, "found 'two'"),
        ("models: [lenet5]\nmin_time: -1", 2, "expected seconds above 0"),
        ("models: [lenet5]\nmin_time: .nan", 2, "expected seconds above 0"),
        ("models: [lenet5]\nprecisions: [int8]", 2, "int8 needs calib"),
        ("models: [lenet5, zoo/lenet5]", 1, "lenet5 is named twice; they would overwrite each other"),
        ("models:\n  - lenet5\n  - 5", 3, "expected a mapping, found 5"),
        ("models:\n  - arch: resnet18", 2, "the name is missing"),
        ("models:\n  - name: no", 2, "expected text, found False. Put it in quotes."),
        ("models:\n  - name: a\n    weight: b", 3, "Did you mean weights?"),
        ("models:\n  - name: a\n    options: [1]", 3, "expected a mapping"),
        ("models:\n  - name: a\n    options: {b: [1]}", 3, "expected a number, a word"),
        ("models: [a]\nmachines:\n  - name: x\n  - name: x", 4, "x is named twice"),
        ("models: [a]\nmachines:\n  - name: 'x y'", 3, "'x y' is no name"),
        ("models: [a]\nmachines:\n  - name: x\n    device: cuda", 4, "cuda needs gpus"),
        ("models: [a]\nmachines:\n  - name: x\n    cpus: 4", 4, "cpus goes with gpus"),
        ("models: [a]\nmachines:\n  - name: x\n    device: tpu", 4, "'tpu' is not one of cpu, cuda"),
        ("models: [a]\nmodels: [b]", 2, "models is there twice"),
        ("models: [a]\n1: 2", 2, "a key that is no text"),
        ("models: [a\nbatches: [1]", 2, "not YAML"),
        ("models: [a]\n\tbatches: [1]", 2, "not YAML"),
        ("models: &m [a]\nbackends: *m", 2, "anchors are not read"),
        ("models: [a]\nseed: !!python/object/apply:os.system [id]", 2, "found"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, told: str) -> None:
    path = _written(tmp_path, text)
    with pytest.raises(UsageError) as refused:
        read(path, BACKENDS)
    assert refused.value.message.startswith(f"{path}:{line}: "), refused.value.message
    assert told in refused.value.message


def test_what_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for content in (b"\xff\xfe\x00", b"#" * (1 << 21)):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"cannot be read|larger than"):
            read(path, BACKENDS)
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "nothing.yaml", BACKENDS)
    path.write_text("models: " + "[" * 5000)
    with pytest.raises(UsageError):
        read(path, BACKENDS)


def test_without_a_file_the_place_is_named() -> None:
    with pytest.raises(SpecError, match=r"^machines\.2\.backends\.1: 'nothing' is not one of"):
        parse({"models": ["a"], "machines": [{"name": "x"}, {"name": "y", "backends": ["nothing"]}]}, BACKENDS)
