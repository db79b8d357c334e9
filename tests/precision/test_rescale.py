"""Channels that another power of two brings into the range of half precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import deploy
from deploy.core.errors import UsageError
from deploy.core.progress import SILENT
from deploy.precision.ranges import ranges
from deploy.precision.rescale import rescale
from exporters.half import write_prepared
from tests.conftest import Ran

Scaled = tuple[list[torch.Tensor], list[torch.Tensor]]
"""Weights to multiply, and weights to divide; together they change nothing."""


class Net(nn.Module):
    """A network, and where a channel of it can be scaled."""

    size = (2, 3, 12, 12)

    def scaled(self) -> Scaled:
        raise NotImplementedError


class Residual(Net):
    """A stream that two convolutions and a shortcut write, and two read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 3)
        self.inner = nn.Conv2d(8, 8, 1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(6, 4)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.norm(self.one(torch.relu(self.inner(x)))))
        return self.head(self.two(nn.functional.max_pool2d(x, 2)).amax((2, 3)))  # type: ignore[no-any-return]

    def scaled(self) -> Scaled:
        made = [self.stem.weight[3], self.stem.bias[3], self.norm.weight[3], self.norm.bias[3]]  # type: ignore[index]
        return made, [self.inner.weight[:, 3], self.two.weight[:, 3]]


class Depthwise(Net):
    """A grouped convolution between two others, padded, in a concatenation, with a transposed one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=8)
        self.last = nn.ConvTranspose2d(24, 6, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.first(x))
        y = nn.functional.pad(self.depth(x), (1, 1, 1, 1))
        return self.last(torch.cat([y, x], 1)).mean((2, 3))  # type: ignore[no-any-return]

    def scaled(self) -> Scaled:
        made = [self.first.weight[5], self.first.bias[5]]  # type: ignore[index]
        return made, [self.depth.weight[10:12], self.last.weight[16 + 5]]


class Attention(Net):
    """The values of one channel of a head, which an attention averages."""

    size = (2, 5, 16)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.norm(x)).reshape(len(x), -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def scaled(self) -> Scaled:
        return [self.qkv.weight[32 + 6], self.qkv.bias[32 + 6]], [self.out.weight[:, 6]]


class Gated(Net):
    """A gate, a scale of each channel, and weights that two layers share."""

    size = (2, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.gate = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(torch.tanh(self.shared(x)))
        x = self.first(x) * torch.sigmoid(self.gate(x))
        return (x * self.scale).sum(-1, keepdim=True).tanh()

    def scaled(self) -> Scaled:
        return [self.first.weight[3], self.first.bias[3]], [self.scale[3]]


NETS: tuple[type[Net], ...] = (Residual, Depthwise, Attention, Gated)


def build(kind: type[Net], factor: float) -> Net:
    """Return a network of which a channel is scaled."""
    torch.manual_seed(1)
    net = kind().eval()
    made, read = net.scaled()
    with torch.no_grad():
        for value in made:
            value *= factor
        for value in read:
            value /= factor
    return net


def graph(net: Net, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the prepared graph of a network, and an input."""
    torch.manual_seed(2)
    x = torch.randn(net.size)
    program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    assert program is not None
    program.save(folder / "net.onnx")
    write_prepared(folder / "net.onnx", folder / "prepared.onnx", "fp16")
    name = onnx.load(folder / "prepared.onnx").graph.input[0].name
    return folder / "prepared.onnx", {name: x.numpy()}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("factor", [2.0**18, 2.0**-18])
def test_the_channel_comes_back_and_no_bit_changes(kind: type[Net], factor: float, tmp_path: Path) -> None:
    path, feeds = graph(build(kind, factor), tmp_path)
    before = ort.InferenceSession(path).run(None, feeds)
    rescaled = rescale(path, "fp16", [feeds], 2.0)
    assert [np.sign(item.exponent) for item in rescaled] == [-np.sign(np.log2(factor))]
    after = ort.InferenceSession(path).run(None, feeds)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert max(ranges(path, [feeds]).largest.values()) < 2.0**14


