"""The two terminals of the README: a file that passes, and one that does not, with the place.

    python -m benchmarks.terminal

Runs the commands in a temporary directory; the second file is the first with one filter set to zero. Writes
docs/pass.svg and docs/fail.svg.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS, WIDTH, LINE, MARGIN = 100, 7.83, 18, 16
"""Columns of the terminal; width of a letter, height of a line and margin, in pixels."""
COLORS = {"pass": "#1a7f37", "fail": "#d1242f"}
EXPORT = ("export", "resnet18", "--format", "onnx", "--weights", "none")
CHECK = ("check", "resnet18", "--onnx", "theirs.onnx", "--locate", "--weights", "none")
FILTER = "layer3.0.conv1.weight", 7


def main() -> None:
    """Run both commands and draw what they print."""
    with tempfile.TemporaryDirectory() as folder:
        passed = _run(folder, EXPORT)
        _damage(Path(folder) / "artifacts" / "resnet18" / "resnet18.fp32.onnx", Path(folder) / "theirs.onnx")
        failed = _run(folder, CHECK)
    (DOCS / "pass.svg").write_text(_drawn(passed, "deploy export resnet18: parity pass"), encoding="utf-8")
    (DOCS / "fail.svg").write_text(_drawn(failed, "deploy check of a wrong file: fail"), encoding="utf-8")


def _run(folder: str, words: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-m", "deploy.cli.main", *words]
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "DEPLOY_ARTIFACTS": "artifacts"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    shown = " ".join(words).removesuffix(" --weights none")
    return [f"$ deploy {shown}", *(line.rstrip() for line in done.stdout.splitlines())]


def _damage(path: Path, copy: Path) -> None:
    """Write a copy of a file in which one filter is zero."""
    model = onnx.load(str(path))
    name, index = FILTER
    weight = next(item for item in model.graph.initializer if item.name == name)
    values = np.array(to_array(weight))
    values[index] = 0
    weight.CopyFrom(from_array(values, name))
    onnx.save(model, str(copy))


def _drawn(lines: list[str], title: str) -> str:
    width = int(max(map(len, lines)) * WIDTH) + 2 * MARGIN
    height = len(lines) * LINE + 48
    texts = "".join(f'<text x="{MARGIN}" y="{42 + place * LINE}"{_line(text)}' for place, text in enumerate(lines))
    dots = "".join(f'<circle cx="{18 + 16 * place}" cy="15" r="5" fill="#d0d7de"/>' for place in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#f6f8fa" stroke="#d0d7de"/>'
        f'{dots}<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13" '
        f'fill="#1f2328">{texts}</g></svg>\n'
    )


def _line(text: str) -> str:
    """Return the rest of a text element: its style and content."""
    shown = escape(text).replace(" ", "\N{NO-BREAK SPACE}")
    if text.startswith("parity"):
        for word, color in COLORS.items():
            shown = shown.replace(word, f'<tspan fill="{color}" font-weight="700">{word}</tspan>', 1)
    style = ' font-weight="700"' if text.startswith("$") else ""
    return f"{style}>{shown}</text>"


if __name__ == "__main__":
    main()
