"""``deploy edit`` on public ONNX files that are shipped in Python packages.

    python -m benchmarks.edits [--only PATTERN] [--again]

Takes the files of `benchmarks.foreign` that are smaller than 20 MB, and changes each in five ways. A file is published
if its check against the original passes; *refused* takes a reason. Writes results/edits.json after every file; a run
that was stopped is continued.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import deploy, load, write
from benchmarks.foreign import INPUTS, files

NAME = "edits"
MOST_BYTES = 20 * 10**6
EDITS = ("--simplify", "--batch dynamic", "--opset 21", "--fp16-io", "--fold --strip-names")
RESULTS = {0: "published", 3: "differs", 4: "inconclusive"}
TIMEOUT_S = 600.0


def measure(path: Path, inputs: tuple[str, ...]) -> dict[str, Any]:
    """Change a file in every way."""
    row: dict[str, Any] = {"bytes": path.stat().st_size}
    sizes = [word for text in inputs for word in ("--input", text)]
    for edit in EDITS:
        with tempfile.TemporaryDirectory() as folder:
            probes = ("--probes", "quick", "--accept-unreached")
            words = ("--artifacts", folder, "edit", str(path), *edit.split(), *sizes, *probes)
            code, document, seconds = deploy(*words, timeout=TIMEOUT_S)
        parity = document.get("parity") or {}
        reason = document.get("error", {}).get("message", "") or "; ".join(parity.get("reasons", []))
        refused = code in (1, 2) and "error" in document  # a traceback has no document
        result = "refused" if refused else RESULTS.get(code, f"exit code {code}")
        row[edit] = {"result": result, "seconds": round(seconds, 1)}
        if reason:
            row[edit]["reason"] = reason.replace(str(path), path.name)[:300]
    return row


def main() -> None:
    """Measure the files without a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="PACKAGE==VERSION/FILE, as a pattern.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    options = parser.parse_args()
    rows = {} if options.again else load(NAME).get("rows", {})
    for name, path in files(Path(tempfile.gettempdir()) / "deploy-foreign"):
        chosen = fnmatch.fnmatch(name, options.only) and path.stat().st_size < MOST_BYTES
        if name in rows or not chosen:
            continue
        rows[name] = measure(path, INPUTS.get(name, ()))
        print(name, rows[name], flush=True)
        write(NAME, {"probes": "quick", "rows": rows})


if __name__ == "__main__":
    main()
