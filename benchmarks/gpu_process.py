"""The process of one model in `benchmarks.gpu_check`, and the rows that it writes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

TF32_OFF = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Environment without TF32, also in the TensorRT provider of ONNX Runtime, which has no option for it."""


@dataclass(slots=True)
class Row:
    """The result of a configuration.

    Attributes:
        backend: backend and its options.
        precision: ``fp32``, ``fp16`` or ``int8``; ``tf32`` is float32 with matrix products in TF32.
        verdict: verdict of the parity check; ``measured`` for INT8, which ran; None if it was not checked.
        reasons: of a verdict other than ``pass``.
        skipped: why it did not run; empty if it ran.
        sqnr_db: of INT8, relative to the model in float64 on one random batch.
        nodes: number of nodes by what runs them, where the backend reports it.
        seconds: that the check took.
        medians_ms: median latency of each round, from launch to the end of synchronize.
        device_ms: median over the rounds of the median time on the GPU, if the backend measures it.
    """

    backend: str
    precision: str
    verdict: str | None = None
    reasons: str = ""
    skipped: str = ""
    sqnr_db: float | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    medians_ms: list[float] = field(default_factory=list)
    device_ms: float | None = None


class Child:
    """The process of a model, which checks its configurations, waits, and times them.

    Attributes:
        ended: how it ended, if it ended early.
    """

    def __init__(self, model: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._rows, self._log = self._folder / "rows.json", self._folder / "errors.txt"
        self.ended = ""
        self._limit, self._until = arguments.limit, monotonic() + arguments.limit
        options = {
            "--batch": arguments.batch,
            "--rounds": arguments.rounds,
            "--warm": arguments.warm,
            "--device": arguments.device,
            "--rows": self._rows,
        }
        words = [str(word) for pair in options.items() for word in pair]
        words += [word for name in arguments.only or () for word in ("--only", name)]
        words += [word for text in arguments.input or () for word in ("--input", text)]
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check", model, *words]
        inherited = {name: value for name, value in os.environ.items() if name not in TF32_OFF}
        if arguments.jobs > 1:
            inherited["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // arguments.jobs))
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, env={**inherited, **environment}, stderr=errors, stdin=subprocess.PIPE
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder)

    def wait_until_checked(self) -> None:
        """Wait until it has checked everything, or has ended."""
        while self._process.poll() is None and not checked_file(self._rows).exists() and monotonic() < self._until:
            sleep(0.05)

    def time(self) -> None:
        """Let it time what passed, and wait until it has ended; one that has not checked everything is ended."""
        is_over = self._process.poll() is not None or checked_file(self._rows).exists()
        limit = self._limit if is_over else 0.0
        try:
            self._process.communicate(b"\n", timeout=limit)
            status = self._process.returncode
            self.ended = "" if status == 0 else f"the process ended with status {status}"
        except subprocess.TimeoutExpired:
            self.ended = f"the process was ended after {self._limit:.0f} s"
            self._process.kill()
        log = self._log.read_text(encoding="utf-8", errors="replace")
        lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", log).strip().splitlines()  # without colors
        if self.ended and lines:
            self.ended += f": {lines[-1][:300]}"

    def rows(self) -> list[Row]:
        """Return the rows that it wrote."""
        written = json.loads(self._rows.read_text(encoding="utf-8")) if self._rows.is_file() else []
        return [Row(**row) for row in written]


def checked_file(rows: Path) -> Path:
    """Return the file that shows that all rows of a process are checked."""
    return rows.with_suffix(".checked")
