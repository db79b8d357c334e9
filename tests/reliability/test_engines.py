"""Engines contain code: a changed one, or one for another library, GPU or graph, is refused before it is opened."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from deploy.backends.tensorrt.runner import open as open_engine
from deploy.core.artifact import manifest_path
from deploy.core.checked import dump_checked, load_checked
from deploy.core.errors import ArtifactError, BackendError, DigestError
from deploy.support.cuda_driver import Gpu, gpus
from deploy.support.engine_file import read_engine, refusal
from deploy.support.tensorrt_library import open_library

FLIPS, CUTS = 200, 8


@pytest.fixture(scope="module")
def built(lenet5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real engine for Ada GPUs, built here."""
    from deploy.cli.main import main

    root = tmp_path_factory.mktemp("engine") / "artifacts"
    shutil.copytree(lenet5, root)
    words = ("trt", "build", "lenet5", "--runtime", "tensorrt-rtx", "--compute-capability", "8.9")
    with pytest.raises(SystemExit) as ended:
        main(["--artifacts", str(root), "-q", *words])
    assert not ended.value.code
    (path,) = root.glob("*/*.engine")
    return path


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A copy, with its manifest and graph."""
    shutil.copytree(built.parent, tmp_path / "lenet5")
    return tmp_path / "lenet5" / built.name


def test_a_sound_one_is_opened_or_lacks_a_gpu_only(engine: Path) -> None:
    if gpus():
        pytest.skip("with a GPU: tests/backends/test_tensorrt.py")
    with pytest.raises(BackendError, match="NVIDIA GPU") as refused:
        open_engine(engine)
    assert not isinstance(refused.value, DigestError)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_byte(built: Path, seed: int) -> None:
    chance = random.Random(seed)
    before = built.read_bytes()
    after, place = bytearray(before), chance.randrange(len(before))
    after[place] ^= chance.randrange(1, 256)
    try:
        built.write_bytes(after)
        with pytest.raises(DigestError, match=r"\.engine: "):
            open_engine(built)
    finally:
        built.write_bytes(before)


@pytest.mark.parametrize("seed", range(CUTS))
def test_a_truncated_one(engine: Path, seed: int) -> None:
    data = engine.read_bytes()
    engine.write_bytes(data[: random.Random(seed).randrange(len(data))])
    with pytest.raises(DigestError, match=r"\.engine: "):
        open_engine(engine)


def test_without_a_manifest(engine: Path) -> None:
    manifest_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"\.engine: "):
        open_engine(engine)


def test_with_a_manifest_that_was_changed(engine: Path) -> None:
    beside = manifest_path(engine)
    beside.write_text(beside.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))
    with pytest.raises(DigestError, match=r"\.engine\.json: "):
        open_engine(engine)


def test_of_another_version(engine: Path) -> None:
    beside = manifest_path(engine)
    content = load_checked(beside.read_text())
    content["options"]["version"] = "1.0"
    beside.write_text(dump_checked(content))
    with pytest.raises(ArtifactError, match=r"built with tensorrt-rtx 1\.0, found .*, rebuild with: deploy trt build"):
        open_engine(engine)


def test_of_another_graph(engine: Path) -> None:
    (graph,) = engine.parent.glob("*.onnx")
    graph.write_bytes(graph.read_bytes() + b"\0")
    said = refusal(read_engine(engine), open_library("tensorrt-rtx"), None)
    assert said is not None and "built with lenet5.fp32.onnx of digest" in said
    with pytest.raises(ArtifactError, match="rebuild with: deploy trt build"):
        open_engine(engine)


def test_for_another_gpu(engine: Path) -> None:
    artifact = read_engine(engine)
    library = open_library("tensorrt-rtx")
    turing = Gpu(name="NVIDIA T4", capability="7.5", cuda="13.0")
    said = refusal(artifact, library, turing)
    assert said is not None and "found NVIDIA T4 (compute capability 7.5), rebuild with: deploy trt build" in said
    assert refusal(artifact, library, Gpu(name="NVIDIA L4", capability="8.9", cuda="13.0")) is None
