"""The contract of a backend, checked with every declared backend that can run on this machine.

A backend that cannot run here (TensorRT without a GPU) must refuse to open a file with a typed error.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.core.backend import ONNX, Backend, RunSettings, backends
from deploy.core.errors import ArtifactError, BackendError, DeployError, UsageError
from deploy.core.model import Model, Weights
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support.cuda_driver import gpus
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

INSTALLED = {name: backend for name, backend in backends().items() if backend.installed}
RUNS_HERE = {
    name: backend
    for name, backend in INSTALLED.items()
    if ("cpu" in backend.devices or gpus()) and (ONNX in backend.formats or not backend.runs_files)
}
SETTINGS = {
    "default": RunSettings(),
    "one thread": RunSettings(threads=1),
    "low memory": RunSettings(low_memory=True),
    "shared cores": RunSettings(shared_cores=True),
    "no fusion": RunSettings(fusion=False),
}


class Scale(torch.nn.Module):
    """Multiplies by a scalar input; its second output has no rows."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x * scale
        return {"y": y, "none": y[:0]}


def _expected(feeds: Feeds) -> Fetches:
    y = np.asarray(feeds["x"] * feeds["scale"])
    return {"y": y, "none": y[:0]}


def _feeds(batch: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
    return {"x": x, "scale": np.array(1.5, np.float32)}


def _save_onnx(path: Path) -> Path:
    value = helper.make_tensor_value_info
    rows = [numpy_helper.from_array(np.array([0]), name) for name in ("start", "end", "axis")]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["y"], name="mul"),
            helper.make_node("Slice", ["y", "start", "end", "axis"], ["none"], name="slice"),
        ],
        "scale",
        [value("x", TensorProto.FLOAT, ["batch", 3]), value("scale", TensorProto.FLOAT, [])],
        [value("y", TensorProto.FLOAT, ["batch", 3]), value("none", TensorProto.FLOAT, ["rows", 3])],
        rows,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _model() -> Model:
    return Model(
        name="scale",
        slug="scale",
        module=Scale().eval(),
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", 3)),
            TensorSpec(name="scale", dtype="float32", shape=()),
        ),
        sizes={"batch": 2},
        weights=Weights(source="none", trained=False),
    )


def _open(backend: Backend, tmp_path: Path, **options: Any) -> Runner:
    module = importlib.import_module(backend.runner)
    if not backend.runs_files:
        opened: Runner = module.from_model(_model(), **options)
    else:
        opened = module.open(_save_onnx(tmp_path / "scale.onnx"), **options)
    return opened


def _close_to(found: Fetches, expected: Fetches) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert isinstance(found[name], np.ndarray) and found[name].dtype == value.dtype, name
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name, strict=True)


def _launched(runner: Runner, feeds: Feeds) -> Fetches:
    runner.bind(feeds)
    runner.launch()
    runner.synchronize()
    return runner.fetch()


COMPILES = "torch-aot"
"""Compiles for every shape that it is given, for seconds: most of its tests run at night."""


@pytest.fixture(params=by_day(RUNS_HERE, *(set(RUNS_HERE) - {COMPILES})))
def backend(request: pytest.FixtureRequest) -> Backend:
    return RUNS_HERE[request.param]


def test_the_default_backends_run_here() -> None:
    assert {"torch", "onnxruntime"} <= set(RUNS_HERE)


@pytest.mark.parametrize("backend", backends().values(), ids=backends())
def test_the_declaration_matches_the_runner(backend: Backend) -> None:
    assert backend.title and backend.packages and backend.modules and backend.install
    assert {"fp32"} <= set(backend.precisions) and set(backend.default_for) <= set(backend.formats)
    if not backend.installed:
        pytest.skip(f"{backend.title} is not installed: pip install {backend.install}")
    module = importlib.import_module(backend.runner)
    assert callable(getattr(module, "open" if backend.runs_files else "from_model"))
    assert hasattr(module, "profile" if backend.runs_files else "profile_model") == backend.profiler


