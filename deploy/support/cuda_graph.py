"""Capture of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def capture(call: Callable[[], Result], stream: Any = None) -> tuple[Any, Result]:
    """Capture what ``call`` launches on a stream; return the graph and the result of the call.

    ``call`` must have run once before on the same sizes, so that nothing is initialized during the capture. Other
    threads may use the GPU meanwhile.

    Args:
        call: what to capture.
        stream: the stream of the capture; None for one of PyTorch's own.

    Raises:
        Exception: that of ``call``, or of PyTorch if the capture fails.
    """
    graph: Any = torch.cuda.CUDAGraph()
    results: list[Result] = []
    failures: list[Exception] = []
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                results.append(call())
            except Exception as exc:  # ending the broken capture raises an error of its own, which would hide this one
                failures.append(exc)
    except RuntimeError:
        if not failures:
            raise
    if failures:
        raise failures[0]
    return graph, results[0]
