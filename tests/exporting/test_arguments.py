"""Every input of ``--input`` reaches the parameter of ``forward`` that is meant, with both strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deploy import InputSpecError, ModelRequest, export_model
from tests.exporting._judge import Call, export, judge  # type: ignore[import-not-found,unused-ignore]

NETS = '''
from typing import Dict, Tuple
import torch
from torch import nn, Tensor


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Linear(8, 4), nn.Linear(6, 4)

    def both(self, x, y):
        return self.a(x).tanh() + self.b(y)


class Second(Base):
    def forward(self, raw=None, a=None, b=None):
        return self.both(raw if a is None else a * 2, b)


class KeywordOnly(Base):
    def forward(self, *, b, a):
        return self.both(a, b)


class Several(Base):
    def forward(self, *features):
        return self.both(features[0], features[1])


class FirstAndSeveral(Base):
    def forward(self, first, *rest, scale=3.0):
        return self.both(first, rest[0]) * scale


class Listed(Base):
    def forward(self, features):
        return self.both(features[0], features[1])


class Unpacked(Base):
    def forward(self, features: Tuple[Tensor, Tensor]):
        assert isinstance(features, tuple)
        return self.both(*features)


class Batch(Base):
    def forward(self, batch: "dict[str, torch.Tensor]", scale=2.0):
        return self.both(batch["a"], batch["b"]) * scale


class Unannotated(Base):
    def forward(self, batch):
        return self.both(batch["a"], batch["b"])


class Mixed(Base):
    def forward(self, items: list, b=None):
        return self.both(items[0], b)


class AnyName(Base):
    def forward(self, **inputs):
        return self.both(inputs["a"], inputs["b"])


class PositionalOnly(Base):
    def forward(self, skipped=None, a=None, b=None, /):
        return self.both(a, b) if skipped is None else skipped


class Swapped(Base):
    """Names that agree, in another order than --input."""

    def forward(self, b, a):
        return self.both(a, b)


class OtherNames(Base):
    def forward(self, left, right, flag=True):
        return self.both(left, right) if flag else left
'''

INPUTS = ("a:batch,8", "b:batch,6")
CASES: dict[str, tuple[Call, str]] = {
    "Second": (lambda net, t: net(a=t["a"], b=t["b"]), ""),
    "KeywordOnly": (lambda net, t: net(**t), ""),
    "Several": (lambda net, t: net(t["a"], t["b"]), ""),
    "FirstAndSeveral": (lambda net, t: net(t["a"], t["b"]), "first"),
    "Listed": (lambda net, t: net([t["a"], t["b"]]), "list"),
    "Unpacked": (lambda net, t: net((t["a"], t["b"])), "tuple"),
    "Batch": (lambda net, t: net(dict(t)), "dict"),
    "Unannotated": (lambda net, t: net(dict(t)), "dict"),
    "Mixed": (lambda net, t: net([t["a"]], b=t["b"]), "list"),
    "AnyName": (lambda net, t: net(**t), ""),
    "PositionalOnly": (lambda net, t: net(None, t["a"], t["b"]), ""),
    "Swapped": (lambda net, t: net(t["b"], t["a"]), ""),
    "OtherNames": (lambda net, t: net(t["a"], t["b"]), "position"),
}


def nets() -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "nets"}
    exec(compile(NETS, "nets.py", "exec"), space)
    return space


EXPORTED = ("Second", "KeywordOnly", "Several", "Batch")
"""Cases for torch.export too, which takes longer."""


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *((name, "trace") for name in CASES),
        *((name, "export") for name in ("Second", "KeywordOnly", "Several", "Batch")),
    ],
)
def test_inputs_reach_their_parameters(tmp_path: Path, name: str, strategy: str) -> None:
    call, note = CASES[name]
    report = export(tmp_path, NETS, name, INPUTS, strategy=strategy)
    assert report.verdict == "pass" and report.strategy == strategy
    assert [spec.name for spec in report.artifact.manifest.inputs] == ["a", "b"]
    judge(report, nets()[name](), lambda net, tensors: [call(net, tensors)])
    assert note in " ".join(report.notes) if note else not report.notes


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("KeywordOnly", ("a:batch,8",)),
        ("OtherNames", ("a:batch,8",)),
        ("Swapped", (*INPUTS, "c:batch,2")),
        ("OtherNames", (*INPUTS, "c:batch,2", "d:batch,2")),
    ],
)
def test_a_wrong_number_of_inputs_names_the_parameters(tmp_path: Path, name: str, inputs: tuple[str, ...]) -> None:
    with pytest.raises(InputSpecError, match=r"forward\(.*(right|b)"):
        export(tmp_path, NETS, name, inputs)


class Program(torch.nn.Module):
    """Nested inputs, a number, None, keywords; a dictionary with None and numbers out."""

    def __init__(self, sizes: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.sizes = sizes
        self.a = torch.nn.Linear(8, 4)

    def forward(self, tree: Any, scale: int, *, shift: Any, unused: Any = None) -> Any:
        y = self.a(tree["x"]) * scale + shift - tree["items"][0]
        rows = {"rows": y.shape[0]} if self.sizes else {}  # tracing makes it a constant, which the check finds
        return {"y": y, "none": None, **rows, "three": 3}, y * 2


@pytest.mark.parametrize("strategy", ["export", "trace"])
def test_an_exported_program_is_called_as_it_was_exported(tmp_path: Path, strategy: str) -> None:
    net = Program(sizes=strategy == "export").eval()
    tree = {"x": torch.rand(2, 8), "items": [torch.rand(2, 4)]}
    rows = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        net,
        (tree, 3),
        {"shift": torch.rand(2, 4), "unused": None},
        dynamic_shapes=({"x": rows, "items": [rows]}, None, rows, None),
    )
    torch.export.save(program, tmp_path / "nested.pt2")
    request = ModelRequest(name=str(tmp_path / "nested.pt2"))
    report = export_model(request, artifacts=tmp_path / "artifacts", strategy=strategy)
    assert report.verdict != "fail"

    def call(module: Any, t: Any) -> list[Any]:
        x, item, shift = t.values()
        out, double = module({"x": x, "items": [item]}, 3, shift=shift)
        return [value for value in (*out.values(), double) if value is not None]

    judge(report, net, call)
