"""Walk through a newcomer's first hour on a terminal, and hold every line to what it must say.

    python -m benchmarks.newcomer [--only TEXT] [--check]

Each line of `benchmarks.newcomer.steps` runs on a pseudo terminal in one new directory with a trained checkpoint, own
code, pictures and files of others. Measured are the exit code, the words, the time, and the longest silence: how long
the terminal showed nothing new. Writes results/newcomer.json, unless ``--check`` or a part is asked for; exits with 1
if a line does not say what it must.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import shlex
import struct
import sys
import tempfile
import termios
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import write
from benchmarks.newcomer.steps import STEPS, Step

ROWS, COLUMNS = 40, 100
SILENCE_S = 1.0
"""Target of the longest silence."""
CODE = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x)


class Noisy(Plain):
    def forward(self, x):
        return self.head(x) + torch.randn(3)


class Wrong(Plain):
    def forward(self, x):
        return self.inner(x)

    def inner(self, x):
        return self.head(x[:, :2])


def plain():
    return Plain().eval()


def noisy():
    return Noisy().eval()


def wrong():
    return Wrong().eval()
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


@dataclass(frozen=True, slots=True)
class Walked:
    """What a line did: its exit code, text, time and longest silence."""

    code: int
    text: str
    seconds: float
    silence_s: float


def main() -> None:
    """Run the walk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="Only lines that contain this.")
    parser.add_argument("--check", action="store_true", help="Write no results.")
    arguments = parser.parse_args()
    only = arguments.only
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        _furnish(Path(folder))
        for step in STEPS:
            if only in step.line:
                rows.append(_row(step, _walk(step, folder)))
                print(
                    f"{'ok' if not rows[-1]['wrong'] else 'WRONG':5} {rows[-1]['seconds']:6.1f} s",
                    step.line,
                    flush=True,
                )
                for reason in rows[-1]["wrong"]:
                    print(f"      {reason}", flush=True)
    wrong = [row["line"] for row in rows if row["wrong"]]
    worst = max(rows, key=lambda row: row["silence_s"])
    first = next((row["seconds"] for row in rows if row["line"].endswith("-o num_classes=10")), None)
    print(f"{len(rows) - len(wrong)} of {len(rows)} as they must be")
    print(f"longest silence {worst['silence_s']:.2f} s: {worst['line']}")
    if not only and not arguments.check:
        write(
            "newcomer",
            {
                "steps": len(rows),
                "right": len(rows) - len(wrong),
                "longest_silence_s": worst["silence_s"],
                "silent_steps": [row["line"] for row in rows if row["silence_s"] > SILENCE_S],
                "first_answer_s": first,
                "targets": {"silence_s": SILENCE_S, "first_answer_s": 30.0},
                "rows": rows,
            },
        )
    sys.exit(bool(wrong))


def _furnish(folder: Path) -> None:
    """Write what a newcomer has."""
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "best.pt")
    torch.save(torch.nn.Linear(4, 3), folder / "whole.pt")
    (folder / "nets.py").write_text(CODE, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(4, 3)), str(folder / "script.pt"))
        names: dict[str, Any] = {}
        exec(CODE, names)
        plain = names["plain"]()
        for name in ("theirs", "wrong"):
            axes = {"x": {0: "batch"}, "y": {0: "batch"}}
            torch.onnx.export(
                plain,
                (torch.zeros(2, 4),),
                folder / f"{name}.onnx",
                input_names=["x"],
                output_names=["y"],
                dynamic_axes=axes,
                dynamo=False,
            )
            plain.head.weight.data[1, 2] *= 1.01
    rng = np.random.default_rng(0)
    (folder / "empty").mkdir()
    for label in ("cat", "dog"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")


def _walk(step: Step, folder: str) -> Walked:
    """Run one line on a pseudo terminal."""
    command = [sys.executable, "-m", "deploy.cli.main", *shlex.split(step.line)]
    began = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), DEPLOY_ARTIFACTS="artifacts")
        os.execv(sys.executable, command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    content, last, silence = bytearray(), began, 0.0
    while True:
        select.select([terminal], [], [])
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other side was closed
            break
        if not part:
            break
        now = time.monotonic()
        silence, last = max(silence, now - last), now
        content += part
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended = time.monotonic()
    os.close(terminal)
    text = ESCAPES.sub("", content.decode("utf-8", "replace"))
    return Walked(code=code, text=text, seconds=ended - began, silence_s=max(silence, ended - last))


def _row(step: Step, walked: Walked) -> dict[str, Any]:
    text = " ".join(walked.text.lower().split())
    wrong = [f"exit code {walked.code}, not {step.code}"] if walked.code != step.code else []
    wrong += [
        f"does not say {word!r}" for word in step.words if not any(one.lower() in text for one in word.split("|"))
    ]
    wrong += [f"says {word!r}" for word in step.never if word.lower() in text]
    return {
        "line": step.line,
        "code": walked.code,
        "seconds": round(walked.seconds, 2),
        "silence_s": round(walked.silence_s, 2),
        "wrong": wrong,
        "text": walked.text[-1500:] if wrong else "",
    }


if __name__ == "__main__":
    main()
