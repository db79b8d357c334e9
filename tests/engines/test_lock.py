"""Lock files: a second build makes the same engine, or says what differs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import BuildRequest, build_engine, export_model, verify
from deploy.core.errors import ArtifactError
from deploy.engines.lock import EngineLock

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The lock of an engine in FP16."""
    folder = tmp_path_factory.mktemp("first")
    export_model("zoo/lenet5", artifacts=folder)
    yield built(folder).lock


def built(folder: Path, **options: Any) -> Any:
    return build_engine(BuildRequest(**{"model": "zoo/lenet5", "fp16": True, **options}), artifacts=folder)


def test_the_lock_is_a_file_of_the_engine(lock: Path) -> None:
    engine = lock.with_name("lenet5.fp16-tensorrt-rtx.engine")
    written = EngineLock.read(lock)
    assert written.precision == "fp16" and written.library == "tensorrt-rtx" and set(written.graph or ()) == {".onnx"}
    assert written.engine == json.loads(Path(f"{engine}.json").read_text(encoding="utf-8"))["files"][0]["sha256"]
    assert not verify(lock.parents[1]).problems
    text = lock.read_text(encoding="utf-8")
    lock.write_text(text.replace("fp16", "fp32"), encoding="utf-8")
    found = verify(lock.parents[1]).problems
    lock.write_text(text, encoding="utf-8")
    assert len(found) == 1 and "lenet5.fp16-tensorrt-rtx" in str(found), "a changed lock is found"


def test_a_build_elsewhere_is_the_same_engine(lock: Path, tmp_path: Path) -> None:
    export_model("zoo/lenet5", artifacts=tmp_path)
    report = built(tmp_path, locked=lock)
    assert report.same is True and report.to_dict()["same"] is True
    assert EngineLock.read(report.lock).differences(EngineLock.read(lock)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": "1:2:4"}, "profiles:"),
        ({"fp16": False}, "precision: fp32, the lock has fp16"),
        ({"compute_capabilities": ("8.9",)}, r"compute capabilities: \[\"8.9\"\], the lock has none"),
        ({"optimization_level": 1}, "optimization level: 1, the lock has none"),
        ({"workspace_bytes": 2**30}, "workspace bytes: 1073741824, the lock has none"),
    ],
)
def test_what_differs_is_named_and_nothing_is_built(lock: Path, options: dict[str, Any], words: str) -> None:
    folder = lock.parents[1]
    before = {path.name: path.stat().st_mtime_ns for path in lock.parent.iterdir()}
    with pytest.raises(ArtifactError, match=words) as failure:
        built(folder, locked=lock, **options)
    assert failure.value.hint == EngineLock.read(lock).command
    after = {path.name: path.stat().st_mtime_ns for path in lock.parent.iterdir()}
    assert after == before, "neither the engine nor the graph, which takes a search"


def test_another_version_or_another_graph(lock: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.lock.json"
    fields = json.loads(lock.read_text(encoding="utf-8"))
    graph = {".onnx": "0" * 64}
    for changed, words in (
        ({"version": "1.0"}, r"version: .*, the lock has 1\.0"),
        ({"graph": graph}, r"graph: \.onnx \w{12}, the lock has"),
    ):
        other.write_text(json.dumps({**fields, **changed}), encoding="utf-8")
        with pytest.raises(ArtifactError, match=words):
            built(lock.parents[1], locked=other)
    other.write_text(json.dumps({**fields, "engine": "0" * 64}), encoding="utf-8")
    assert built(lock.parents[1], locked=other).same is False


@pytest.mark.parametrize(("content", "words"), [(None, "no such lock file"), ("[]", "not a lock"), ("{", "not a lock")])
def test_what_is_no_lock_file(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=words):
        built(tmp_path, locked=path)


def test_it_has_no_effect_on_trtexec(lock: Path, run: Any) -> None:
    shown = run("trt", "build", "zoo/lenet5", "--locked", str(lock), "--print-trtexec", "--runtime", "tensorrt-rtx")
    assert shown.code == 2 and "--locked" in shown.err
