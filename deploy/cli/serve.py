"""``deploy serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.serving.serve import Serving

MEGABYTE = 1 << 20


@click.command(
    epilog="""\b
Examples:
  deploy serve lenet5                                 every file of it, and a page, on http://127.0.0.1:8000
  deploy serve lenet5 --artifact artifacts/lenet5/lenet5.int8-onnxruntime.onnx --no-page
  deploy serve resnet18 --max-batch 16 --max-delay-ms 2 --queue 256
  curl localhost:8000/v2/models/lenet5
"""
)
@click.argument("model", required=False)
@click.option(
    "--artifact",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve this file, repeated for more. [default: every file of MODEL that runs here]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; anything else is for everybody.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Samples of a batch.")
@click.option(
    "--max-delay-ms",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How long a request may wait for others while a runner is free.",
)
@click.option("--queue", type=click.IntRange(min=1), default=1024, show_default=True, help="Samples that may wait.")
@click.option(
    "--timeout-ms", type=click.FloatRange(min=1), default=10_000.0, show_default=True, help="A request waits no longer."
)
@click.option(
    "--max-request-mb", type=click.IntRange(1, 1024), default=64, show_default=True, help="The largest request."
)
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Runners of every file.")
@click.option("--threads", type=click.IntRange(min=1), help="Of every runner. [default: all cores]")
@click.option("--page/--no-page", default=True, show_default=True, help="The page to try it, with PyTorch beside it.")
@click.option("--allow-untrained", is_flag=True, help="Serve weights that mean nothing.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str | None,
    files: tuple[Path, ...],
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
    """Serve MODEL over HTTP: the Open Inference Protocol v2, with batches made of requests.

    MODEL is a name in the artifacts directory, or a file there; without one, the model of the newest export. Only files
    whose parity was shown and whose weights are trained are served. Requests that find the queue full get 429, those
    that waited too long 503; /metrics is for Prometheus. SIGINT and SIGTERM stop it when what was begun is answered.

    --json prints where it listens, when it does.
    """
    from deploy.core.text import visible
    from deploy.serving.serve import ServeOptions, serve

    options = ServeOptions(
        host=host,
        port=port,
        max_batch=max_batch,
        max_delay_s=max_delay_ms / 1000,
        queue=queue,
        timeout_s=timeout_ms / 1000,
        max_request=max_request_mb * MEGABYTE,
        instances=instances,
        threads=threads,
        page=page,
        allow_untrained=allow_untrained,
    )

    def tell(serving: Serving) -> None:
        emit(serving.to_dict(), as_json, lambda: click.echo(visible(_told(serving))))
        sys.stdout.flush()

    with settings.progress() as progress:
        report = serve(model, files=files, options=options, artifacts=settings.artifacts, progress=progress, ready=tell)
    if not settings.quiet:
        click.echo(f"stopped: {report.answered} requests answered, {report.refused} refused", err=True)


def _told(serving: Serving) -> str:
    lines = [f"serving on {serving.url}" + (", with a page to try it" if serving.page else "")]
    lines += [f"  {serving.url}/v2/models/{name}   {file}" for name, file in serving.models]
    return "\n".join(lines)