@pytest.mark.parametrize("backend", INSTALLED.values(), ids=INSTALLED)
def test_an_unknown_option_is_refused_by_name(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_option"):
        _open(backend, tmp_path, no_such_option=1)


def test_an_option_of_the_wrong_type_is_refused_by_name(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads"):
        _open(backend, tmp_path, threads="two")


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_is_an_option_of_the_runner(backend: Backend, settings: RunSettings, tmp_path: Path) -> None:
    with _open(backend, tmp_path, **backend.options(settings)) as runner:
        _close_to(runner.run(_feeds(2)), _expected(_feeds(2)))


@pytest.mark.skipif(COMPILES not in RUNS_HERE, reason="no AOTInductor here")
def test_a_backend_that_compiles_runs(tmp_path: Path) -> None:
    with _open(RUNS_HERE[COMPILES], tmp_path) as runner:
        _close_to(_launched(runner, _feeds(2)), _expected(_feeds(2)))


def test_bind_launch_synchronize_and_fetch_equal_run(backend: Backend, tmp_path: Path) -> None:
    with _open(backend, tmp_path) as runner:
        for batch in (2, 2, 5):
            feeds = _feeds(batch)
            at_once, launched = runner.run(feeds), _launched(runner, feeds)
            _close_to(at_once, _expected(feeds))
            for name, value in at_once.items():
                np.testing.assert_array_equal(launched[name], value, err_msg=name, strict=True)


def test_fetched_outputs_do_not_change_with_the_next_run(backend: Backend, tmp_path: Path) -> None:
    with _open(backend, tmp_path) as runner:
        first = _launched(runner, _feeds(2))
        other = {**_feeds(2), "scale": np.array(-7, np.float32)}
        _launched(runner, other)
        runner.run(other)
        _close_to(first, _expected(_feeds(2)))


def test_inputs_that_are_not_contiguous(backend: Backend, tmp_path: Path) -> None:
    feeds = _feeds(3)
    feeds["x"] = np.asfortranarray(np.repeat(feeds["x"], 2, axis=1))[:, ::2]
    with _open(backend, tmp_path) as runner:
        _close_to(runner.run(feeds), _expected(feeds))
        _close_to(_launched(runner, feeds), _expected(feeds))


@pytest.mark.parametrize("launch", [False, True], ids=["run", "launch"])
def test_a_batch_of_zero_works_or_is_refused(backend: Backend, launch: bool, tmp_path: Path) -> None:
    feeds = _feeds(0)
    with _open(backend, tmp_path) as runner:
        try:
            found = _launched(runner, feeds) if launch else runner.run(feeds)
        except BackendError:
            found = None
        if found is not None:
            _close_to(found, _expected(feeds))
        _close_to(runner.run(_feeds(2)), _expected(_feeds(2)))


@pytest.mark.parametrize("launch", [False, True], ids=["run", "launch"])
@pytest.mark.parametrize(
    "feeds",
    [
        {"x": np.zeros((2, 4, 5), np.float32), "scale": np.zeros((2, 7), np.float32)},
        {"x": np.zeros((2, 3), np.float32)},
    ],
    ids=["wrong shapes", "missing input"],
)
def test_inputs_that_do_not_fit_are_refused(backend: Backend, feeds: Feeds, launch: bool, tmp_path: Path) -> None:
    with _open(backend, tmp_path) as runner:
        with pytest.raises(DeployError):
            _launched(runner, feeds) if launch else runner.run(feeds)
        _close_to(runner.run(_feeds(2)), _expected(_feeds(2)))


def test_closing_twice_is_allowed(backend: Backend, tmp_path: Path) -> None:
    runner = _open(backend, tmp_path)
    runner.close()
    runner.close()


@pytest.mark.parametrize("name", [name for name, item in INSTALLED.items() if item.runs_files])
def test_a_file_that_is_no_model_is_refused(name: str, tmp_path: Path) -> None:
    """A backend that cannot run here refuses the file too, with an error of the same classes."""
    module = importlib.import_module(INSTALLED[name].runner)
    bad = tmp_path / "bad.file"
    bad.write_bytes(b"not a model")
    for path in (bad, tmp_path / "missing.file"):
        with pytest.raises((BackendError, ArtifactError), match=path.name):
            module.open(path)


@pytest.mark.parametrize("backend", [item for item in RUNS_HERE.values() if item.profiler], ids=lambda item: item.name)
def test_a_profile_names_the_operators(backend: Backend, tmp_path: Path) -> None:
    module = importlib.import_module(backend.runner)
    if backend.runs_files:
        rows = module.profile(_save_onnx(tmp_path / "scale.onnx"), _feeds(2), 3)
    else:
        rows = module.profile_model(_model(), _feeds(2), 3)
    assert rows
    for row in rows:  # a runtime's clock may give 0 ns for a single layer
        assert set(row) == {"layer", "operator", "arithmetic", "ns"} and row["ns"] >= 0
    assert sum(row["ns"] for row in rows) > 0
