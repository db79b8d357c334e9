"""Fault injection: which wrong exports does the parity check detect, and which right ones does it reject?

    python -m benchmarks.faults [--only PATTERN] [--minutes 60] [--clean 1000]

Exports the networks of `benchmarks.fault_nets` and of the zoo, plants the kinds of `benchmarks.fault_kinds` one at a
time at a seeded random place, and runs `deploy.check` on each file. A planted file is *caught* if the verdict is
``fail``, *reported* if it is inconclusive or if its coverage names a planted node that the probes did not reach, and
else *missed*.
A fault that changes no output beyond rounding on independent inputs is drawn again, at most five times; one by chance
has several runs. Half of the kinds, by a hash of their names, are counted apart as held out: do not look at their
results when you change the check.

Right files are judged with other seeds of weights and probes, in float32 and float16. Three common comparisons of ONNX
Runtime with PyTorch in float32 on the independent inputs are computed for the static faults: ``allclose(1e-3, 1e-5)``,
``allclose(1e-5, 1e-5)`` (relative, absolute) and equality to three decimals. Writes results/faults.json; a run that was
stopped is continued.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.common import load, write
from benchmarks.fault_graph import PLANTED
from benchmarks.fault_kinds import KINDS, Kind
from benchmarks.fault_nets import NETWORKS, Feeds
from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.exporting.check import check
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve

Precision = Literal["fp32", "fp16"]

ZOO = {"zoo/lenet5": (1, 32), "zoo/lenet_bn": (1, 28), "zoo/inception_small": (3, 32)}
"""Further networks: channels and size of their independent inputs."""

ROUNDING = 2e-5
"""A fault counts if it changes an output by more than this share of its root mean square, or any integer."""

CHANCES = 8
"""Runs in which a fault by chance must change an output at least once; ONNX Runtime ignores some of those planted."""

METHODS = ("allclose(1e-3, 1e-5)", "allclose(1e-5, 1e-5)", "3 decimals")
ALL = (*NETWORKS, *ZOO)


def request(network: str, seed: int = 0) -> ModelRequest:
    """Return the request of a network with weights of a seed."""
    if network in ZOO:
        return ModelRequest(name=network, weights="none", seed=seed)
    options = {"kind": network, "seed": str(seed)}
    return ModelRequest(name="benchmarks.fault_nets:build", inputs=NETWORKS[network][0], options=options, seed=seed)


def independent(network: str) -> list[Feeds]:
    """Return inputs that are not probes of the product."""
    rng = np.random.default_rng(12345)
    if network not in ZOO:
        return NETWORKS[network][1](rng)
    channels, size = ZOO[network]
    return [{"input": rng.standard_normal((2, channels, size, size)).astype(np.float32)}]


def outputs(path: Path, feeds: list[Feeds]) -> list[dict[str, Any]]:
    """Run a file on several inputs with ONNX Runtime."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return [dict(zip(names, session.run(None, item), strict=True)) for item in feeds]


