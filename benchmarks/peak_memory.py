"""Run a command and poll the peak resident memory of its processes (VmHWM; Linux)."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Watched:
    """A command that ended.

    Attributes:
        peaks: largest resident memory in bytes, of the command and of its children.
    """

    code: int
    out: str
    err: str
    peaks: dict[Literal["command", "runtime"], int]


def watched(command: Sequence[str], timeout_s: float | None = None) -> Watched:
    """Run a command.

    Raises:
        subprocess.TimeoutExpired: it took longer; it is ended.
    """
    peaks: dict[Literal["command", "runtime"], int] = {}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True)
        left_s = timeout_s
        while True:
            try:
                process.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                for role, pid in _family(process.pid):
                    peaks[role] = max(peaks.get(role, 0), _high_water(pid))
                if left_s is not None:
                    left_s -= POLL_S
                    if left_s <= 0:
                        process.terminate()
                        process.wait()
                        raise
        out.seek(0)
        err.seek(0)
        return Watched(process.returncode, out.read(), err.read(), peaks)


def _family(pid: int) -> list[tuple[Literal["command", "runtime"], int]]:
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
