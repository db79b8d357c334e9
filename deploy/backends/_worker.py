"""The child process of `deploy.backends._isolated`: opens one artifact with one backend and runs what it is sent.

Started as ``python -m deploy.backends._worker BACKEND``; it speaks `deploy.core.wire` on its standard streams.
The backend is imported at once, so that its import overlaps with what the parent does before it has a file.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from deploy.core import registry, wire
from deploy.core.errors import DeployError


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _describe(runner: Any) -> dict[str, Any]:
    def plain(specs: Any) -> list[dict[str, Any]]:
        return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]

    return {"inputs": plain(runner.inputs), "outputs": plain(runner.outputs)}


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the protocol
    backend = registry.load("deploy.backends", sys.argv[1], "backend")
    runner = None
    while True:
        try:
            request, arrays = wire.receive(requests)
        except EOFError:
            return
        reply: dict[str, Any] = {}
        fetches: dict[str, Any] = {}
        began = time.perf_counter_ns()
        try:
            if request["do"] == "open":
                runner = backend.open(Path(request["path"]), **request["options"])
                reply = _describe(runner)
            elif runner is not None:
                fetches = runner.run(arrays)
        except DeployError as exc:
            reply = {"error": exc.message, "hint": exc.hint}
        except (MemoryError, Exception) as exc:
            reply = {"error": f"{type(exc).__name__}: {exc}", "hint": None}
        reply |= {"elapsed_ns": time.perf_counter_ns() - began, "peak_bytes": _peak_bytes()}
        wire.send(replies, reply, fetches)


if __name__ == "__main__":
    main()
