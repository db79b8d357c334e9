"""Measure the peak memory of exporting and checking a model of 2.58 GB, regnet_y_128gf.

    python -m benchmarks.memory [MODEL]

Polls the peak resident memory (VmHWM, Linux) of every process of the command. The result is the largest peak of a
single process relative to the size of the weights. Writes results/memory.json.
"""

from __future__ import annotations

import json
import sys
import tempfile

from benchmarks.common import write
from benchmarks.peak_memory import watched

TARGET = 3.2


def main() -> None:
    """Measure one model and write the result."""
    name = sys.argv[1] if len(sys.argv) > 1 else "regnet_y_128gf"
    with tempfile.TemporaryDirectory() as folder:
        done = watched("--artifacts", folder, "export", name, "--weights", "none")
    document = done.document
    weights = document["bytes"]
    result = {
        "model": name,
        "weights_bytes": weights,
        "peak_bytes": done.peaks,
        "ratio": done.peak_bytes / weights,
        "target": TARGET,
        "verdict": document["parity"]["verdict"],
        "seconds": round(done.seconds, 1),
    }
    print(json.dumps(result, indent=1))
    write("memory", result)


if __name__ == "__main__":
    main()
