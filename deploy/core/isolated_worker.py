"""The child process of `deploy.core.isolated`: opens one artifact with one backend and runs what it is sent.

Started as ``python -m deploy.core.isolated_worker RUNNER``; it speaks `deploy.core.wire` on its standard streams.
The backend is imported at once, so that its import overlaps with what the parent does before it has a file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from deploy.core.child import serve
from deploy.core.errors import UsageError
from deploy.core.runner import Fetches, Runner


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    backend = importlib.import_module(sys.argv[1])
    runner: Runner | None = None

    def answer(request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        nonlocal runner
        if request["do"] == "open":
            runner = backend.open(Path(request["path"]), **request["options"])
            specs = {"inputs": runner.inputs, "outputs": runner.outputs}
            return {name: [spec.plain() for spec in items] for name, items in specs.items()}, {}
        if runner is None:
            raise UsageError("nothing was opened.")
        return {}, runner.run(arrays)

    serve(answer)


if __name__ == "__main__":
    main()
