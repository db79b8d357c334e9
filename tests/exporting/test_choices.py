"""Discrete choices: ties are granted where there are ties, and nowhere else."""

from __future__ import annotations

import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import deploy
from deploy.exporting.check import check
from deploy.exporting.choices import ChoosingRunner
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.parity.verdict import ParityReport
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

NETS = '''
import torch, torchvision
from torch import nn


class Scores(nn.Module):
    def __init__(self, wrong=""):
        super().__init__()
        torch.manual_seed(3)
        self.wrong = wrong
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.box, self.cls = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)


class Detector(Scores):
    """Boxes after non-maximum suppression, one picture."""

    def forward(self, x):
        f = self.body(x)
        h, w = f.shape[2], f.shape[3]
        gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        b = self.box(f)[0].sigmoid()
        xy, wh = (b[:2] + torch.stack((gx, gy)).to(f.dtype)) * 2, b[2:] * 12 + 2
        boxes = torch.cat((xy - wh / 2, xy + wh / 2)).flatten(1).T
        score, label = self.cls(f)[0].flatten(1).T.sigmoid().max(1)
        kept = torchvision.ops.nms(boxes, score, 0.5)
        if self.wrong == "best box dropped":
            kept = kept[1:]
        label = label[kept]
        if self.wrong == "best label wrong":
            label = torch.cat(((label[:1] + 1) % 6, label[1:]))
        if self.wrong == "two boxes swapped":
            kept = torch.cat((kept[1:2], kept[:1], kept[2:]))
        return boxes[kept], score[kept], label


@torch.jit._script_if_tracing
def peaks(maps, shift):
    """Find the largest value of every map in a loop, which the graph keeps: a choice that cannot be read from it."""
    found = torch.zeros((0, 2), dtype=maps.dtype)
    for i in range(int(maps.size(0))):
        place = maps[i].argmax(dim=0)
        value = maps[i].index_select(0, place.reshape(1)).reshape(())
        found = torch.cat((found, torch.stack((place.to(maps.dtype) + shift, value)).unsqueeze(0)), 0)
    return found


@torch.jit._script_if_tracing
def steps(maps, shift):
    """Cut every value to an integer in a loop, as masks are pasted at the corners of boxes."""
    found = torch.zeros((0, 12), dtype=maps.dtype)
    for i in range(int(maps.size(0))):
        found = torch.cat((found, ((maps[i] + shift).to(torch.int64).to(maps.dtype) * 0.5).unsqueeze(0)), 0)
    return found


class Looped(nn.Module):
    """Of twelve values, six are computed twice, in another order of addition: every largest value is a near tie."""

    def __init__(self, wrong=""):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.wrong = nn.Linear(16, 24), wrong
        half = torch.randn(6, 24)
        order = torch.randperm(24)
        self.register_buffer("order", order)
        self.straight, self.turned = nn.Parameter(half), nn.Parameter(half[:, order].clone())

    def forward(self, x):
        h = torch.relu(self.first(x))
        turned = self.turned * 1.001 if self.wrong == "weights" else self.turned
        maps = torch.cat((h @ self.straight.T, h[:, self.order] @ turned.T), dim=1)
        return peaks(maps, torch.tensor(1.0 if self.wrong == "place" else 0.0))


class Cut(Looped):
    """Half of the values are differences of equal sums and a whole number: within rounding of a step."""

    def forward(self, x):
        h = torch.relu(self.first(x))
        turned = self.turned * 1.001 if self.wrong == "weights" else self.turned
        one, two = h @ self.straight.T, h[:, self.order] @ turned.T
        shift = torch.tensor(1.0 if self.wrong == "place" else 0.0)
        return steps(torch.cat((one - two + torch.arange(1.0, 7.0).to(one.dtype), 3 * two), dim=1), shift)


class Pasted(Looped):
    """Boxes with corners within rounding of whole numbers, selected in pairs of equal scores, and their areas in cells.

    An area depends on four cuts, and the file may have the rows in another order.
    """

    def forward(self, x):
        h = torch.relu(self.first(x))
        turned = self.turned * 1.001 if self.wrong == "weights" else self.turned
        one, two = h @ self.straight.T, h[:, self.order] @ turned.T
        gap, score = torch.stack((one - two, two - one), -1).flatten(), torch.stack((one, two), -1).flatten()
        corner = torch.arange(gap.numel()).to(gap.dtype) % 7.0
        left, top, wide = corner + gap, corner.flip(0) + gap.flip(0), 3.0 + torch.cat((gap[1:], gap[:1]))
        boxes = torch.stack((left, top, left + wide, top + 4.0 - gap), 1)
        kept = torchvision.ops.batched_nms(boxes, score, torch.arange(gap.numel()), 0.5)
        boxes = boxes[kept]
        cells = (boxes + (0.5 if self.wrong == "rounded" else 0.0)).to(torch.int64).to(gap.dtype)
        cells = cells + (1.0 if self.wrong == "place" else 0.0)
        area = (cells[:, 2] - cells[:, 0]) * cells[:, 3]
        return torch.cat((boxes, area[:, None]), 1)


class Queries(Scores):
    """The best 10 of all positions, as floats in one tensor."""

    def forward(self, x):
        f = self.body(x)
        box = (self.box(f).sigmoid() * 640).flatten(2).transpose(1, 2)
        score, label = self.cls(f).sigmoid().flatten(2).transpose(1, 2).max(-1)
        s, i = score.topk(10, dim=1)
        box = box.gather(1, i[..., None].expand(-1, -1, 4))
        label = label.gather(1, i)
        if self.wrong == "best label wrong":
            label = torch.cat(((label[:, :1] + 1) % 6, label[:, 1:]), 1)
        if self.wrong == "reversed":
            box = box.flip(1)
        if self.wrong == "worst kept":
            s, i = score.topk(10, dim=1, largest=False)
        return torch.cat((box, s[..., None], label[..., None].to(s.dtype)), -1)


class Apart(Scores):
    """The same in three tensors, batch not counted in the first."""

    def forward(self, x):
        f = self.body(x)
        scores = self.cls(f).sigmoid().flatten(1)
        s, i = scores.topk(12, dim=1)
        place = i % (f.shape[2] * f.shape[3])
        if self.wrong == "places":
            place = (place + 1) % (f.shape[2] * f.shape[3])
        box = (self.box(f).sigmoid() * 640).flatten(2).transpose(1, 2)
        box = box.gather(1, place[..., None].expand(-1, -1, 4))
        return {"boxes": box.transpose(0, 1), "scores": s, "labels": i // (f.shape[2] * f.shape[3])}


class Map(Scores):
    """A class for every pixel."""

    def forward(self, x):
        y = self.cls(self.body(x))
        if self.wrong == "bright":
            y = torch.where(x.mean((1, 2, 3), keepdim=True) > 0.3, y.flip(1), y)
        return y.argmax(1)


class Never(Scores):
    """One class wins always, so that only the scores tell."""

    def forward(self, x):
        y = self.cls(self.body(x)).mean((2, 3)) + torch.arange(6).to(x.dtype) * 50
        if self.wrong == "class 0":
            y = torch.cat((y[:, :1] * 2, y[:, 1:]), 1)
        return y.argmax(1)


class Ties(nn.Module):
    """Top-k over ReLU: exact ties."""

    def __init__(self, wrong=""):
        super().__init__()
        torch.manual_seed(1)
        self.head, self.wrong = nn.Linear(16, 64), wrong

    def forward(self, x):
        v, i = self.head(x).relu().topk(40, dim=1)
        if self.wrong == "indices":
            i = torch.cat((i[:, 1:2], i[:, :1], i[:, 2:]), 1)
        return v, i


class Restored(nn.Module):
    """Points in order along one axis, and put back; ranks; and the order of integers."""

    def __init__(self, wrong=""):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.wrong = nn.Linear(16, 32), nn.Linear(32, 6), wrong

    def forward(self, x):
        key = x.reshape(-1, 8, 2)
        descending = key[..., 0].argsort(1, descending=True)
        order = key[..., 1].argsort(1)
        rank = order.argsort(1)
        mask = (descending.argsort(1) < (4 if self.wrong == "mask" else 3)).to(x.dtype)
        y = key.gather(1, order[..., None].expand_as(key)).cumsum(1)
        y = y if self.wrong == "sorted" else y.gather(1, rank[..., None].expand_as(y))
        best, place = x.topk(5, dim=1)
        back = x.scatter(1, place.flip(1) if self.wrong == "flipped" else place, self.a(x)[:, :5] * best)
        label = self.b(self.a(x).relu() * back.mean(1, keepdim=True)).reshape(-1, 3, 2).argmax(2)
        groups = (label + label.sum(1, keepdim=True)).argsort(1)
        return y * mask[..., None], back, y.mean(1).gather(1, groups[:, :2] % 2)


class Mask(Scores):
    """A mask by threshold, and its share."""

    def forward(self, x):
        y = self.cls(self.body(x)).sigmoid()
        mask = y > (0.52 if self.wrong == "threshold" else 0.5)
        return mask, mask.to(y.dtype).mean((2, 3)) + y.mean((2, 3))


class Edge(nn.Module):
    """Where the input is positive; zeros are not."""

    def __init__(self, wrong=""):
        super().__init__()
        torch.manual_seed(1)
        self.head, self.wrong = nn.Linear(16, 4), wrong

    def forward(self, x):
        return x >= 0 if self.wrong else x > 0, self.head(x)


class Picture(Scores):
    """A picture in bytes."""

    def forward(self, x):
        y = (self.cls(self.body(x)).sigmoid() * 255)
        y = y.floor() if self.wrong == "floor" else y.round()
        return y.to(torch.uint8)


class Heads(Scores):
    """A map of features with anchors that do not depend on the input."""

    def __init__(self, wrong=""):
        super().__init__(wrong)
        self.register_buffer("anchors", torch.rand(64, 4) * 32)
        self.register_buffer("order", torch.arange(64))

    def forward(self, x):
        y = self.cls(self.body(x))
        order = self.order.flip(0) if self.wrong == "order" else self.order * 1
        return y, self.anchors * (1.0001 if self.wrong == "anchors" else 1.0), order


def make(kind, wrong=""):
    return globals()[kind](wrong)
'''


