"""The parity check of an engine at the sizes of its profiles, with ONNX Runtime in place of the engine."""

from pathlib import Path

import pytest

from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import SILENT
from deploy.core.tensors import TensorSpec
from deploy.engines.profiles import profiles_of
from deploy.engines.proof import check_engine, fitting_probes
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve

SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 3, "height", 8))


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        ("1:8:32", {1, 2, 3, 4, 5, 8, 13}),
        ("1:2:2", {1, 2}),
        ("1:1:1", {1}),
        ("8:16:32", {8, 13, 16}),
        ("1:1:1,8:16:32", {1, 8, 13, 16}),
    ],
)
def test_probes_fit_a_profile(batch: str, sizes: set[int]) -> None:
    profiles = profiles_of([SPEC], batch, ["height:8:8:8"])
    probes = fitting_probes([SPEC], {"x": "x"}, {"height": 8}, profiles)
    assert {probe.feeds["x"].shape[0] for probe in probes} == sizes
    assert all(probe.feeds["x"].shape[2] == 8 for probe in probes), "other heights are outside the profile"
    for profile in profiles:
        low, high = profile["x"].min[0], profile["x"].max[0]
        inside = [probe.feeds["x"].shape[0] for probe in probes if low <= probe.feeds["x"].shape[0] <= high]
        assert sum(inside) >= 3, "each profile is checked on enough samples"


def test_without_profiles_every_probe_is_run() -> None:
    fixed = SPEC.bind({"batch": 1, "height": 8})
    assert fitting_probes([fixed], {"x": "x"}, {}, ())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_rules_are_those_of_an_export(store: Path, nets: Path, precision: str) -> None:
    request = ModelRequest(name=f"{nets}:small", inputs=("x:batch,3,8,8",))
    path = export_model(request, artifacts=store, strategy="trace", precision=precision).artifact.path
    model = resolve(request, SILENT)
    with IsolatedRunner("onnxruntime") as runner:
        runner.open(path)
        profiles = profiles_of(runner.inputs, "2:4:4", [])
        report = check_engine(model, runner, profiles, precision, SILENT)
        assert report.verdict == "pass" and set(report.dynamic["batch"]) == {2, 3, 4}
        model.module.conv1.weight.data *= 1.01
        assert check_engine(model, runner, profiles, precision, SILENT).verdict == "fail"
