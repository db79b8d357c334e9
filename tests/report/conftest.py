"""An artifacts directory with records, written by the functions that commands use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bench.records import Cell, CellRecord, Repetition, save
from deploy.core.environment import now
from deploy.evaluation import records as accuracy

MACHINE = {"cpu": "Test CPU", "cores": 2, "architecture": "x86_64"}
Add = Callable[..., CellRecord]


def add_record(
    root: Path,
    slug: str = "net",
    backend: str = "torch",
    precision: str = "fp32",
    *,
    ms: float = 1.0,
    noise: float = 0.01,
    batch: int = 1,
    processes: int = 5,
    samples: int = 40,
    seed: int = 0,
    digest: str | None = None,
    **more: Any,
) -> CellRecord:
    """A record whose processes' medians scatter by ``noise`` around ``ms``."""
    rng = np.random.default_rng([seed, *slug.encode(), *backend.encode(), *precision.encode(), batch])
    cell = Cell(
        model=f"zoo/{slug}",
        slug=slug,
        backend=backend,
        precision=precision,
        digest=digest or f"{backend}-{precision}".ljust(64, "0"),
        batch=batch,
        sizes={"batch": batch},
        threads=1,
        target=backend if precision == "int8" else None,
        machine=MACHINE,
        versions={backend: "1"},
    )
    verdict = {"fp32": "reference" if backend == "torch" else "pass", "int8": "measured"}[precision]
    about = {
        "file": None if backend == "torch" else f"{slug}.onnx",
        "bytes": 1000,
        "trained": True,
        "weights": ["w" * 64],
        "work": {"operations": {precision: 2_000_000}, "bytes": 1_000_000, "unknown": {}},
        "parameters": 250,
        "machine": MACHINE,
        "versions": {"torch": "9.9"},
        "conditions": {},
        "seed": 0,
        "created": now(),
        **more,
    }
    record = CellRecord(cell=cell, evidence={"verdict": verdict, "reasons": [], "by": "a test"}, about=about)
    for number in range(processes):
        center = 1e6 * ms * np.exp(noise * rng.standard_normal())
        times = (center * np.exp(0.01 * rng.standard_normal(samples))).astype(np.int64)
        record = record.adding(Repetition(number=number, samples=times, details={"peak_bytes": 10**8}))
    save(root, record)
    return record


def add_accuracy(root: Path, slug: str, results: dict[Any, tuple[int, float]], total: int = 1000) -> None:
    """Record correct images of ``total`` and the difference from PyTorch in points, by digest of file or weights."""
    from deploy.evaluation.statistics import wilson

    rows = []
    for digest, (right, points) in results.items():
        top1 = {"top1": right / total, "top1_interval": wilson(right, total), "images": total}
        compared = {"difference": points / 100, "difference_interval": [points / 100 - 0.01, points / 100 + 0.01]}
        rows.append(
            {
                "digest": list(digest) if isinstance(digest, tuple) else digest,
                "accuracy": top1,
                "comparison": None if points == 0 else {**compared, "verdict": "no detectable difference"},
                "runtime": "onnxruntime",
            }
        )
    data = {"name": "digits", "digest": "d" * 64, "split": "test"}
    accuracy.save(root, slug, data, rows, now())


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Three backends of two models, one of them with accuracy."""
    root = tmp_path / "artifacts"
    for slug, factor in (("net", 1.0), ("wide", 4.0)):
        add_record(root, slug, "torch", ms=4 * factor)
        add_record(root, slug, "onnxruntime", ms=2 * factor)
        add_record(root, slug, "openvino", ms=2 * factor, seed=1, noise=0.02)
        add_record(root, slug, "onnxruntime", "int8", ms=0.9 * factor)
    weights = ("w" * 64,)
    add_accuracy(root, "net", {weights: (990, 0.0), "onnxruntime-int8".ljust(64, "0"): (985, -0.5)})
    return root
