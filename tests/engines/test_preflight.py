"""`deploy trt preflight`, as typed: where an engine will run, from its manifest and the library."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.core.artifact import manifest_path
from deploy.core.checked import dump_checked, load_checked
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def artifacts(lenet5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 with an engine for all GPUs, and one for two."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from deploy.engines.build import build_engine
    from deploy.engines.request import BuildRequest

    root = tmp_path_factory.mktemp("preflight") / "artifacts"
    shutil.copytree(lenet5, root)
    for name, capabilities in (("all", ()), ("two", ("8.6", "8.9"))):
        request = BuildRequest(model="lenet5", name=name, runtime="tensorrt-rtx", compute_capabilities=capabilities)
        build_engine(request, artifacts=root)
    return root


def test_where_an_engine_runs(run: Run, artifacts: Path) -> None:
    everywhere, two = (next((artifacts / name).glob("*.engine")) for name in ("all", "two"))
    found = run("trt", "preflight", everywhere, "--json")
    assert found.code == 0 and {"8.6", "8.9", "12.0"} <= set(found.json["capabilities"]), found.err
    assert found.json["library"].startswith("tensorrt-rtx ") and found.json["gpu"] is None
    assert found.json["cuda"] in ("12.0", "13.0")
    assert run("trt", "preflight", two, "--json").json["capabilities"] == ["8.6", "8.9"]
    assert run("trt", "preflight", two, "--compute-capability", "8.9").code == 0
    for engine, asked, missing in ((two, "8.9,12.0", ["12.0"]), (everywhere, "9.0", ["9.0"])):
        refused = run("trt", "preflight", engine, "--compute-capability", asked, "--json")
        assert refused.code == 3 and refused.json["missing"] == missing


def test_an_engine_of_another_version_or_without_a_manifest(run: Run, artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "all", tmp_path / "all")
    (engine,) = (tmp_path / "all").glob("*.engine")
    beside = manifest_path(engine)
    content = load_checked(beside.read_text())
    content["options"]["version"] = "1.0"
    beside.write_text(dump_checked(content))
    found = run("trt", "preflight", engine, "--json")
    assert found.code == 0 and found.json["capabilities"] == [] and found.json["cuda"] is None
    assert "1.0" in found.json["here"]
    assert run("trt", "preflight", engine, "--compute-capability", "8.9").code == 3, "not known is not yes"
    beside.unlink()
    assert run("trt", "preflight", engine).code not in (0, 3)
