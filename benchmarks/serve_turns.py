"""Measure the effect of Python's thread switch interval on the tail latency of the server.

    python -m benchmarks.serve_turns --work DIR [--rounds 5] [--seconds 3]

Python's default is 5 ms; ``deploy serve`` sets `deploy.serving.serve.SWITCH_S`. Each round serves LeNet-5 in INT8 on
one core with both intervals, in random order, as `benchmarks.serve` does: one client, 64 clients, and evenly spaced
requests at the same rate for both (half the throughput of the slower one in a first run). Ratios are computed within a
round. Writes results/serve_turns.json.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from benchmarks.common import write
from benchmarks.serve import CORE, FILES, Load, estimate, make, serving
from deploy.serving.serve import SWITCH_S

DEFAULT_SWITCH_S = 0.005
FILE = next(file for file in FILES if file.name == "LeNet-5 int8")


def main() -> None:
    """Run all rounds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    make(options.work, FILE)
    order = random.Random(0)
    rounds: list[dict[str, Any]] = []
    rate = (
        min(_case(options, switch_s, None)["1x64"]["requests_per_s"] for switch_s in (DEFAULT_SWITCH_S, SWITCH_S)) / 2
    )
    for number in range(options.rounds):
        cases = {switch_s: _case(options, switch_s, rate) for switch_s in order.sample((DEFAULT_SWITCH_S, SWITCH_S), 2)}
        rounds.append({"pythons": cases[DEFAULT_SWITCH_S], "ours": cases[SWITCH_S]})
        brief = {name: {case: round(row[case]["p99_s"] * 1e3, 2) for case in row} for name, row in rounds[-1].items()}
        print(number, json.dumps(brief), flush=True)
    ratios = {
        case: {
            value: estimate([row["ours"][case][value] / row["pythons"][case][value] for row in rounds])
            for value in ("requests_per_s", "p50_s", "p99_s")
        }
        for case in rounds[0]["ours"]
    }
    write(
        "serve_turns",
        {"switch_s": SWITCH_S, "pythons_s": DEFAULT_SWITCH_S, "rate": rate, "ratios": ratios, "rounds": rounds},
    )
    print(json.dumps(ratios, indent=1))


def _case(options: argparse.Namespace, switch_s: float, rate: float | None) -> dict[str, Any]:
    with serving(options.work, FILE, CORE, switch_s=switch_s) as url:
        load = Load(options.work, url, FILE.sample, options.seconds)
        loops = {"1x1": load.run(1, 1), "1x64": load.run(1, 64)}
        return loops if rate is None else {**loops, "half load": load.evenly(rate)}


if __name__ == "__main__":
    main()
