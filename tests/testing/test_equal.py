"""`deploy.testing.assert_equal_to_model`, and `deploy.export` of modules as users hold them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

import deploy


def net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    with torch.no_grad():
        module[0].weight[0, 0] = 3  # trained, as far as can be seen
    return module


X = torch.zeros(2, 8)


def test_equal_and_not_equal(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    artifact = deploy.testing.write_export(path, net(), X, strategy="trace")
    assert artifact.path == path
    artifact.verify()
    for file in (path, str(path), artifact):
        report = deploy.testing.assert_equal_to_model(file, net(), X, probes="quick")
        assert report.verdict == "pass"
    deploy.testing.assert_equal_to_model(path, net(), probes="quick")  # the manifest has the inputs
    with pytest.raises(AssertionError, match=r"fail(.|\n)*output|logits"):
        deploy.testing.assert_equal_to_model(path, net(1), X, probes="quick")
    with pytest.raises(AssertionError, match="not written"):
        deploy.testing.write_export(path, torch.nn.Sequential(torch.nn.Linear(8, 3), Zero()), X, strategy="trace")
    artifact.verify()
    with pytest.raises(deploy.ArtifactError):
        deploy.testing.assert_equal_to_model(tmp_path / "none.onnx", net(), X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    torch.onnx.export(net().eval(), (X,), path, input_names=["x"], dynamo=False, dynamic_axes={"x": {0: "n"}})
    deploy.testing.assert_equal_to_model(path, net(), {"input": X}, probes="quick")
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Sigmoid"
    onnx.save(model, path)
    with pytest.raises(AssertionError):
        deploy.testing.assert_equal_to_model(path, net(), {"input": X}, probes="quick")


class Zero(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


class Lightning(torch.nn.Module):
    """A module of the shape of a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 8)
        self.net = net()
        self.log: list[str] = []

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.log.append(f"step {index}")
        return self(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


def test_a_lightning_module_and_a_compiled_one(tmp_path: Path) -> None:
    module = Lightning()
    report = deploy.export(module, name="lit", artifacts=str(tmp_path), strategy="trace", probes="quick")
    assert report.verdict == "pass" and report.artifact.path == tmp_path / "lit" / "lit.fp32.onnx"
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    compiled = torch.compile(net())
    again = deploy.export(compiled, X, name="compiled", artifacts=tmp_path, strategy="trace", probes="quick")  # type: ignore[arg-type]
    assert again.verdict == "pass"
    deploy.testing.assert_equal_to_model(again.artifact, net(), probes="quick")


def test_named_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Conv2d(1, 2, 3)
    torch.nn.init.normal_(module.weight)
    image = torch.zeros(2, 1, 8, 8)
    axes = {"input": {2: "height", -1: "width"}}
    report = deploy.export(
        module, image, name="conv", dynamic=axes, artifacts=tmp_path, strategy="trace", probes="quick"
    )
    assert report.verdict == "pass" and report.artifact.manifest.inputs[0].shape == ("batch", 1, "height", "width")
    fixed = deploy.export(module, image, name="fixed", dynamic=[], artifacts=tmp_path, strategy="trace", probes="quick")
    assert fixed.artifact.manifest.inputs[0].shape == (1, 1, 8, 8)
    for wrong in ({"y": {0: "n"}}, {"input": {7: "n"}}):
        with pytest.raises(deploy.InputSpecError):
            deploy.export(module, image, dynamic=wrong, artifacts=tmp_path)


@pytest.mark.parametrize(
    ("module", "fresh"),
    [
        (torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Linear(64, 64)), True),
        (torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.LayerNorm(64)), True),
        (net(), False),
        (torch.nn.Sequential(torch.nn.ReLU()), False),
    ],
)
def test_untrained_weights_warn(module: torch.nn.Module, fresh: bool, tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deploy.export(module, X, artifacts=tmp_path, strategy="trace", probes="quick")
    assert any("UNTRAINED" in str(item.message) for item in caught) is fresh


def test_reports_in_one_line(tmp_path: Path) -> None:
    report = deploy.export(net(), X, name="net", artifacts=tmp_path, strategy="trace", probes="quick")
    checked = deploy.check(net(), onnx=report.artifact, probes="quick")
    for item in (report, checked, deploy.verify(tmp_path), deploy.inspect(report.artifact)):
        assert len(repr(item)) < 300 and "\n" not in repr(item), repr(item)
    for item in (report, checked):
        assert "pass" in repr(item) and str(report.artifact.path) in repr(item) and "margin" in repr(item)


def test_the_package_lists_its_names() -> None:
    names = dir(deploy)
    assert {"export", "testing", "__version__", "__doc__", *deploy.__all__} <= set(names)
    assert all(getattr(deploy, name) is not None for name in ("export", "testing"))
