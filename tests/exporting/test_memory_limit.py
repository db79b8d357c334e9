"""Probes that would take too much memory, in float64 or in the runtime, are left out, and a note says which."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import deploy
from deploy.core.limits import limits

SIDE = 2048
SAMPLE = 8 * SIDE * SIDE
"""Bytes of one inner value of a sample in float64."""


class Outer(nn.Module):
    """All products of a sample's values, whose sum is small."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.layer = nn.Linear(side, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        products = x[:, :, None] * x[:, None, :]
        return self.layer(products.amax(1))


class Mixed(Outer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class Long(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, :, None] * x[:, None, :]).amax((1, 2))[:, None].expand(-1, 3) * 2.0


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DEPLOY_LIMIT_PROBE_MEMORY_BYTES", str(4 * SAMPLE))
    limits.cache_clear()
    yield
    limits.cache_clear()


def export(module: nn.Module, inputs: str, store: Path) -> deploy.ParityReport:
    torch.manual_seed(0)
    report = deploy.export_model(module, inputs=inputs, name="net", strategy="trace", artifacts=store)
    assert report.verdict == "pass"
    return report.parity


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process of a runtime that can run a few samples of `Outer` at once."""
    monkeypatch.setenv("DEPLOY_LIMIT_ONNX_MEMORY_BYTES", str(260 << 20))
    limits.cache_clear()
    yield
    limits.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
@pytest.mark.parametrize("kind", [Outer, Mixed])
def test_batches_for_which_the_runtime_is_refused_memory(store: Path, kind: type[nn.Module], tight: None) -> None:
    parity = export(kind(), f"x:batch,{SIDE}", store)
    ran = parity.dynamic["batch"]
    assert {1, 2} <= set(ran) and max(ran) <= 8
    (note,) = [note for note in parity.notes if "DEPLOY_LIMIT_ONNX_MEMORY_BYTES" in note]
    assert note.startswith("not run: ") and "batch 8" in note


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_batch_that_was_run_at_one_size_only_is_not_proven(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_LIMIT_ONNX_MEMORY_BYTES", str(215 << 20))  # a sample takes 64 MiB
    limits.cache_clear()
    try:
        torch.manual_seed(0)
        report = deploy.export_model(
            Outer(2 * SIDE), inputs=f"x:batch,{2 * SIDE}", name="net", strategy="trace", artifacts=store
        )
    finally:
        limits.cache_clear()
    assert report.verdict == "inconclusive" and report.parity.dynamic["batch"] == (1,)
    assert "'batch' was run at one size only" in report.parity.reasons[0]


@pytest.mark.parametrize("kind", [Outer, Mixed])
def test_large_batches_are_left_out(store: Path, kind: type[nn.Module], limit: None) -> None:
    parity = export(kind(), f"x:batch,{SIDE}", store)
    ran = parity.dynamic["batch"]
    assert {1, 2} <= set(ran) and max(ran) <= 8
    (note,) = [note for note in parity.notes if "DEPLOY_LIMIT_PROBE_MEMORY_BYTES" in note]
    assert "batch 13" in note or kind is Mixed


def test_large_sizes_are_left_out(store: Path, limit: None) -> None:
    parity = export(Long(), f"x:batch,length={SIDE - 48}", store)
    assert any("DEPLOY_LIMIT_PROBE_MEMORY_BYTES" in note for note in parity.notes)
    assert max(parity.dynamic["length"]) < 2 * SIDE - 96 and len(parity.dynamic["length"]) > 1


def test_the_far_end_of_a_range_is_not_run(store: Path, limit: None) -> None:
    parity = export(Long(), "x:batch,length=40..60000", store)
    assert max(parity.dynamic["length"]) < 500
    assert any("length 60000" in note for note in parity.notes)


def test_without_need_nothing_is_left_out(store: Path) -> None:
    parity = export(Outer(), f"x:batch,{SIDE}", store)
    assert max(parity.dynamic["batch"]) == 13 and not any("DEPLOY_LIMIT" in note for note in parity.notes)