@pytest.mark.parametrize("kind", NETS)
def test_ordinary_networks_stay_as_they_are(kind: type[Net], tmp_path: Path) -> None:
    path, feeds = graph(build(kind, 1.0), tmp_path)
    stored = path.read_bytes()
    assert rescale(path, "fp16", [feeds], 2.0) == () and path.read_bytes() == stored


class Squared(Net):
    """Nothing gives another scale to a square, to what leaves the graph, or to a number that is clipped at 6."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.one(x) * 1e6, self.two(x) * 1e6
        return one * one + nn.functional.relu6(two) + self.three(x) * 1e6


def test_other_operators_fix_the_scale(tmp_path: Path) -> None:
    path, feeds = graph(Squared().eval(), tmp_path)
    assert rescale(path, "fp16", [feeds], 2.0) == ()


@pytest.mark.parametrize(
    ("opset", "fill", "changes"), [(20, 0.0, True), (20, 1.0, False), (10, 0.0, True), (10, 1.0, False)]
)
def test_padding_with_another_number_fixes_the_scale(opset: int, fill: float, changes: bool, tmp_path: Path) -> None:
    """As an input since opset 11, as an attribute before; and a weight that is an output stays as it is."""
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    pad = f"Pad <pads = {pads}, value = {fill}> (a)" if opset < 11 else "Pad (a, pads, fill)"
    text = f"""g (float[n,3,6,6] x) => (float[n,3,k,l] y, float[3,3,1,1] v) {{
        a = Conv (x, v) p = {pad} y = Conv (p, w)
    }}"""
    rng = np.random.default_rng(0)
    parsed = onnx.parser.parse_graph(text)
    one, two = rng.standard_normal((2, 3, 3, 1, 1)).astype(np.float32)
    weights = {"v": one * np.float32(2.0**18), "w": two / np.float32(2.0**18)}
    weights |= {"pads": np.array(pads), "fill": np.array(fill, np.float32)} if opset >= 11 else {}
    parsed.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    model = onnx.helper.make_model(parsed, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    feeds = {"x": rng.standard_normal((2, 3, 6, 6)).astype(np.float32)}
    before = ort.InferenceSession(path).run(None, feeds)
    assert bool(rescale(path, "fp16", [feeds], 2.0)) == changes
    after = ort.InferenceSession(path).run(None, feeds)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.slow
def test_everything_is_in_half_then(tmp_path: Path, run: Callable[..., Ran]) -> None:
    """The plan tells it, and is used again with other weights."""
    options: dict[str, object] = {"artifacts": tmp_path, "probes": "quick", "strategy": "trace", "progress": SILENT}
    image = torch.randn(Residual.size)
    report = deploy.export(build(Residual, 2.0**18), image, name="net", precision="fp16", **options)  # type: ignore[arg-type]
    assert report.verdict == "pass" and report.plan is not None
    assert report.plan.kept == () and [item.channels for item in report.plan.rescaled] == [2]
    shown = run("inspect", report.artifact.path)
    assert "power of two" in " ".join(shown.out.split())
    plan = report.artifact.path.with_suffix(".precision.json")
    assert json.loads(plan.read_text())["rescaled"][0]["exponent"] < 0
    changed = json.loads(plan.read_text())
    changed["rescaled"][0]["channel"] = 1000
    other = tmp_path / "changed.json"
    other.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="rescale"):
        deploy.export(build(Residual, 1.0), image, name="net", precision="fp16", plan=other, force=True, **options)  # type: ignore[arg-type]
    again = deploy.export(
        build(Residual, 2.0**17),
        image,
        name="net",
        precision="fp16",
        plan=plan,
        force=True,
        **options,  # type: ignore[arg-type]
    )
    assert again.verdict == "pass" and again.plan == report.plan
