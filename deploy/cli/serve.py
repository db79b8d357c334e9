"""``deploy serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.cli import _options as shared
from deploy.cli._arguments import BACKEND, MODEL
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import option, pack
from deploy.terminal import results

if TYPE_CHECKING:
    from deploy.serving.serve import ServerInfo


@click.command(
    epilog="""\b
Examples:
  deploy serve lenet5                                 every file of it, and a page, on http://127.0.0.1:8000
  deploy serve lenet5 --artifact artifacts/lenet5/lenet5.int8-onnxruntime.onnx --no-page
  deploy serve resnet18 --max-batch 16 --max-delay-ms 2 --queue 256
  deploy serve resnet18 --backend openvino
  deploy serve theirs.onnx                            an ONNX file from elsewhere, unproven
  curl localhost:8000/v2/models/lenet5
"""
)
@click.argument("model", required=False, type=MODEL)
@option(
    "--artifact",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve only this file; can be repeated. [default: every file of MODEL that runs on this machine]",
)
@option(
    "--backend",
    type=BACKEND,
    metavar="NAME",
    help="Backend that runs the files; serve only files that it opens. [default: by each file's format and target]",
)
@option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on. Non-loopback addresses expose the server without authentication.",
)
@option("--port", type=click.IntRange(0, 65535), default=8000, help="Port to listen on; 0 takes a free port.")
@shared.max_batch_option
@shared.max_delay_option(0.0)
@option("--queue", type=shared.count, default=1024, help="Maximum number of queued samples.")
@option(
    "--timeout-ms",
    type=click.FloatRange(min=1),
    default=10_000.0,
    help="Maximum time of a request in the queue, in milliseconds.",
)
@option(
    "--max-request-mb",
    "max_request_bytes",
    type=click.IntRange(1, 1024),
    default=64,
    callback=lambda ctx, param, value: value << 20,
    help="Maximum size of a request, in MiB.",
)
@shared.instances_option
@option("--threads", type=shared.count, help="Threads per runner. [default: all cores]")
@option("--page/--no-page", default=True, help="Serve a demo page that compares the files with PyTorch.")
@shared.recipe_option
@shared.labels_option
@shared.allow_untrained_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> None:
    """Serve MODEL over HTTP with the Open Inference Protocol v2 and dynamic batching.

    MODEL is a name in the artifacts directory, a file, or the deployment.json of deploy optimize, which is served with
    the options that were chosen; default the model of the newest export. Only files that
    passed the parity check and have trained weights are served; an ONNX file whose model is not known is served with a
    warning, as unproven. Requests get status 429 if the queue is full and 503 if
    they waited too long. /metrics returns metrics for Prometheus. On SIGINT or SIGTERM the server finishes the requests
    in progress, then stops.

    --json prints the address and the models once the server accepts requests.
    """
    from deploy.core.plain import to_plain
    from deploy.core.text import visible
    from deploy.serving.serve import ServeOptions, serve

    def announce(server: ServerInfo) -> None:
        lines = [f"serving on {server.url}" + (", with a demo page" if server.page else "")]
        lines += [f"  {server.url}/v2/models/{model.name}   {model.file}" for model in server.models]
        emit(to_plain(server), as_json, lambda: results.echo(visible("\n".join(lines))))
        results.stream().flush()

    shared.pack_labels(options)
    options["options"] = pack(options, ServeOptions)
    with settings.progress() as progress:
        report = serve(artifacts=settings.artifacts, progress=progress, ready=announce, **options)
    if not settings.quiet:
        click.echo(f"stopped: {report.answered} requests answered, {report.refused} refused", err=True)
