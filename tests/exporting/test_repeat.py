"""Models and files that do not answer the same twice; models in other precisions than float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import deploy
from deploy.backends.torch.repeat import check_repeatable
from deploy.core.errors import ModelError, UsageError
from deploy.core.model import Model, Weights
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest

NETS = """
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

GENERATOR = torch.Generator()


class Net(nn.Module):
    def __init__(self, kind="plain"):
        super().__init__()
        self.kind, self.a, self.drop = kind, nn.Linear(6, 4), nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.own, self.calls, self.last = torch.Generator(), 0, None

    def forward(self, x):
        y = self.a(x)
        if self.kind == "noise":
            return y + 1e-3 * torch.randn_like(y)
        if self.kind == "functional dropout":
            return F.dropout(y)
        if self.kind == "training dropout":
            return self.drop.train()(y)
        if self.kind == "bernoulli":
            return y * torch.bernoulli(torch.full_like(y, 0.5))
        if self.kind == "rrelu":
            return F.rrelu(y, training=True)
        if self.kind == "own generator":
            return y + torch.rand(4, generator=self.own)
        if self.kind == "global generator":
            return y + torch.rand(4, generator=GENERATOR)
        if self.kind == "python":
            return y + random.random()
        if self.kind == "numpy":
            return y + float(np.random.rand())
        if self.kind == "clock":
            return y + time.perf_counter_ns() % 1000 / 1000
        if self.kind == "unused noise":
            torch.randn(3)
        if self.kind == "idle dropout":
            return self.drop(y) + F.dropout(y, 0.5, training=False)
        if self.kind == "seeded":
            torch.manual_seed(3)
            return y + torch.rand(4)
        if self.kind == "ema":
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
            return self.a(x - self.mean)
        if self.kind == "count":
            self.count += 1
            return y * self.count
        if self.kind == "calls":
            self.calls += 1
            return y * self.calls
        if self.kind == "cached":
            self.last = y
        if self.kind == "cond":
            return torch.cond(y.mean() > 0, lambda y: self.a(x) * 2, lambda y: y - 1, (y,))
        return y


def seeded(kind="plain"):
    torch.manual_seed(1)
    return Net(kind)


def half(): return seeded().half()
def double(): return seeded().double()
def bfloat(): return seeded().bfloat16()


class Picky(Net):
    def forward(self, x):
        if len(x) == 3:
            raise ValueError("three samples are too many")
        return self.a(x)


def picky():
    torch.manual_seed(1)
    return Picky()
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repeat") / "nets.py"
    path.write_text(NETS)
    return path


def build(nets: Path, kind: str) -> Model:
    space: dict[str, object] = {}
    exec(compile(nets.read_text(), str(nets), "exec"), space)
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 6))
    module = space["seeded"](kind).eval()  # type: ignore[operator]
    weights = Weights(source="untrained", trained=False)
    return Model(name="net", slug="net", module=module, inputs=(spec,), sizes={"batch": 2}, weights=weights)


FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)}