class Nets:
    """Exports a network, right or wrong, and judges it against the right one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "nets.py"
        self.done: dict[str, tuple[Path, ParityReport]] = {}
        names = [(kind, wrong) for kind, wrongs in CASES.items() for wrong in ("", *wrongs)]
        factories = "\n".join(
            f"def {_name(kind, wrong)}(): return make({kind!r}, {wrong!r}).eval()" for kind, wrong in names
        )
        self.file.write_text(NETS + "\n" + factories, encoding="utf-8")

    def request(self, kind: str, wrong: str = "") -> ModelRequest:
        shape = "x:batch,16" if kind in ROWS else "x:batch,3,8,8"
        shape = "x:1,3,8,8" if kind == "Detector" else shape
        return ModelRequest(name=f"{self.file}:{_name(kind, wrong)}", inputs=(shape,))

    def export(
        self, kind: str, wrong: str = "", precision: str = "fp32", strategy: str = "trace"
    ) -> tuple[Path, ParityReport]:
        key = f"{_name(kind, wrong)}-{precision}-{strategy}"
        if key not in self.done:
            folder = self.folder / key
            done = export_model(self.request(kind, wrong), artifacts=folder, precision=precision, strategy=strategy)
            self.done[key] = done.artifact.path, done.parity
        return self.done[key]

    def write(self, kind: str, wrong: str) -> Path:
        """Write a file without a verdict of its own."""
        path = self.folder / f"{_name(kind, wrong)}.onnx"
        factories = runpy.run_path(str(self.file))
        example = torch.rand(1 if kind == "Detector" else 2, *((16,) if kind in ROWS else (3, 8, 8)))
        axes = {} if kind == "Detector" else {"x": {0: "batch"}}
        module = factories[_name(kind, wrong)]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (example,), path, input_names=["x"], dynamic_axes=axes, dynamo=False)
        return path

    def judge(self, kind: str, path: Path, precision: str = "fp32") -> ParityReport:
        return check(self.request(kind), onnx=path, precision=precision, artifacts=self.folder / "checked").parity


ROWS = ("Ties", "Edge", "Restored", "Looped", "Cut", "Pasted")

CASES = {
    "Detector": ("best box dropped", "best label wrong", "two boxes swapped"),
    "Queries": ("best label wrong", "reversed", "worst kept"),
    "Looped": ("place", "weights"),
    "Cut": ("place", "weights"),
    "Pasted": ("place", "weights", "rounded"),
    "Apart": ("places",),
    "Map": ("bright",),
    "Never": ("class 0",),
    "Ties": ("indices",),
    "Restored": ("sorted", "mask", "flipped"),
    "Mask": ("threshold",),
    "Edge": ("ge",),
    "Picture": ("floor",),
    "Heads": ("anchors", "order"),
}


def _name(kind: str, wrong: str) -> str:
    return f"{kind}_{wrong}".replace(" ", "_").lower()


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nets]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for networks this small, threads cost more than they save
    yield Nets(tmp_path_factory.mktemp("choices"))
    torch.set_num_threads(threads)


BY_DAY = ("Detector", "Looped", "Pasted", "Map", "Ties", "Mask", "Heads")


@pytest.mark.parametrize("kind", by_day(CASES, *BY_DAY))
def test_right_files_pass_and_wrong_ones_fail(nets: Nets, kind: str) -> None:
    _, right = nets.export(kind, strategy="export" if kind == "Heads" else "trace")
    assert right.verdict == "pass", right.reasons
    assert np.isfinite(right.margin) and right.margin > 1.2
    for wrong in CASES[kind]:
        assert nets.judge(kind, nets.write(kind, wrong)).verdict == "fail", wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Queries", "Picture"])
def test_ties_in_half_precision(nets: Nets, kind: str) -> None:
    _, right = nets.export(kind, precision="fp16")
    assert right.verdict == "pass" and right.margin > 1.2, right.reasons
    wrong = CASES[kind][0]
    path, _ = nets.export(kind, wrong, precision="fp16")
    assert nets.judge(kind, path, "fp16").verdict == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Queries"])
def test_files_of_the_other_exporter(nets: Nets, kind: str) -> None:
    _, right = nets.export(kind, strategy="export")
    assert right.verdict == "pass", right.reasons


def test_scores_behind_a_choice_are_outputs_of_the_report(nets: Nets) -> None:
    _, report = nets.export("Never")
    names = {item.output for item in report.outputs}
    assert any("ArgMax" in name for name in names)


def test_a_constant_in_place_of_a_choice_is_not_a_proof(nets: Nets, tmp_path: Path) -> None:
    """The answer is the same for every probe, and the file has it as a constant."""
    path, _ = nets.export("Never")
    model = onnx.load(str(path))
    node = next(item for item in model.graph.node if item.op_type == "ArgMax")
    score, label = node.input[0], node.output[0]
    model.graph.node.remove(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5]), "five"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    model.graph.node.append(onnx.helper.make_node("Shape", [score], ["shape"], start=0, end=1))
    model.graph.node.append(onnx.helper.make_node("Expand", ["five", "shape"], [label]))
    changed = tmp_path / "constant.onnx"
    onnx.save(model, str(changed))
    assert nets.judge("Never", changed).verdict == "inconclusive"


def test_a_choice_that_guards_a_division_is_not_forced(tmp_path: Path) -> None:
    """Both sides give 1; the side that rounding takes in the file divides 0 by 0 in float64."""

    class Guarded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = torch.nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rest = (x * 3) / 3 - x  # rounding only
            return self.head(x * torch.where(rest > 0, rest / rest, torch.ones_like(x)))

    report = export_model(Guarded(), inputs=torch.randn(2, 12), artifacts=tmp_path)
    (reason,) = report.parity.reasons
    assert report.parity.verdict == "inconclusive" and "rounding decides" in reason


class Counting(torch.nn.Module):
    """Chooses, and counts the calls of all copies."""

    calls = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        Counting.calls += 1
        return x * 2, x.argmax(1)


def test_a_float64_run_on_the_same_values_is_not_repeated() -> None:
    runner = ChoosingRunner(resolve(deploy.module_request(Counting(), torch.zeros(2, 5))), "fp64")
    before = Counting.calls
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    outputs, choices = runner.run({"x": x}), runner.choices
    again = runner.run({"x": x.copy()})
    assert Counting.calls == before + 1 and runner.choices == choices and len(choices) == 1
    assert all(np.array_equal(again[name], value) for name, value in outputs.items())
    runner.follow({"x": x}, choices)
    assert Counting.calls == before + 2, "with the choices of another run"
    x[0, 0] += 1
    assert runner.run({"x": x})["output_0"][0, 0] != outputs["output_0"][0, 0]
    assert Counting.calls == before + 3, "other values"
