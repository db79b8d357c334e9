"""Measure the throughput and tail latency of ``deploy serve`` relative to ONNX Runtime in process.

    python -m benchmarks.serve [--work DIR] [--rounds 5] [--seconds 4] [--only NAME]

A load generator (``h2load``, of nghttp2) sends binary tensors over HTTP/1.1. Every runner has one thread. In-process
calls run on core 0 alone. The server runs on core 0 ("one core": the same budget, including HTTP) or on both cores and
shares the second one with the generator ("a core beside it"). Each round runs every case once, in random order; figures
are medians over rounds with bootstrap intervals.

Closed loop: 1, 8 and 64 connections with one sample per request, and 8 connections with 32 and 128 samples if a request
stays below 16 MiB. Open loop: requests at half the rate that 64 connections reached in the same round, evenly spaced
("half load") or from 32 connections at once ("half load in bursts"); latency counts from the time a request is sent.
Writes results/serve.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import deploy_or_exit, interval, write
from deploy.serving.serve import SWITCH_S

CORE, GENERATOR = "0", "1"
LAYOUTS = {"one core": CORE, "a core beside it": f"{CORE},{GENERATOR}"}
BATCHES = (1, 8, 32, 128)
CLOSED = ((1, 1), (1, 8), (1, 64), (32, 8), (128, 8))
"""Samples per request, connections."""
MAX_BYTES = 16 << 20
"""Maximum size of a request."""
BURST = 32
"""Number of connections of the open loop in bursts."""
PERIOD_S = 0.03
"""Approximate time between two requests of a connection in the evenly spaced open loop; the generator cannot space
connections that send more often than every 10 ms."""
WARM_S = 1.0
"""Warm-up of a closed loop (the warm-up of the generator loses the responses that span its end)."""
SETTLING_US = 500_000
"""Warm-up of an open loop after its last connection has started."""
TARGETS = {"share": 0.8, "p99_over_single": 3.0}
TENSOR = "input"
SERVER = """
import sys
from deploy.serving import serve
serve.SWITCH_S = float(sys.argv.pop(1))
from deploy.cli.main import main
main()
"""
BARE = """
import json, sys, time, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
seconds, sample = float(sys.argv[2]), tuple(json.loads(sys.argv[3]))
name, rows = session.get_inputs()[0].name, {}
for batch in json.loads(sys.argv[4]):
    x = np.random.default_rng(0).normal(size=(batch, *sample)).astype(np.float32)
    for _ in range(3):
        session.run(None, {name: x})
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        session.run(None, {name: x})
        times.append(time.perf_counter() - began)
    rows[batch] = {"samples_per_s": batch * len(times) / sum(times), "p50_s": sorted(times)[len(times) // 2]}
print(json.dumps(rows))
"""


@dataclass(frozen=True, slots=True)
class File:
    """A file to serve.

    Attributes:
        name: name in the results.
        path: path in the artifacts directory.
        sample: shape of a sample.
        commands: commands that make the file.
        time_factor: multiplier of the measurement time.
    """

    name: str
    path: str
    sample: tuple[int, ...]
    commands: tuple[tuple[str, ...], ...]
    time_factor: float = 1.0


def _trained(name: str, epochs: str) -> tuple[tuple[str, ...], ...]:
    return (
        ("train", f"zoo/{name}", "--data", "digits", "--epochs", epochs),
        ("export", name),
        ("quantize", name, "--calib", "digits"),
    )


FILES = (
    File("LeNet-5 fp32", "lenet5/lenet5.fp32.onnx", (1, 32, 32), _trained("lenet5", "10")),
    File("LeNet-5 int8", "lenet5/lenet5.int8-onnxruntime.onnx", (1, 32, 32), _trained("lenet5", "10")),
    File(
        "ResNet-18 (digits) int8", "resnet18_digits/resnet18_digits.int8-onnxruntime.onnx", (1, 32, 32),
        _trained("resnet18_digits", "5"),
    ),
    File(
        "ResNet-18 (ImageNet) int8", "resnet18/resnet18.int8-onnxruntime.onnx", (3, 224, 224),
        (("export", "resnet18", "--weights", "none"), ("quantize", "resnet18", "--calib", "noise.npy")),
        3.0,
    ),
)  # fmt: skip


def main() -> None:
    """Run all rounds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, help="Folder to keep the files in.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", default="", metavar="NAME", help="Measure only matching files; write no results.")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load not found; install the package nghttp2-client")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two CPU cores are required: one for the server, one for the load generator")
    files = [file for file in FILES if options.only.lower() in file.name.lower()]
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        for file in files:
            make(work, file)
        rows: dict[str, list[dict[str, Any]]] = {file.name: [] for file in files}
        order = random.Random(0)
        for number in range(options.rounds):
            for file in order.sample(files, len(files)):
                rows[file.name].append(_round(work, file, options.seconds * file.time_factor, order))
                print(number, file.name, json.dumps(_brief(rows[file.name][-1])), flush=True)
    result = {
        "generator": _generator(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "burst": BURST,
        "targets": TARGETS,
        "rows": {name: {"summary": _summary(rounds), "rounds": rounds} for name, rounds in rows.items()},
    }
    if options.only:
        print(json.dumps({name: row["summary"] for name, row in result["rows"].items()}, indent=1))
    else:
        write("serve", result)


def make(work: Path, file: File) -> None:
    """Make a file to serve if it does not exist."""
    if (work / "artifacts" / file.path).exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    np.save(work / "noise.npy", np.random.default_rng(0).normal(size=(16, 3, 224, 224)).astype(np.float32))
    for command in file.commands:
        arguments = [str(work / part) if part.endswith(".npy") else part for part in command]
        deploy_or_exit("--artifacts", str(work / "artifacts"), *arguments)


def _round(work: Path, file: File, seconds: float, order: random.Random) -> dict[str, Any]:
    cases = ["bare", *LAYOUTS]
    row: dict[str, Any] = {}
    for case in order.sample(cases, len(cases)):
        if case == "bare":
            row[case] = _bare(work / "artifacts" / file.path, file.sample, seconds / 2)
            continue
        with serving(work, file, LAYOUTS[case]) as url:
            load = Load(work, url, file.sample, seconds)
            loops = {
                f"{samples}x{connections}": load.run(samples, connections)
                for samples, connections in CLOSED
                if 4 * samples * math.prod(file.sample) <= MAX_BYTES
            }
            rate = loops["1x64"]["requests_per_s"] / 2
            halves = {"half load": load.evenly(rate), "half load in bursts": load.run(1, BURST, rate)}
            row[case] = {**loops, **{name: {"rate": rate, **half} for name, half in halves.items()}}
    return row


def _bare(path: Path, sample: tuple[int, ...], seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-c", BARE, str(path), str(seconds), json.dumps(sample), json.dumps(BATCHES)]
    done = subprocess.run(["taskset", "-c", CORE, *command], check=True, capture_output=True, text=True)
    rows: dict[str, Any] = json.loads(done.stdout)
    return rows


@contextmanager
def serving(work: Path, file: File, cores: str, *, switch_s: float = SWITCH_S) -> Iterator[str]:
    """Run a server of one file on these cores; yield the URL of its inference endpoint."""
    command = [
        *("taskset", "-c", cores, sys.executable, "-c", SERVER, str(switch_s), "--artifacts", str(work / "artifacts")),
        *("serve", file.path.split("/")[0], "--artifact", str(work / "artifacts" / file.path), "--allow-untrained"),
        *("--no-page", "--port", "0", "--json", "--threads", "1", "--max-batch", "128", "--queue", "20000"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        document = json.loads(text)
        yield f"{document['url']}/v2/models/{document['models'][0]['name']}/infer"
    finally:
        process.terminate()
        process.wait()


class Load:
    """Sends requests to one server."""

    def __init__(self, work: Path, url: str, sample: tuple[int, ...], seconds: float) -> None:
        self._work, self._url, self._sample, self._seconds = work, url, sample, seconds

    def run(self, samples: int, connections: int, rate: float | None = None) -> dict[str, float]:
        """Run a closed loop, or an open loop at a rate.

        Returns:
            Requests and samples per second, median and p99 latency in seconds.

        Raises:
            RuntimeError: a response is not 200.
        """
        paced = ["--rps", f"{rate / connections:.3f}"] if rate else []
        lines = self._responses(samples, connections, [*paced, "-D", str(math.ceil(self._seconds + WARM_S))])
        return self._statistics(samples, lines[lines[:, 0] >= lines[:, 0].min() + 1e6 * WARM_S])

    def evenly(self, rate: float) -> dict[str, float]:
        """Run an open loop of single samples at approximately this rate, evenly spaced.

        Each connection sends once per period, and starts a period and its share of a period after the previous one.
        The generator rounds this delay to milliseconds, so the rate is adjusted to fit.
        """
        connections = max(round(PERIOD_S * rate), 4)
        delay_ms = max(2, round(1000 * (connections + 1) / rate))
        period_s = delay_ms / 1000 * connections / (connections + 1)
        start_us = 1000 * delay_ms * connections + SETTLING_US
        number = math.ceil((self._seconds + start_us / 1e6) / period_s) * connections
        spaced = ["-r", "1", f"--rate-period={delay_ms}ms", "--rps", f"{1 / period_s:.4f}", "-n", str(number)]
        lines = self._responses(1, connections, spaced)
        sent = lines[:, 0] - lines[:, 0].min()
        counted = (sent >= start_us) & (sent < start_us + 1e6 * self._seconds)
        in_a_millisecond = np.bincount(sent[counted] // 1000 - start_us // 1000)
        return {**self._statistics(1, lines[counted]), "sent_in_a_ms_p99": float(np.percentile(in_a_millisecond, 99))}

    def _responses(self, samples: int, connections: int, how: list[str]) -> NDArray[np.int64]:
        """Return a row per response: time sent in microseconds, status, and latency in microseconds."""
        length, body = _body((samples, *self._sample))
        (self._work / "body.bin").write_bytes(body)
        log = self._work / "h2load.log"
        log.unlink(missing_ok=True)
        command = [
            *("taskset", "-c", GENERATOR, "h2load", "--h1", "-t", "1", "-c", str(connections), *how),
            *("-d", str(self._work / "body.bin"), "-H", f"Inference-Header-Content-Length: {length}"),
            *("--log-file", str(log), self._url),
        ]
        subprocess.run(command, check=True, capture_output=True)
        lines = np.loadtxt(log, dtype=np.int64, ndmin=2)
        if not len(lines) or (lines[:, 1] != 200).any():
            raise RuntimeError(f"{self._url}: a response was not 200")
        return lines

    @staticmethod
    def _statistics(samples: int, lines: NDArray[np.int64]) -> dict[str, float]:
        ended = lines[:, 0] + lines[:, 2]
        rate = float((len(lines) - 1) / ((ended.max() - ended.min()) / 1e6))
        p50, p99 = (float(value) for value in np.percentile(lines[:, 2] / 1e6, [50, 99]))
        return {"requests_per_s": rate, "samples_per_s": rate * samples, "p50_s": p50, "p99_s": p99}


def _body(shape: tuple[int, ...]) -> tuple[int, bytes]:
    tensor = np.random.default_rng(0).normal(size=shape).astype("<f4")
    tensor_spec = {
        "name": TENSOR, "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": tensor.nbytes},
    }  # fmt: skip
    document = {"inputs": [tensor_spec], "parameters": {"binary_data_output": True}}
    text = json.dumps(document).encode()
    return len(text), text + tensor.tobytes()


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over rounds with intervals; ratios are computed within a round."""
    bare = [max(row["samples_per_s"] for row in item["bare"].values()) for item in rounds]
    summary: dict[str, Any] = {"bare_samples_per_s": estimate(bare)}
    summary["bare_p50_s"] = estimate([item["bare"]["1"]["p50_s"] for item in rounds])
    for layout in LAYOUTS:
        served = [item[layout] for item in rounds]
        rows: dict[str, Any] = {}
        for case in served[0]:
            rows[case] = {key: estimate([row[case][key] for row in served]) for key in served[0][case]}
            if "half" not in case:
                shares = [row[case]["samples_per_s"] / best for row, best in zip(served, bare, strict=True)]
                rows[case]["share"] = estimate(shares)
        for half in (case for case in served[0] if "half" in case):
            rows[half]["p99_over_single"] = estimate([row[half]["p99_s"] / row["1x1"]["p50_s"] for row in served])
        summary[layout] = rows
    return summary


def estimate(values: list[float]) -> dict[str, Any]:
    """Return the median over rounds and its 95 % interval."""
    return {"median": statistics.median(values), "interval": interval(values)}


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "bare": {batch: round(row["samples_per_s"]) for batch, row in result["bare"].items()},
        **{
            layout: {case: (round(row["samples_per_s"]), round(row["p99_s"] * 1e3, 2))
                     for case, row in result[layout].items()}
            for layout in LAYOUTS
        },
    }  # fmt: skip


def _generator() -> str:
    return subprocess.run(["h2load", "--version"], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