@pytest.mark.parametrize(
    ("kind", "words"),
    {
        "noise": ("randn",),
        "functional dropout": ("bernoulli",),
        "training dropout": ("bernoulli", "'drop'"),
        "bernoulli": ("bernoulli",),
        "rrelu": ("rrelu",),
        "own generator": ("rand",),
        "global generator": ("rand",),
        "python": ("Python",),
        "numpy": ("numpy",),
        "clock": (),
    }.items(),
)
def test_a_random_model_is_refused_by_name(nets: Path, kind: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        check_repeatable(build(nets, kind), FEEDS)
    assert all(word in caught.value.message for word in ("random", *words))


@pytest.mark.parametrize("kind", ["plain", "unused noise", "idle dropout", "seeded", "cached", "cond"])
def test_other_models_are_not(nets: Path, kind: str) -> None:
    assert check_repeatable(build(nets, kind), FEEDS) == ()


@pytest.mark.parametrize(("kind", "name"), {"ema": "mean", "count": "count", "calls": "calls"}.items())
def test_state_that_the_result_depends_on_is_reported(nets: Path, kind: str, name: str) -> None:
    (note,) = check_repeatable(build(nets, kind), FEEDS)
    assert f"'{name}'" in note


def request(nets: Path, factory: str, dtype: str = "float32", **options: str) -> ModelRequest:
    return ModelRequest(name=f"{nets}:{factory}", inputs=(f"x:batch,6:{dtype}",), options=options)


@pytest.mark.parametrize(
    ("factory", "dtype", "precision"), [("half", "float16", "fp16"), ("double", "float64", "fp64")]
)
def test_a_model_in_another_precision_is_exported_in_it(
    nets: Path, tmp_path: Path, factory: str, dtype: str, precision: str
) -> None:
    report = deploy.export_model(request(nets, factory, dtype), artifacts=tmp_path)
    assert report.verdict == "pass" and report.parity.precision == precision
    manifest = report.artifact.manifest
    assert (manifest.precision, manifest.outputs[0].dtype, manifest.inputs[0].dtype) == (precision, dtype, dtype)
    assert deploy.check(artifacts=tmp_path).parity.verdict == "pass"
    wrong = onnx.load(str(report.artifact.path))
    (weight,) = [item for item in wrong.graph.initializer if len(item.dims) == 2]
    values = onnx.numpy_helper.to_array(weight)
    step = {"fp16": 1.01, "fp64": 1 + 1e-13}[precision]
    weight.CopyFrom(onnx.numpy_helper.from_array((values * step).astype(values.dtype), weight.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    checked = deploy.check(request(nets, factory, dtype), onnx=tmp_path / "wrong.onnx", artifacts=tmp_path)
    assert checked.parity.verdict == "fail" and checked.parity.precision == precision


def test_precisions_that_are_refused(nets: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        deploy.export_model(request(nets, "double", "float64"), precision="fp16", artifacts=tmp_path)
    with pytest.raises(ModelError, match="bfloat16"):
        deploy.export_model(request(nets, "bfloat"), artifacts=tmp_path)


@pytest.mark.parametrize("kind", ["cond", "ema"])
def test_exports_of_models_with_branches_and_state(nets: Path, tmp_path: Path, kind: str) -> None:
    report = deploy.export_model(request(nets, "seeded", kind=kind), artifacts=tmp_path)
    assert report.verdict == "pass"
    assert any("'mean'" in note for note in report.parity.notes) == (kind == "ema")


def linear(path: Path, noise: float) -> Path:
    """Write ``x @ w.T + b`` of the plain net, with noise from a random operator if it is not 0."""
    state = build(path.parent / "nets.py", "plain").module.state_dict()
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y" if noise else "logits"], transB=1)]
    if noise:
        nodes += [
            helper.make_node("RandomNormalLike", ["y"], ["noise"], scale=noise),
            helper.make_node("Add", ["y", "noise"], ["logits"]),
        ]
    values = [onnx.numpy_helper.from_array(state[f"a.{key}"].numpy(), key[0]) for key in ("weight", "bias")]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        values,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("noise", [1e-2, 2e-6])
def test_a_file_that_answers_differently_twice_fails(nets: Path, noise: float) -> None:
    report = deploy.check(request(nets, "seeded"), onnx=linear(nets.with_name("noise.onnx"), noise))
    assert report.parity.verdict == "fail" and any("two equal calls" in reason for reason in report.parity.reasons)


def test_an_error_of_the_model_is_reported_and_is_no_fault_of_the_file(nets: Path) -> None:
    file = linear(nets.with_name("still.onnx"), 0.0)
    report = deploy.check(request(nets, "picky"), onnx=file).parity
    assert report.verdict == "pass" and 3 in report.refused["batch"]
    assert any("three samples" in note for note in report.notes)
