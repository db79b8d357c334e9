"""Sizes and values that a model, or torch.export, excludes: they are found, recorded, obeyed and refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import orjson
import pytest

from deploy.core.errors import InputSpecError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import SILENT
from deploy.core.tensors import SizeRange
from deploy.exporting.check import check
from deploy.exporting.domains import find_domains
from deploy.exporting.export import ExportReport, export_model
from deploy.exporting.prove import prove
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.serving.protocol import RequestError, read_request
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

NETS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Windows(nn.Module):
    """Pads to a multiple of 4, in Python."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(3, 5)

    def forward(self, x):
        b, c, h = x.shape
        if h % 4:
            x = F.pad(x, (0, 4 - h % 4))
        y = x.unflatten(2, (-1, 4)).mean(3).transpose(1, 2)
        return self.f(y).mean(1)


class Short(nn.Module):
    """Pads sequences that are shorter than 8, and cuts those longer than 40."""

    def __init__(self):
        super().__init__()
        self.f = nn.Conv1d(4, 4, 5)

    def forward(self, x):
        if x.shape[2] < 8:
            x = F.pad(x, (0, 8 - x.shape[2]))
        if x.shape[2] > 40:
            x = x[:, :, :40]
        return self.f(x).mean(2)


class Learned(nn.Module):
    """Learned positions, at most 24, and a table of 300 words."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.f = nn.Embedding(300, 8), nn.Embedding(24, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.f(torch.tanh(self.words(ids) + self.places(torch.arange(ids.shape[1]))))


class Resized(nn.Module):
    """Halves a picture and resizes it to the size of the picture, or by 2."""

    def __init__(self, constant):
        super().__init__()
        self.constant = constant
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.a(x)), 2, ceil_mode=True)
        y = F.interpolate(y, scale_factor=2) if self.constant else F.interpolate(y, size=x.shape[2:])
        return self.b(torch.cat((y, x), 1))


class Values(nn.Module):
    """Integers of many meanings."""

    def __init__(self):
        super().__init__()
        self.words, self.kinds, self.f = nn.Embedding(300, 8), nn.Embedding(2, 8), nn.Linear(8, 3)
        self.register_buffer("offsets", torch.tensor([0, 100, 200]))

    def forward(self, ids, fields, token_type_ids, pad_mask, lengths, count, levels):
        y = self.words(ids) + self.kinds(token_type_ids)
        weights = (torch.arange(ids.shape[1]) < lengths[:, None]).to(y.dtype)
        assert int(lengths.max()) <= ids.shape[1]
        y = (y * weights[:, :, None]).sum(1) + self.words(fields + self.offsets).mean(1)
        level = F.one_hot(levels, 7).to(y.dtype).mean(1)[:, :3]
        attention = torch.zeros(pad_mask.shape, dtype=y.dtype).masked_fill(~pad_mask, float("-inf")).softmax(1)
        return self.f(y) + count[:, None] + level + attention.max(1, keepdim=True).values


class Pixels(nn.Module):
    """Prepares raw pictures."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.tensor([123.7, 116.3, 103.5]).reshape(3, 1, 1))

    def forward(self, image):
        return self.a((image - self.mean) / 58.0).mean((2, 3))


