"""``deploy upgrade-check``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import MODEL
from deploy.cli._common import EXIT, Settings, emit, json_option
from deploy.cli._options import Percent, option, threads_option


@click.command(
    epilog="""\b
Examples:
  deploy upgrade-check --to onnxruntime==1.27.0
  deploy upgrade-check --to torch==2.12.0,torchvision==0.27.0 resnet18
  deploy upgrade-check --to openvino==2026.4.0 resnet18 --fail-if-slower 3%
"""
)
@click.argument("models", metavar="[MODEL]...", type=MODEL, nargs=-1)
@option("--to", multiple=True, required=True, metavar="PACKAGE==VERSION", help="Versions to try, joined by commas.")
@option("--timed/--not-timed", default=True, help="Also compare latencies on the CPU.")
@option("--fail-if-slower", type=Percent(), default="5%", metavar="5%", help="A file that is slower by more is worse.")
@option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=1),
    default=20.0,
    help="For one file, start no new pair of processes after this many seconds.",
)
@threads_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Tell what other versions of packages would change in the files of the artifacts directory.

    The versions are installed in a temporary environment. There, every file of the models, or of all, is exported,
    checked and quantized again, in a copy of the artifacts directory. Each new file is compared with the one that is
    there: verdict, accuracy, and latency in pairs of processes, each in its own environment. Nothing is changed.

    Exit code 3: something is worse: a file that does not pass any more, an INT8 file that loses more than 1 dB or half
    a point of accuracy, or a file that is slower by more than --fail-if-slower; 4: not all is known.
    """
    from deploy.terminal.upgrade_check import show_upgrade
    from deploy.upgrading.upgrade import upgrade_check

    with settings.progress() as progress:
        report = upgrade_check(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_upgrade(report))
    return EXIT[report.verdict]
