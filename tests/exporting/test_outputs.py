"""Everything that ``forward`` may return, under the same names with both strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy import ModelError, check, export_model, module_request
from deploy.core.errors import UnknownNameError
from tests.exporting._judge import export, feeds, judge, run  # type: ignore[import-not-found,unused-ignore]

NETS = """
import collections, dataclasses, typing
import torch
from torch import nn


@dataclasses.dataclass
class Inner:
    hidden: tuple
    loss: typing.Optional[torch.Tensor] = None


@dataclasses.dataclass
class Outer:
    logits: torch.Tensor
    inner: typing.Optional[Inner] = None
    maps: typing.Any = None


class Pair(typing.NamedTuple):
    left: torch.Tensor
    right: list


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 4)
        self.register_buffer("anchors", torch.rand(3, 4))

    def forward(self, x):
        return self.result(x, self.a(x).relu())


class Classes(Base):
    def result(self, x, h):
        return Outer(self.b(h), Inner((h, h * 2)), {"norm": h.norm(dim=1), "none": None})


class ListOfClasses(Base):
    def result(self, x, h):
        return [Inner((h,)), None, Inner((self.b(h),), h.mean(1))]


class Named(Base):
    def result(self, x, h):
        return Pair(h, [self.b(h), {"twice": h * 2}])


class Ordered(Base):
    def result(self, x, h):
        return collections.OrderedDict(out=self.b(h), aux=(h, None))


class Constants(Base):
    def result(self, x, h):
        return {"y": self.b(h), "anchors": self.anchors, "scale": 0.5, "steps": 3, "flag": True}


class Sizes(Base):
    def result(self, x, h):
        return self.b(h), x.shape[0], x.shape[0] * x.shape[1]


class Repeated(Base):
    def result(self, x, h):
        y = self.b(h)
        return {"y": y, "again": y, "x": x, "input": x}


class Nested(Base):
    def result(self, x, h):
        return ([self.b(h)],)


class Text(Base):
    def result(self, x, h):
        return {"y": h, "kind": "cat"}


class Nothing(Base):
    def result(self, x, h):
        return {"y": None}


class Collision(Base):
    def result(self, x, h):
        return {"a": {"b": h}, "a.b": h}
"""

CASES: dict[str, tuple[list[str], Any]] = {
    "Classes": (
        ["logits", "inner.hidden.0", "inner.hidden.1", "maps.norm"],
        lambda out: [out.logits, *out.inner.hidden, out.maps["norm"]],
    ),
    "ListOfClasses": (
        ["output_0.hidden.0", "output_2.hidden.0", "output_2.loss"],
        lambda out: [*out[0].hidden, *out[2].hidden, out[2].loss],
    ),
    "Named": (["left", "right.0", "right.1.twice"], lambda out: [out.left, out.right[0], out.right[1]["twice"]]),
    "Ordered": (["out", "aux.0"], lambda out: [out["out"], out["aux"][0]]),
    "Constants": (["y", "anchors", "scale", "steps", "flag"], lambda out: list(out.values())),
    "Sizes": (["output_0", "output_1", "output_2"], list),
    "Repeated": (["y", "again", "x_out", "input"], lambda out: list(out.values())),
    "Nested": (["logits"], lambda out: out[0]),
}

EXPORTED = ("Classes", "Constants", "Sizes", "Repeated")
"""Cases for torch.export too, which takes longer."""


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *((name, "trace") for name in CASES),
        *((name, "export") for name in ("Classes", "Constants", "Sizes", "Repeated")),
    ],
)
def test_outputs_are_flattened(tmp_path: Path, name: str, strategy: str) -> None:
    names, flatten = CASES[name]
    report = export(tmp_path, NETS, name, ("x:batch,8",), strategy=strategy)
    assert report.verdict != "fail" and report.strategy == strategy, report.parity.reasons
    space: dict[str, Any] = {"__name__": "nets"}
    exec(compile(NETS, "nets.py", "exec", dont_inherit=True), space)
    outputs = judge(report, space[name](), lambda net, tensors: flatten(net(tensors["x"])))
    assert list(outputs) == names


def test_numbers_keep_their_kind(tmp_path: Path) -> None:
    report = export(tmp_path, NETS, "Constants", ("x:batch,8",), strategy="trace")
    outputs = run(report, feeds(report))
    kinds = {name: value.dtype for name, value in outputs.items() if name in ("scale", "steps", "flag")}
    assert kinds == {"scale": np.float32, "steps": np.int64, "flag": np.bool_}


@pytest.mark.parametrize(("name", "place"), [("Text", "kind"), ("Nothing", "dict"), ("Collision", r"a\.b")])
def test_other_results_are_refused(tmp_path: Path, name: str, place: str) -> None:
    with pytest.raises(ModelError, match=place):
        export(tmp_path, NETS, name, ("x:batch,8",))


def test_outputs_are_chosen_and_recorded(nets: Path, run: Any, store: Path) -> None:
    given = (f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6")
    done = run("export", *given, "--outputs", "sum", "--strategy", "trace", "--probes", "quick", "--json")
    assert done.code == 0 and [item["name"] for item in done.json["outputs"]] == ["sum"], done.err
    assert run("check", "--probes", "quick").code == 0
    assert run("check", f"{nets}:two", "--probes", "quick").code == 0
    other = run("check", f"{nets}:two", "--outputs", "gate", "--probes", "quick", "--json")
    assert other.code == 3, other.out


def test_an_unknown_output_is_refused_with_the_others(nets: Path, run: Any) -> None:
    given = (f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6")
    done = run("export", *given, "--outputs", "sum,gates", "--json")
    assert done.code == 2 and "gate" in done.json["error"]["message"] and "sum" in done.json["error"]["hint"]


def test_outputs_of_a_module_in_memory(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "nets"}
    exec(compile(NETS, "nets.py", "exec", dont_inherit=True), space)
    module, x = space["Named"](), torch.ones(2, 8)
    report = export_model(module, inputs=x, outputs=["right.1.twice"], artifacts=tmp_path, strategy="trace")
    assert report.verdict == "pass", report.parity.reasons
    assert [spec.name for spec in report.artifact.manifest.outputs] == ["right.1.twice"]
    assert check(module_request(module), artifacts=tmp_path, probes="quick").parity.verdict == "pass"
    with pytest.raises(UnknownNameError):
        export_model(module, inputs=x, outputs=["middle"], artifacts=tmp_path, strategy="trace")