def differs(given: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    """Return whether an output differs by more than rounding, in values, types or shapes."""
    for new, old in zip(given, right, strict=True):
        for name, value in old.items():
            other = new[name]
            if other.shape != value.shape or other.dtype != value.dtype:
                return True
            if value.dtype.kind != "f":
                if not np.array_equal(other, value):
                    return True
                continue
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            scale = np.sqrt(np.mean(np.square(value, dtype=np.float64), axis=axes))
            noise = np.sqrt(np.mean(np.square(other.astype(np.float64) - value), axis=axes))
            if not (noise <= ROUNDING * scale).all():
                return True
    return False


def common_comparisons(given: list[dict[str, Any]], right: list[dict[str, Any]]) -> dict[str, bool]:
    """Return which of the common comparisons detect a difference."""
    caught = dict.fromkeys(METHODS, False)
    for new, old in zip(given, right, strict=True):
        for name, value in old.items():
            other = new[name]
            if other.shape != value.shape:
                return dict.fromkeys(METHODS, True)
            close = functools.partial(np.allclose, other, value)
            caught[METHODS[0]] |= not close(rtol=1e-3, atol=1e-5)
            caught[METHODS[1]] |= not close(rtol=1e-5, atol=1e-5)
            caught[METHODS[2]] |= not bool((np.abs(other.astype(np.float64) - value) < 1.5e-3).all())
    return caught


@functools.cache
def exported(network: str, seed: int, precision: Precision) -> Path:
    """Export a network into a folder that lives as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    return export_model(request(network, seed), artifacts=folder, precision=precision).artifact.path


@functools.cache
def in_torch(network: str) -> list[dict[str, Any]]:
    """Run the model in float32 on the independent inputs."""
    model: Model = resolve(request(network))
    runs = []
    with torch.inference_mode():
        for feeds in independent(network):
            result = model.call({name: torch.from_numpy(value) for name, value in feeds.items()})
            runs.append({name: value.numpy() for name, value in result.items()})
    return runs


def judge(network: str, kind: Kind) -> dict[str, Any] | None:
    """Plant a fault and judge the file; None if the kind does not apply to the network."""
    path = exported(network, 0, "fp32")
    feeds = independent(network)
    digest = hashlib.sha256(f"{network} {kind.name}".encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    with tempfile.TemporaryDirectory() as scratch:
        wrong = Path(scratch) / "wrong.onnx"
        for _ in range(5):
            model = onnx.load(str(path))
            if not kind.plant(model.graph, rng):
                return None
            onnx.save(model, str(wrong))
            usual: dict[str, bool] = {}
            try:
                given = outputs(wrong, feeds)
            except Exception:  # the runtime refuses the file or an input: a fault in any case
                break
            if _has_effect(kind, wrong, given, outputs(path, feeds), feeds):
                usual = common_comparisons(given, in_torch(network)) if kind.category == "static" else {}
                break
        else:
            return None
        began = time.perf_counter()
        try:
            parity = check(request(network), onnx=wrong).parity
        except DeployError as exc:
            return {"outcome": "caught", "verdict": "error", "why": exc.message[:200], "usual": usual}
    planted = [item for item in parity.coverage.unreached if item.node.startswith(PLANTED)] if parity.coverage else []
    known = parity.verdict == "inconclusive" or bool(planted)
    outcome = "caught" if parity.verdict == "fail" else "reported" if known else "missed"
    why = parity.reasons[0] if parity.reasons else str(planted[0]) if planted else f"margin {parity.margin:.2f}"
    return {
        "outcome": outcome,
        "verdict": parity.verdict,
        "why": why[:200],
        "seconds": round(time.perf_counter() - began, 2),
        "usual": usual,
    }


def _has_effect(
    kind: Kind, wrong: Path, given: list[dict[str, Any]], right: list[dict[str, Any]], feeds: list[Feeds]
) -> bool:
    """Return whether a fault changes an output, where that does not depend on the input; chance has several tries."""
    if kind.category == "chance":
        return any(differs(outputs(wrong, feeds), right) for _ in range(CHANCES))
    return kind.category not in ("static", "dtype") or differs(given, right)


def judge_clean(network: str, seed: int, precision: Precision, probe_seed: int) -> dict[str, Any]:
    """Judge a right file with weights of one seed and probes of another."""
    path = exported(network, seed, precision)
    base = request(network, seed)
    other = ModelRequest(
        name=base.name, weights=base.weights, seed=probe_seed, inputs=base.inputs, options=base.options
    )
    if network in ZOO:  # the seed is also that of the weights
        other = base
    parity = check(other, onnx=path, precision=precision, accept_unreached=True).parity
    usual: dict[str, bool] = {}
    if (seed, precision) == (0, "fp32"):
        usual = common_comparisons(outputs(path, independent(network)), in_torch(network))
    return {"verdict": parity.verdict, "margin": parity.margin, "reasons": list(parity.reasons[:1]), "usual": usual}


def held_out(kind: str) -> bool:
    """Return whether a kind is held out."""
    return hashlib.sha256(kind.encode()).digest()[0] % 2 == 0


def tasks(only: str, clean: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the key and the arguments of every judgement, clean ones in between."""
    networks = [name for name in ALL if fnmatch.fnmatch(name, only)]
    faults = [(f"{network} | {kind.name}", ("fault", network, kind.name)) for kind in KINDS for network in networks]
    rights = []
    turns = -(-clean // max(2 * len(networks), 1))
    for turn in range(turns):
        for network in networks:
            for precision in ("fp32", "fp16"):
                key = f"{network} | {precision} | {turn}"
                rights.append((key, ("clean", network, turn % 4, precision, turn + 100)))
    order = np.random.default_rng(0).permutation(len(faults) + len(rights))
    yield from ([*faults, *rights][index] for index in order)


def work(task: tuple[Any, ...]) -> dict[str, Any] | None:
    """Run one judgement in a worker process."""
    torch.set_num_threads(1)
    try:
        if task[0] == "fault":
            return judge(task[1], next(kind for kind in KINDS if kind.name == task[2]))
        return judge_clean(*task[1:])
    except DeployError as exc:
        return {"error": exc.message[:200]}


def main() -> None:
    """Judge what has no result yet, then print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Networks that match.")
    parser.add_argument("--minutes", type=float, default=1e9, help="Stop after this time.")
    parser.add_argument("--clean", type=int, default=1000, help="Number of judgements of right files.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="Discard earlier results.")
    arguments = parser.parse_args()
    known: dict[str, Any] = {} if arguments.fresh else load("faults")
    rows = {"faults": dict(known.get("faults", {})), "clean": dict(known.get("clean", {}))}
    end = time.monotonic() + 60 * arguments.minutes
    groups = {"fault": "faults", "clean": "clean"}
    queue = [item for item in tasks(arguments.only, arguments.clean) if item[0] not in rows[groups[item[1][0]]]]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        while queue and time.monotonic() < end:
            batch, queue = queue[:40], queue[40:]
            running = {pool.submit(work, task): (key, groups[task[0]]) for key, task in batch}
            for done in as_completed(running):
                key, group = running[done]
                rows[group][key] = done.result()
            write("faults", {"summary": summary(rows), **rows})
            print(len(queue), "left", summary(rows)["categories"], flush=True)
    print(summary(rows))


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts by category and by half of the kinds, false alarms, and what common comparisons detect."""
    categories = {kind.name: kind.category for kind in KINDS}
    judged = {key: row for key, row in rows["faults"].items() if row and "outcome" in row}
    kinds = {key.partition(" | ")[2] for key in judged}
    counted: dict[str, Counter[str]] = {}
    for key, row in judged.items():
        kind = key.partition(" | ")[2]
        half = "held out" if held_out(kind) else "development"
        for group in (categories.get(kind, "other"), "all", half):
            counted.setdefault(group, Counter())[row["outcome"]] += 1
    clean = [row for row in rows["clean"].values() if row and "verdict" in row]
    margins = [row["margin"] for row in clean if row["verdict"] == "pass" and np.isfinite(row["margin"])]
    usual = [row["usual"] for row in judged.values() if row.get("usual")]
    usual_clean = [row["usual"] for row in clean if row.get("usual")]
    return {
        "networks": len({key.partition(" | ")[0] for key in judged}),
        "kinds": len(kinds),
        "faults": len(judged),
        "categories": {name: dict(count) for name, count in sorted(counted.items())},
        "missed": sorted(key for key, row in judged.items() if row["outcome"] == "missed"),
        "errors": sum(bool(row and "error" in row) for group in rows.values() for row in group.values()),
        "clean": len(clean),
        "false_alarms": sum(row["verdict"] == "fail" for row in clean),
        "doubts": sum(row["verdict"] == "inconclusive" for row in clean),
        "smallest_clean_margin": min(margins, default=None),
        "common": {
            name: {
                "static": len(usual),
                "caught": sum(item[name] for item in usual),
                "clean": len(usual_clean),
                "false_alarms": sum(item[name] for item in usual_clean),
            }
            for name in METHODS
        },
    }


if __name__ == "__main__":
    main()
