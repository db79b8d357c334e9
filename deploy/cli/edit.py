"""``deploy edit``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import SLUG, Several, existing
from deploy.cli._common import (
    EXIT,
    Settings,
    coverage_options,
    emit,
    input_option,
    json_option,
    probes_option,
    samples_option,
)
from deploy.cli._options import check_probes, option, pack_samples, path
from deploy.core.extras import require


class Batch(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``dynamic``, or a number of samples."""

    name = "batch"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse a batch."""
        text = str(value)
        if text == "dynamic":
            return text
        if not text.isdigit() or int(text) < 1:
            self.fail(f"{value!r} is neither a positive number nor 'dynamic'.", param, ctx)
        return int(text)


@click.command(
    epilog="""\b
Examples:
  deploy edit old.onnx --simplify
  deploy edit old.onnx --batch dynamic
  deploy edit old.onnx --opset 17 --rename images=x,output0=boxes
  deploy edit old.onnx --cut-outputs /backbone/pool/output_0 --batch 1
"""
)
@click.argument("file", type=path, callback=existing)
@option("--simplify", is_flag=True, help="Fold constants, remove what has no effect and fuse nodes, by onnxslim.")
@option("--fold", is_flag=True, help="Compute what depends on constants only.")
@option(
    "--batch",
    type=Batch(),
    metavar="dynamic|N",
    help="dynamic: open the first dimension of the inputs; N: fix it. Nodes that hold the old number are changed.",
)
@option("--opset", type=click.IntRange(7, 26), help="ONNX operator set.")
@option("--rename", type=Several(), metavar="OLD=NEW,…", help="New names of inputs and outputs.")
@option("--cut-inputs", type=Several(), default=(), metavar="NAMES", help="Tensors at which the graph is to begin.")
@option("--cut-outputs", type=Several(), default=(), metavar="NAMES", help="Tensors at which the graph is to end.")
@option("--fp16-io", is_flag=True, help="Take and return float16 in place of float32; the arithmetic stays.")
@option("--strip-names", is_flag=True, help="Remove names of nodes and inner tensors, documentation and metadata.")
@input_option
@option("--name", type=SLUG, metavar="NAME", help="Name of the folder and the files. [default: <file>.edited]")
@samples_option
@probes_option
@coverage_options
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Change an ONNX file, and check the result against the original.

    The reference is FILE in float64: of several samples one by one where its batch was fixed. The edited file and its
    manifest are written to artifacts/<file>.edited/.

    Exit code 3: the edited file differs from FILE and is written to rejected/ instead, with the first node that
    differs; 4: the comparison is inconclusive, and the file is written there, too.
    """
    check_probes(options)
    if options["simplify"]:
        require("edit")
    from deploy.exporting.edit import edit
    from deploy.terminal.edit import show_edit

    if options["rename"] is not None:
        options["rename"] = _names(options["rename"])
    with settings.progress() as progress:
        pack_samples(options, progress)
        report = edit(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_edit(report))
    return EXIT[report.verdict]


def _names(items: tuple[str, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    for item in items:
        old, _, new = item.partition("=")
        if not old or not new or old in names:
            raise click.BadParameter(f"{item!r}: expected OLD=NEW, each old name once.", param_hint="--rename")
        names[old] = new
    return names
