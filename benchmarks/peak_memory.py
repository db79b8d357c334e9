"""Run ``deploy`` and poll the peak resident memory of its processes (VmHWM; Linux)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

POLL_S = 0.1
Role = Literal["command", "runtime"]


@dataclass(frozen=True, slots=True)
class Watched:
    """A command that ended.

    Attributes:
        code: exit code; 124 if it took too long.
        document: of ``--json``; empty if there is none.
        peaks: largest resident memory in bytes, of the command and of its children.
    """

    code: int
    document: dict[str, Any]
    err: str
    seconds: float
    peaks: dict[Role, int]

    @property
    def peak_bytes(self) -> int:
        """Largest resident memory of a process; 0 for a command that ended at once."""
        return max(self.peaks.values(), default=0)


def watched(*arguments: str, timeout_s: float | None = None) -> Watched:
    """Run ``deploy`` with ``--json`` in a new process, as `benchmarks.common.deploy` does."""
    command = [sys.executable, "-m", "deploy.cli.main", *arguments, "--json"]
    peaks: dict[Role, int] = {}
    began, late = time.perf_counter(), False
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True)
        while process.poll() is None:
            for role, pid in _family(process.pid):
                peaks[role] = max(peaks.get(role, 0), _high_water(pid))
            if timeout_s is not None and time.perf_counter() - began > timeout_s and not late:
                late = True
                process.terminate()
            time.sleep(POLL_S)
        out.seek(0)
        err.seek(0)
        try:
            document = json.loads(out.read())
        except ValueError:
            document = {}
        code = 124 if late else process.returncode
        return Watched(code, document, err.read(), time.perf_counter() - began, peaks)


def _family(pid: int) -> list[tuple[Role, int]]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [("command", pid), *(("runtime", int(child)) for child in children)]


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
