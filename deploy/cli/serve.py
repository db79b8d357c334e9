"""``deploy serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.serving.serve import ServerInfo

MEGABYTE = 1 << 20


@click.command(
    epilog="""\b
Examples:
  deploy serve lenet5                                 every file of it, and a page, on http://127.0.0.1:8000
  deploy serve lenet5 --artifact artifacts/lenet5/lenet5.int8-onnxruntime.onnx --no-page
  deploy serve resnet18 --max-batch 16 --max-delay-ms 2 --queue 256
  deploy serve resnet18 --backend openvino
  curl localhost:8000/v2/models/lenet5
"""
)
@click.argument("model", required=False)
@click.option(
    "--artifact",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve only this file; can be repeated. [default: every file of MODEL that runs on this machine]",
)
@click.option(
    "--backend",
    metavar="NAME",
    help="Backend that runs the files; serve only files that it opens. [default: by each file's format and target]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Non-loopback addresses expose the server without authentication.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free port.",
)
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Maximum batch size, in samples."
)
@click.option(
    "--max-delay-ms",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How long a request may wait for others to join its batch, in milliseconds.",
)
@click.option(
    "--queue", type=click.IntRange(min=1), default=1024, show_default=True, help="Maximum number of queued samples."
)
@click.option(
    "--timeout-ms",
    type=click.FloatRange(min=1),
    default=10_000.0,
    show_default=True,
    help="Maximum time of a request in the queue, in milliseconds.",
)
@click.option(
    "--max-request-mb",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    help="Maximum size of a request, in MiB.",
)
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Number of runners per file."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads per runner. [default: all cores]")
@click.option(
    "--page/--no-page", default=True, show_default=True, help="Serve a demo page that compares the files with PyTorch."
)
@click.option("--allow-untrained", is_flag=True, help="Serve models with untrained weights.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str | None,
    files: tuple[Path, ...],
    backend: str | None,
    host: str,
    port: int,
    max_batch: int,
    max_delay_ms: float,
    queue: int,
    timeout_ms: float,
    max_request_mb: int,
    instances: int,
    threads: int | None,
    page: bool,
    allow_untrained: bool,
    as_json: bool,
) -> None:
    """Serve MODEL over HTTP with the Open Inference Protocol v2 and dynamic batching.

    MODEL is a name in the artifacts directory, or a file there; default the model of the newest export. Only files that
    passed the parity check and have trained weights are served. Requests get status 429 if the queue is full and 503 if
    they waited too long. /metrics returns metrics for Prometheus. On SIGINT or SIGTERM the server finishes the requests
    in progress, then stops.

    --json prints the address and the models once the server accepts requests.
    """
    from deploy.core.plain import to_plain
    from deploy.core.text import visible
    from deploy.serving.serve import ServeOptions, serve

    options = ServeOptions(
        host=host,
        port=port,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        queue=queue,
        timeout_ms=timeout_ms,
        max_request_bytes=max_request_mb * MEGABYTE,
        instances=instances,
        threads=threads,
        page=page,
        allow_untrained=allow_untrained,
    )

    def announce(server: ServerInfo) -> None:
        emit(to_plain(server), as_json, lambda: click.echo(visible(_summary(server))))
        sys.stdout.flush()

    with settings.progress() as progress:
        report = serve(
            model,
            files=files,
            backend=backend,
            options=options,
            artifacts=settings.artifacts,
            progress=progress,
            ready=announce,
        )
    if not settings.quiet:
        click.echo(f"stopped: {report.answered} requests answered, {report.refused} refused", err=True)


def _summary(server: ServerInfo) -> str:
    lines = [f"serving on {server.url}" + (", with a demo page" if server.page else "")]
    lines += [f"  {server.url}/v2/models/{model.name}   {model.file}" for model in server.models]
    return "\n".join(lines)
