"""Checks of an engine before it is opened, with forged manifests."""

import dataclasses
import enum
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.core.artifact import Artifact, Manifest, Payload, manifest_path, sha256
from deploy.core.errors import ArtifactError, DigestError
from deploy.core.model import Weights
from deploy.support.cuda_driver import Gpu, cuda_version
from deploy.support.engine_file import read_engine, refusal
from deploy.support.tensorrt_library import Library

GPU = Gpu(name="NVIDIA L4", capability="8.9", cuda="13.0")
REBUILD = "deploy trt build zoo/net --runtime tensorrt-rtx"
Forge = Callable[..., Path]


def library(name: str = "tensorrt-rtx", version: str = "1.7.1", known: tuple[str, ...] = ("SM86", "SM89")) -> Library:
    """Return a library that knows some GPUs."""
    module = ModuleType(name)
    vars(module).update(__version__=version)
    if known:
        members = {"NONE": 0, "CURRENT": 1, **{item: int(item[2:]) for item in known}}
        vars(module).update(ComputeCapability=enum.Enum("ComputeCapability", members))
    return Library(name=name, module=module)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    """Writes an engine, its manifest and its graph; changes go into the manifest's options."""

    def write(*, leave_out: tuple[str, ...] = (), **changes: Any) -> Path:
        path, graph = tmp_path / "net.engine", tmp_path / "net.onnx"
        path.write_bytes(b"engine" * 20)
        graph.write_bytes(b"graph")
        options = {
            "library": "tensorrt-rtx",
            "version": "1.7.1",
            "profiles": [],
            "compute_capabilities": [],
            "gpu": None,
            "onnx": graph.name,
            "rebuild": REBUILD,
            **changes,
        }
        manifest = Manifest(
            model="zoo/net",
            slug="net",
            format="engine",
            precision="fp32",
            files=(Payload.of(path),),
            inputs=(),
            outputs=(),
            weights=Weights(source="seed", trained=False),
            options={key: value for key, value in options.items() if key not in leave_out},
            parent=sha256(graph),
        )
        manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
        return path

    return write


def test_an_engine_that_fits_is_not_refused(forge: Forge) -> None:
    artifact = read_engine(forge())
    assert refusal(artifact, library(), GPU) is None
    assert refusal(artifact, library(), None) is None


@pytest.mark.parametrize(
    ("options", "version", "words"),
    [
        ({}, "1.8.0", "built with tensorrt-rtx 1.7.1, found tensorrt-rtx 1.8.0, rebuild with: "),
        (
            {"compute_capabilities": ["12.0", "8.6"]},
            "1.7.1",
            "built with compute capabilities 12.0, 8.6, found NVIDIA L4 (compute capability 8.9), rebuild with: ",
        ),
        (
            {"library": "tensorrt", "gpu": {"name": "NVIDIA H100", "capability": "9.0"}},
            "1.7.1",
            "built with NVIDIA H100 (compute capability 9.0), found NVIDIA L4 (compute capability 8.9), rebuild with: ",
        ),
        ({"library": "tensorrt"}, "1.7.1", "built with None (compute capability None), found NVIDIA L4"),
    ],
)
def test_what_does_not_fit_is_one_sentence(forge: Forge, options: dict[str, Any], version: str, words: str) -> None:
    installed = library(str(options.get("library", "tensorrt-rtx")), version)
    said = refusal(read_engine(forge(**options)), installed, GPU)
    assert said is not None and words in said and said.endswith(REBUILD) and "\n" not in said


def test_an_engine_for_all_gpus_runs_on_those_that_the_library_knows(forge: Forge) -> None:
    artifact = read_engine(forge())
    hopper = Gpu(name="NVIDIA H100", capability="9.0", cuda="13.0")
    said = refusal(artifact, library(), hopper)
    assert said is not None and "built with compute capabilities 8.6, 8.9, found NVIDIA H100" in said
    assert refusal(artifact, library(known=("SM90",)), hopper) is None


def test_another_graph_beside_it(forge: Forge) -> None:
    path = forge()
    path.with_name("net.onnx").write_bytes(b"the model of today")
    said = refusal(read_engine(path), library(), GPU)
    assert said is not None and "built with net.onnx of digest" in said and said.endswith(REBUILD)
    path.with_name("net.onnx").unlink()
    assert refusal(read_engine(path), library(), GPU) is None, "an engine may travel alone"
    assert refusal(read_engine(forge(onnx="../net.onnx")), library(), GPU) is None, "a name, never a path"


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data[:50] + b"\0" + data[51:], lambda data: b""]
)
def test_a_truncated_or_flipped_engine(forge: Forge, spoil: Callable[[bytes], bytes]) -> None:
    path = forge()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DigestError, match=r"net\.engine") as refused:
        read_engine(path)
    assert refused.value.hint == f"rebuild with: {REBUILD}"


def test_without_a_manifest_nothing_is_opened(forge: Forge) -> None:
    path = forge()
    manifest_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"net\.engine") as refused:
        read_engine(path)
    assert "deploy trt build" in (refused.value.hint or "")
    with pytest.raises(ArtifactError, match=r"other\.engine"):
        read_engine(path.with_name("other.engine"))


def test_a_manifest_of_something_else(forge: Forge) -> None:
    with pytest.raises(ArtifactError, match="library, rebuild"):
        read_engine(forge(leave_out=("library", "rebuild")))
    path = forge()
    manifest = dataclasses.replace(Artifact.open(path).manifest, format="onnx")
    manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
    with pytest.raises(ArtifactError, match="onnx"):
        read_engine(path)


def test_cuda_versions_are_read_as_people_write_them() -> None:
    assert [cuda_version(number) for number in (12040, 13000, 13020)] == ["12.4", "13.0", "13.2"]
