"""Measure the startup time of the command line, compared with Python alone and ``import click``.

    python -m benchmarks.startup [ROUNDS]

Whole processes, interleaved in seeded random order. Writes results/startup.json.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.common import interval, time_interleaved, write

TARGET_S = 0.12


def main() -> None:
    """Run all rounds and write the results."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    command = str(Path(sys.executable).with_name("deploy"))
    cases = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import click": [sys.executable, "-c", "import click"],
        "deploy --help": [command, "--help"],
        "deploy export --help": [command, "export", "--help"],
    }
    samples = time_interleaved(cases, rounds)
    rows = {
        name: {"median_s": statistics.median(values), "interval_s": interval(values), "min_s": min(values)}
        for name, values in samples.items()
    }
    for name, row in rows.items():
        print(f"{name:24} {row['median_s']:.3f} s")
    write("startup", {"rounds": rounds, "target_s": TARGET_S, "rows": rows, "samples_s": samples})


if __name__ == "__main__":
    main()
