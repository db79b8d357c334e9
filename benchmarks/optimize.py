"""Does ``deploy optimize`` find the fastest configuration, and at what share of the time of measuring all?

    python -m benchmarks.optimize [--only PATTERN] [--runs 4] [--minutes 60]

For each network, all configurations are timed for all rounds once; then the search runs several times with other seeds.
Its choice counts as found if it is within 2 % of the fastest by the exhaustive measurement. Writes
results/optimize.json after every search; a network that is there resumes.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import load, write
from deploy.bench.elimination import LOOKS
from deploy.bench.timed_model import TimedModel
from deploy.core.environment import usable_cores
from deploy.core.progress import SILENT
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.optimizing.bounds import DeploymentBounds
from deploy.optimizing.candidates import CandidateFinder, Configuration, SearchSpace
from deploy.optimizing.race import Race, race

NETWORKS: dict[str, str | None] = {
    "zoo/lenet5": "digits",
    "zoo/lenet_bn": "digits",
    "zoo/inception_small": "digits",
    "torchvision/squeezenet1_1": None,
    "torchvision/mobilenet_v2": None,
    "torchvision/mobilenet_v3_small": None,
    "torchvision/shufflenet_v2_x1_0": None,
    "torchvision/resnet18": None,
    "torchvision/googlenet": None,
    "torchvision/alexnet": None,
    "torchvision/densenet121": None,
    "torchvision/vit_b_16": None,
}
"""Networks with their calibration data; those without are timed in float32."""

MARGIN = 0.02


def main() -> None:
    """Measure the networks without a result, then print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--runs", type=int, default=4, help="Searches per network.")
    parser.add_argument("--minutes", type=float, default=1e9, help="Start no search after this time.")
    arguments = parser.parse_args()
    end = time.perf_counter() + 60 * arguments.minutes
    rows: dict[str, Any] = load("optimize").get("networks", {})
    for name, data in NETWORKS.items():
        if fnmatch.fnmatch(name, arguments.only) and time.perf_counter() < end:
            _measure(name, data, arguments.runs, end, rows)
    searches = [item for row in rows.values() for item in row["searches"]]
    found = sum(item["over_fastest"] <= 1 + MARGIN for item in searches)
    share = sum(item["seconds"] for item in searches) / max(
        sum(row["exhaustive_s"] * len(row["searches"]) for row in rows.values()), 1e-9
    )
    print(f"{found} of {len(searches)} within {MARGIN:.0%} of the fastest, at {share:.0%} of the time")


def _measure(name: str, data: str | None, runs: int, end: float, rows: dict[str, Any]) -> None:
    row = rows.get(name, {})
    if len(row.get("searches", ())) >= runs:
        return
    with tempfile.TemporaryDirectory() as folder:
        candidates = _candidates(name, data, Path(folder))
        names = [item.name for item in candidates]
        if not row:
            began = time.perf_counter()
            every = _race(candidates, seed=1000, keep=names, keep_rounds=LOOKS[-1])
            fastest = every.elimination.leader()
            row = {
                "exhaustive_s": round(time.perf_counter() - began, 1),
                "candidates": len(names),
                "fastest": fastest,
                "over_fastest": {item: every.elimination.ratio(item, fastest).value for item in every.medians},
                "searches": [],
            }
            rows[name] = row
        for seed in range(len(row["searches"]), runs):
            if time.perf_counter() > end:
                break
            began = time.perf_counter()
            plain = [item.name for item in candidates if item.plan.backend.reference and item.is_plain]
            found = _race(candidates, seed=seed, keep=plain)
            winner = found.elimination.winner()
            search = {
                "winner": winner,
                "over_fastest": row["over_fastest"][winner],
                "seconds": round(time.perf_counter() - began, 1),
                "rounds": found.elimination.rounds,
                "over_pytorch": {item: found.elimination.ratio(item, winner).value for item in plain},
            }
            row["searches"].append(search)
            print(name, search, flush=True)
            write("optimize", {"networks": rows})


def _race(candidates: list[Configuration], **options: Any) -> Race:
    return race(candidates, margin=MARGIN, deadline=float("inf"), progress=SILENT, **options)


def _candidates(name: str, data: str | None, folder: Path) -> list[Configuration]:
    request, store = ModelRequest(name=name, weights="auto"), Store.at(folder / "artifacts")
    scratch = folder / "scratch"
    scratch.mkdir()
    space = SearchSpace(
        backends=("torch", "onnxruntime", "openvino"),
        precisions=("fp32",) if data is None else ("fp32", "int8"),
        batches=(1,),
        threads=tuple(sorted({usable_cores(), 1}, reverse=True)),
        device="cpu",
        sizes={},
        variants=True,
    )
    finder = CandidateFinder(
        TimedModel(request, store, scratch, None, SILENT),
        request,
        space,
        store,
        scratch,
        data=data,
        effort="low",
        bounds=DeploymentBounds(min_sqnr=20.0),
        seed=0,
        progress=SILENT,
    )
    return finder.find()


if __name__ == "__main__":
    main()