def windows(): return Windows()
def short(): return Short()
def learned(): return Learned()
def by_size(): return Resized(False)
def by_two(): return Resized(True)
def values(): return Values()
def pixels(): return Pixels()
'''


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "ranged.py"
    path.write_text(NETS, encoding="utf-8")
    return path


def _export(nets: Path, store: Path, name: str, *inputs: str, strategy: str = "trace") -> ExportReport:
    request = ModelRequest(name=f"{nets}:{name}", inputs=inputs, weights="none")
    return export_model(request, artifacts=store, strategy=strategy, probes="quick")


def test_the_conditions_of_torch_export_are_ranges_of_the_manifest(nets: Path, store: Path) -> None:
    report = _export(nets, store, "windows", "x:batch,3,height=16", strategy="export")
    (spec,) = report.artifact.manifest.inputs
    (height,) = spec.ranges
    assert (height.dim, height.multiple, height.max) == ("height", 4, None)
    assert report.verdict == "pass" and all(size % 4 == 0 for size in report.parity.dynamic["height"])
    again = check(onnx=report.artifact.path, probes="quick").parity.to_dict()
    assert again["verdict"] == "pass" and again["ranges"][0]["multiple"] == 4
    with pytest.raises(InputSpecError, match="'height' is 33"):
        spec.concrete({"batch": 1, "height": 33})
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3, 18], "data": [0.0] * 54}]}
    with pytest.raises(RequestError, match="height"):
        read_request(orjson.dumps(body), None, [spec], report.artifact.manifest.outputs)


def test_a_traced_file_of_the_same_model_fails(nets: Path, store: Path) -> None:
    report = _export(nets, store, "windows", "x:batch,3,height=16")
    assert report.verdict == "fail"
    assert _export(nets, store, "windows", "x:batch,3,height=16%4").verdict == "pass"


def test_branches_on_a_length_are_a_minimum_and_a_maximum(nets: Path, store: Path) -> None:
    report = _export(nets, store, "short", "x:batch,4,length=16", strategy="export")
    assert report.verdict == "pass"
    assert report.parity.ranges == (SizeRange(dim="length", min=8, max=40),)
    assert {8, 40} <= set(report.parity.dynamic["length"])


def test_a_size_that_the_model_refuses_is_no_fault_of_the_file(nets: Path, store: Path) -> None:
    report = _export(nets, store, "learned", "ids:batch,length=16:int64")
    assert report.verdict == "pass", report.parity.reasons
    assert report.parity.refused["length"] == (32,)
    assert report.parity.ranges == report.artifact.manifest.inputs[0].ranges == (SizeRange(dim="length", max=24),)
    limited = _export(nets, store, "learned", "ids:batch,length=16..24:int64")
    assert limited.verdict == "pass" and not limited.parity.refused and 24 in limited.parity.dynamic["length"]


def test_words_beyond_the_first_two_are_probed(nets: Path, store: Path) -> None:
    path = _export(nets, store, "learned", "ids:batch,length=16:int64").artifact.path
    graph = onnx.load(str(path))
    table = next(item for item in graph.graph.initializer if list(item.dims) == [300, 8])
    values = onnx.numpy_helper.to_array(table).copy()
    values[250:] = 0
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    wrong = store / "wrong.onnx"
    onnx.save(graph, str(wrong))
    request = ModelRequest(name=f"{nets}:learned", inputs=("ids:batch,length=16:int64",), weights="none")
    assert check(request, onnx=wrong, probes="quick").parity.verdict == "fail"


def test_a_resize_by_a_constant_fails_only_where_the_model_accepts_odd_sizes(nets: Path, store: Path) -> None:
    text = "image:batch,3,h=16,w=16"
    report = _export(nets, store, "by_two", text)
    assert report.verdict == "pass" and 17 in report.parity.refused["h"]
    assert {(item.dim, item.multiple) for item in report.parity.ranges} == {("h", 2), ("w", 2)}
    other = ModelRequest(name=f"{nets}:by_size", inputs=(text,), weights="none")
    path = report.artifact.path.with_name("foreign.onnx")  # without a manifest
    path.write_bytes(report.artifact.path.read_bytes())
    assert check(other, onnx=path, probes="quick").parity.verdict == "fail"


def test_the_values_of_integers_are_found_by_observing_and_trying_the_model(nets: Path) -> None:
    texts = ("ids:batch,n=9:int64", "fields:batch,3:int64", "token_type_ids:batch,n=9:int64", "pad_mask:batch,n=9:bool")
    more = ("lengths:batch:int64", "count:batch:int32", "levels:batch,4:int64")
    model = resolve(ModelRequest(name=f"{nets}:values", inputs=(*texts, *more)))
    domains, notes = find_domains(model, model.inputs)
    assert (domains["ids"].low, domains["ids"].high) == (0, 300)
    assert domains["fields"].high == 100, "the model adds 200 before it looks values up"
    assert domains["token_type_ids"].high == 2 and domains["levels"].high == 7
    assert (domains["lengths"].role, domains["lengths"].high) == ("length", 9)
    assert "none" not in domains["pad_mask"].patterns and "suffix" in domains["pad_mask"].patterns
    assert domains["count"].high == 1000 and len(notes) == 1 and "count" in notes[0]


def test_a_model_that_prepares_pictures_is_probed_with_pixels(nets: Path, store: Path) -> None:
    report = _export(nets, store, "pixels", "image:batch,3,8,8")
    assert report.verdict == "pass"
    model = resolve(ModelRequest(name=f"{nets}:pixels", inputs=("image:batch,3,8,8",)))
    assert find_domains(model, model.inputs)[0]["image"].pixels


def test_data_alone_needs_data(nets: Path, store: Path, run: Callable[..., Ran], tmp_path: Path) -> None:
    words = (
        "export",
        f"{nets}:learned",
        "--input",
        "ids:batch,length=16:int64",
        "--strategy",
        "trace",
        "--probes",
        "data",
    )
    done = run(*words)
    assert done.code == 2 and "--data" in done.err
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 300, (9, 16)))
    done = run(*words, "--data", tmp_path / "ids.npy", "--json")
    assert done.code == 0, done.err
    assert {item["group"] for item in done.json["parity"]["outputs"]} == {"real"}


def test_a_length_of_one_is_allowed_where_the_file_is_right_there(nets: Path, store: Path) -> None:
    artifact = _export(nets, store, "learned", "ids:batch,length=16..24:int64").artifact
    model = resolve(ModelRequest(name=f"{nets}:learned", inputs=("ids:batch,length=16..24:int64",), weights="none"))
    with IsolatedRunner("onnxruntime") as runner:
        ranges = [SizeRange(dim="length", min=2, max=24)]  # what torch.export assumes
        report = prove(model, artifact.path, runner, precision="fp32", seed=0, ranges=ranges, progress=SILENT)
    assert report.verdict == "pass" and report.ranges == (SizeRange(dim="length", max=24),)
    assert 1 in report.dynamic["length"]
