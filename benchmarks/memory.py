"""Measure the peak memory of exporting and checking a model of 2.58 GB, regnet_y_128gf.

    python -m benchmarks.memory [MODEL]

Polls the peak resident memory (VmHWM, Linux) of every process of the command. The result is the largest peak of a
single process relative to the size of the weights. Writes results/memory.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write

TARGET = 3.2


def main() -> None:
    """Measure one model and write the result."""
    name = sys.argv[1] if len(sys.argv) > 1 else "regnet_y_128gf"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deploy.cli.main", "--artifacts", folder]
        command += ["export", name, "--weights", "none", "--json"]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peaks: dict[str, int] = {}
        while process.poll() is None:
            for role, pid in _family(process.pid):
                peaks[role] = max(peaks.get(role, 0), _high_water(pid))
            time.sleep(0.1)
        document: dict[str, Any] = json.loads(process.stdout.read()) if process.stdout else {}
    weights = document["bytes"]
    result = {
        "model": name,
        "weights_bytes": weights,
        "peak_bytes": peaks,
        "ratio": max(peaks.values()) / weights,
        "target": TARGET,
        "verdict": document["parity"]["verdict"],
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(result, indent=1))
    write("memory", result)


def _family(pid: int) -> list[tuple[str, int]]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [("command", pid), *(("runtime", int(child)) for child in children.read_text().split())]
    except OSError:
        return []


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
