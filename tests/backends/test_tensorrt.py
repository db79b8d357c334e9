"""The TensorRT backend: refusals on every machine, runs on a machine with a GPU."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from deploy.backends.tensorrt.runner import open
from deploy.core.artifact import Artifact, manifest_path
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, BackendError, DigestError, UnknownNameError, UsageError
from deploy.core.progress import SILENT
from deploy.engines.build import build_engine
from deploy.engines.convert import convert
from deploy.engines.request import BuildRequest
from deploy.support.cuda_driver import gpus

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: it has wheels for Linux x86-64")
RUNTIMES = ["tensorrt-rtx", "tensorrt"]


@pytest.fixture
def engine(store: Path) -> Path:
    """LeNet-5, untrained, by TensorRT for RTX."""
    export = convert("lenet5", artifacts=store, strategy="trace").export
    request = BuildRequest(model=export.artifact.path, runtime="tensorrt-rtx", batch="1:1:4,5:8:16")
    return build_engine(request, artifacts=store, progress=SILENT).artifact.path


def test_refused_before_the_engine_is_deserialized(engine: Path) -> None:
    data, manifest = engine.read_bytes(), manifest_path(engine).read_text(encoding="utf-8")
    engine.write_bytes(data[:-1])
    with pytest.raises(DigestError):
        open(engine)
    engine.write_bytes(data)
    version = Artifact.open(engine).manifest.options["version"]
    other = dump_checked(json.loads(manifest.replace(f'"version": "{version}"', '"version": "1.0"')))
    manifest_path(engine).write_text(other, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"tensorrt-rtx 1\.0.*deploy trt build"):
        open(engine)
    manifest_path(engine).unlink()
    with pytest.raises(ArtifactError, match=engine.name):
        open(engine)


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_gpu(engine: Path) -> None:
    with pytest.raises(BackendError, match="GPU"):
        open(engine)


def test_an_unknown_option_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="cuda_graph"):
        open(tmp_path / "missing.engine", cuda_graph=True)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu(store: Path, runtime: str, graph: bool) -> None:
    pytest.importorskip(runtime.replace("-", "_"))
    export = convert("lenet5", artifacts=store, strategy="trace").export
    request = BuildRequest(model=export.artifact.path, runtime=runtime, batch="1:1:4,5:8:16")
    path = build_engine(request, artifacts=store).artifact.path
    session = ort.InferenceSession(str(export.artifact.path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    with open(path, graph=graph) as runner:
        for size in (1, 8, 8, 3, 16):
            feeds = {"input": rng.standard_normal((size, 1, 32, 32)).astype(np.float32)}
            expected = session.run(None, feeds)[0]
            np.testing.assert_allclose(runner.run(feeds)["logits"], expected, rtol=1e-4, atol=1e-5)
            runner.bind(feeds)
            for _ in range(3):
                runner.launch()
            runner.synchronize()
            np.testing.assert_allclose(runner.fetch()["logits"], expected, rtol=1e-4, atol=1e-5)
            assert runner.device_ns() > 0
        with pytest.raises(BackendError, match="17×1×32×32"):
            runner.run({"input": np.zeros((17, 1, 32, 32), np.float32)})
    with pytest.raises(UsageError, match="device"):
        open(path, device=torch.cuda.device_count())


@pytest.mark.gpu
def test_a_runtime_cache_is_written_and_read(engine: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kernels.cache"
    feeds = {"input": np.ones((2, 1, 32, 32), np.float32)}
    with open(engine, runtime_cache=str(cache)) as runner:
        first = runner.run(feeds)["logits"]
    assert cache.stat().st_size
    with open(engine, runtime_cache=str(cache)) as runner:
        np.testing.assert_array_equal(runner.run(feeds)["logits"], first)
    cache.write_bytes(b"no cache")
    with pytest.raises(BackendError, match=r"kernels\.cache"):
        open(engine, runtime_cache=str(cache))
