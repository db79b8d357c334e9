"""The limits on files and requests from others.

Each limit can be raised with an environment variable: ``DEPLOY_LIMIT_IMAGE_PIXELS=500000000``. Child processes have the
same limits, since they inherit the environment.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass

from deploy.core.errors import UsageError

PREFIX = "DEPLOY_LIMIT_"
"""Prefix of the environment variables."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what is read from files and requests of others; `docs/limits.md` has them with their reasons."""

    # images
    image_pixels: int = 1 << 27
    """Pixels of an image that is decoded."""
    image_bytes: int = 1 << 28
    """Bytes of an image file."""
    classes: int = 1_000_000
    """Classes that the labels of an array file may name."""

    # archives
    archive_expansion: int = 100
    """Unpacked size of an archive over its packed size."""
    program_bytes: int = 1 << 28
    """Bytes of the graph in an ExportedProgram."""
    download_bytes: int = 1 << 35
    """Bytes of a file with published weights."""

    # documents
    document_bytes: int = 1 << 28
    """Bytes of a manifest, record, calibration table or report."""
    sweep_bytes: int = 1 << 20
    """Bytes of the file of a sweep."""
    sweep_depth: int = 100
    """Levels of nesting in the file of a sweep."""

    # ONNX files
    onnx_nodes: int = 200_000
    """Nodes of an ONNX file, where each call of a function counts as all nodes of the function."""
    onnx_depth: int = 64
    """Nesting of subgraphs and function calls in an ONNX file."""
    onnx_open_seconds: int = 600
    """Seconds to read an ONNX file, or to open it with a runtime."""
    onnx_run_seconds: int = 60
    """Seconds to run one sample through an ONNX file; see `deploy.core.isolated.IsolatedRunner`."""
    onnx_memory_bytes: int = 8 << 30
    """Memory of a process that reads or runs an ONNX file, in addition to eight times the size of the file (Linux)."""

    # parity check
    probe_memory_bytes: int = 4 << 30
    """Memory that a run of the model in float64 may take by estimate; see `deploy.parity.memory.RunMemory`."""

    serve_connections: int = 1000
    """Open connections of a server; the one that waits longest for its client gives way to a new one."""
    serve_url_bytes: int = 8 << 10
    serve_headers: int = 100
    serve_header_bytes: int = 32 << 10
    """Bytes of all headers of a request; also of what frames a chunked body, beyond the size of the body itself."""
    serve_header_s: int = 10
    """Time from a connection, or the first byte of a request, to the end of its headers."""
    serve_body_s: int = 30
    """Time from the end of the headers to the end of the body."""
    serve_body_rate: int = 16 << 10
    """Bytes per second that an incomplete body must bring, over `serve_stall_s`."""
    serve_stall_s: int = 5
    serve_bodies_bytes: int = 64 << 20
    """Bytes of all bodies in a server, or the size of one if that is larger; the oldest incomplete body gives way."""
    serve_pipelined: int = 8
    """Requests of one connection that wait for their responses."""
    serve_idle_s: int = 5
    """Time between two requests of a connection."""
    serve_response_s: int = 30
    """Time in which a client must read its response."""
    serve_responses_bytes: int = 128 << 20
    """Bytes of all responses that clients have not read yet; the largest is dropped first."""
    serve_json_bytes: int = 16 << 20
    """Bytes of JSON in an inference request."""
    serve_json_values: int = 1 << 21
    """Values in that JSON; a list, an object and a key count as 16."""
    serve_id_bytes: int = 1 << 10
    serve_labels: int = 1 << 15
    """Class labels in one response."""
    serve_image_pixels: int = 1 << 24
    """Pixels of an image on the demo page."""
    serve_images: int = 16
    """Images that wait for the demo page; they are decoded one at a time."""
    serve_drain_s: int = 3
    """Time that requests in progress have after a signal to stop."""


@functools.cache
def limits() -> Limits:
    """Return the limits, with those that the environment sets.

    Raises:
        UsageError: a variable names no limit, or its value is not a positive integer.
    """
    names = [field.name for field in dataclasses.fields(Limits)]
    values: dict[str, int] = {}
    for variable in sorted(os.environ):
        if not variable.startswith(PREFIX):
            continue
        name, text = variable.removeprefix(PREFIX).lower(), os.environ[variable]
        if name not in names:
            raise UsageError(f"{variable}: no such limit.", f"limits: {', '.join(names)}")
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
            raise UsageError(f"{variable}={text}: not a positive integer.")
        values[name] = int(text)
    return Limits(**values)


def how_to_raise(name: str) -> str:
    """Return a hint that names the variable of a limit and its value."""
    return f"the limit is {getattr(limits(), name)}; {PREFIX}{name.upper()} changes it"
