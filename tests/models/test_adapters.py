"""Modules that are prepared before they are exported, each by the convention that it follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deploy import export_model, module_request
from deploy.models.resolve import resolve

X = torch.ones(2, 3, 16, 16)


class Detect(nn.Module):
    """A head like those of ultralytics: anchors of the last shape are kept unless ``dynamic`` is set."""

    dynamic = False
    export = False
    format = None

    def __init__(self) -> None:
        super().__init__()
        self.shape: Any = None
        self.anchors = torch.empty(0)
        self.conv = nn.Conv2d(8, 6, 1)

    def forward(self, maps: list[torch.Tensor]) -> Any:
        raw = [self.conv(item) for item in maps]
        if self.dynamic or self.shape != raw[0].shape:
            count = sum(item.shape[2] * item.shape[3] for item in raw)
            self.anchors = torch.arange(count, dtype=raw[0].dtype)
            self.shape = raw[0].shape
        boxes = torch.cat([item.flatten(2) for item in raw], 2).sigmoid() + self.anchors
        return boxes if self.export else (boxes, raw)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = Detect()

    def forward(self, x: torch.Tensor) -> Any:
        first = self.stem(x).relu()
        return self.head([first, self.down(first).relu()])


class Prepared(nn.Module):
    """``export()`` replaces ``forward`` by one with another parameter, as RF-DETR's does."""

    def __init__(self) -> None:
        super().__init__()
        self._export = False
        self.head = nn.Linear(16, 4)

    def export(self) -> None:
        self._export = True
        self.forward = self.forward_export  # type: ignore[method-assign]

    def forward(self, samples: Any) -> Any:
        if float(samples.sum()) > 1e9:
            raise ValueError("too bright")
        return {"boxes": self.head(samples), "aux": [{"boxes": self.head(samples) * 2}]}

    def forward_export(self, tensors: torch.Tensor) -> Any:
        return {"boxes": self.head(tensors)}


class WritesFiles(nn.Module):
    """``export`` has parameters: it is another kind of method."""

    called = 0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def export(self, path: str = "model.onnx") -> None:
        type(self).called += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


class Fails(Prepared):
    def export(self) -> None:
        self.head = nn.Linear(3, 3)
        raise RuntimeError("no export today")

    def forward(self, samples: torch.Tensor) -> Any:
        return self.head(samples)


class Returns(Fails):
    def export(self) -> Any:  # type: ignore[override]
        return "a path"


class OtherValues(Prepared):
    def forward_export(self, tensors: torch.Tensor) -> Any:
        return {"boxes": self.head(tensors) + 1}


class DynamicCache:
    """An object of the name that transformers' caches have."""

    def __init__(self, value: torch.Tensor) -> None:
        self.layers = [value]


class Config:
    use_cache = True


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, past: Any = None) -> Any:
        y = self.head(x)
        return {"logits": y, "keys": y * 2} if self.config.use_cache else {"logits": y}


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return {"y": self.head(x), "past": [DynamicCache(x)]}


class Updating(nn.Module):
    """Takes a dictionary, writes its results into it and returns nothing, as LoFTR does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, data: dict[str, torch.Tensor]) -> None:
        data.update({"left": self.head(data["image0"]), "right": self.head(data["image1"])})


def _model(module: nn.Module, *tensors: torch.Tensor) -> Any:
    torch.manual_seed(0)
    return resolve(module_request(module.eval(), tensors or (torch.ones(2, 16),)))


def test_switches_of_a_head_are_set() -> None:
    given = Detector().eval()
    model = _model(given, X)
    assert model.module.head.export and model.module.head.dynamic and not given.head.export
    assert list(model.call({"x": X})) == ["output"] and any("head" in note for note in model.notes)
    assert torch.equal(model.call({"x": X})["output"], given(X)[0])


@pytest.mark.parametrize("strategy", ["export", "trace"])
def test_a_head_with_switches_passes_at_other_sizes(tmp_path: Path, strategy: str) -> None:
    torch.manual_seed(0)
    request = module_request(Detector().eval(), "x:batch,3,height=16%4,width=20%4")
    report = export_model(request, artifacts=tmp_path, strategy=strategy, probes="quick")
    assert report.verdict == "pass", report.parity.reasons


def test_the_method_of_a_model_prepares_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = Prepared().eval()
    report = export_model(given, inputs=torch.ones(2, 16), artifacts=tmp_path, strategy="export", probes="quick")
    assert report.verdict == "pass", report.parity.reasons
    assert [spec.name for spec in report.artifact.manifest.outputs] == ["boxes"]
    assert any("export()" in note for note in report.notes) and not given._export


def test_the_method_may_be_that_of_a_part() -> None:
    model = _model(nn.Sequential(nn.Linear(16, 16), Prepared()))
    assert model.module[1]._export and list(model.call({"input": torch.ones(2, 16)})) == ["boxes"]


@pytest.mark.parametrize("kind", [Fails, Returns])
def test_a_method_that_fails_changes_nothing(kind: type[Prepared]) -> None:
    model = _model(kind())
    assert not model.module._export and model.module.head.out_features == 4
    assert any("own_export" in note for note in model.notes)


def test_a_method_with_parameters_is_not_called() -> None:
    model = _model(WritesFiles())
    assert WritesFiles.called == 0 and model.notes == ()


def test_other_values_are_said() -> None:
    notes = _model(OtherValues()).notes
    assert len(notes) == 1 and "boxes" in notes[0] and "boxes" not in "".join(_model(Prepared()).notes)


def test_caches_are_not_computed() -> None:
    given = Decoder()
    model = _model(given)
    assert list(model.call({"x": torch.ones(2, 16)})) == ["logits"] and given.config.use_cache
    assert any("use_cache" in note for note in model.notes)


@pytest.mark.parametrize("strategy", ["export", "trace"])
def test_caches_among_the_outputs_are_left_out(tmp_path: Path, strategy: str) -> None:
    torch.manual_seed(0)
    report = export_model(
        Caching().eval(), inputs=torch.ones(2, 16), artifacts=tmp_path, strategy=strategy, probes="quick"
    )
    assert report.verdict == "pass" and [spec.name for spec in report.artifact.manifest.outputs] == ["y"]
    assert any("past.0" in note for note in report.notes)


@pytest.mark.parametrize("strategy", ["export", "trace"])
def test_results_written_into_a_dictionary(tmp_path: Path, strategy: str) -> None:
    torch.manual_seed(0)
    inputs = {"image0": torch.ones(2, 16), "image1": torch.ones(2, 16)}
    report = export_model(Updating().eval(), inputs=inputs, artifacts=tmp_path, strategy=strategy, probes="quick")
    assert report.verdict == "pass", report.parity.reasons
    assert [spec.name for spec in report.artifact.manifest.outputs] == ["left", "right"]
