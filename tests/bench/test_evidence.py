"""Whose evidence counts for a configuration: of the same device, and of CUDA graphs only if they were checked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bench import cells
from deploy.bench.records import Repetition
from deploy.bench.repetition import flags_of
from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.backend import RunSettings, find_backend
from deploy.core.model import Weights
from deploy.support.cuda_driver import Gpu

L4 = {"name": "NVIDIA L4", "capability": "8.9", "cuda": "13.0"}
ON_GPU = RunSettings(device="cuda")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has an L4."""
    monkeypatch.setattr(cells, "gpus", lambda: (Gpu(**L4),))


def artifact(folder: Path, *, precision: str = "fp32", format: str = "engine", **changes: Any) -> Artifact:
    path = folder / f"net.{format}"
    path.write_bytes(b"net")
    verdict = {"verdict": "measured" if precision == "int8" else "pass", "outputs": []}
    manifest = Manifest(
        model="zoo/net",
        slug="net",
        format=format,
        precision=precision,
        target="tensorrt-rtx" if format == "engine" else "onnxruntime",
        files=(Payload.of(path),),
        inputs=(),
        outputs=(),
        weights=Weights(source="seed", trained=False),
        reference=changes.get("reference", {"name": "zoo/net"}),
        options={"library": "tensorrt-rtx", "gpu": changes.get("gpu", L4)},
        parity=changes.get("parity", {**verdict, "runtime": "ONNX Runtime"}),
    )
    return Artifact(path=path, manifest=manifest)


def verdict(found: dict[str, Any] | None) -> str | None:
    return found["verdict"] if found is not None else None


def test_an_engine_s_verdict_is_that_of_one_gpu(tmp_path: Path) -> None:
    backend = find_backend("tensorrt")
    other = {"name": "NVIDIA A10", "capability": "8.6", "cuda": "13.0"}
    assert verdict(cells.evidence_of(artifact(tmp_path), backend, ON_GPU)) == "pass"
    assert cells.evidence_of(artifact(tmp_path, gpu={**L4, "cuda": "12.4"}), backend, ON_GPU) is not None
    assert cells.evidence_of(artifact(tmp_path, gpu=other), backend, ON_GPU) is None
    assert cells.evidence_of(artifact(tmp_path, gpu=None), backend, ON_GPU) is None


def test_a_verdict_without_cuda_graphs_does_not_count_with_them(tmp_path: Path) -> None:
    graphs = RunSettings(device="cuda", cuda_graph=True)
    assert cells.evidence_of(artifact(tmp_path), find_backend("tensorrt"), graphs) is None


@pytest.mark.parametrize("changes", [{"gpu": None, "parity": None}, {"gpu": {**L4, "name": "NVIDIA L40"}}, {}])
def test_int8_that_was_not_measured_here_is_not_timed(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = ON_GPU if changes else RunSettings(device="cuda", cuda_graph=True)
    found = cells.evidence_of(artifact(tmp_path, precision="int8", **changes), find_backend("tensorrt"), settings)
    assert verdict(found) == cells.ELSEWHERE and verdict(found) not in cells.PASSED
    file = artifact(tmp_path, precision="int8", format="onnx")
    backend = find_backend("onnxruntime")
    assert verdict(cells.evidence_of(file, backend, RunSettings())) == "measured"
    assert verdict(cells.evidence_of(file, backend, ON_GPU)) == cells.ELSEWHERE


def test_nodes_that_ran_elsewhere_are_a_flag() -> None:
    def flags(nodes: dict[str, int]) -> dict[str, str]:
        return flags_of(Repetition(number=0, samples=np.array([1], np.int64), details={"nodes": nodes}))

    assert flags({"CUDAExecutionProvider": 9}) == flags({}) == {}
    assert set(flags({"CUDAExecutionProvider": 9, "CPUExecutionProvider": 2})) == {"nodes"}
