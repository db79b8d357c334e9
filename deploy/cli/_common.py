"""Settings, options and output that commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy.cli._arguments import DATA, MODEL, SLUG, WEIGHTS, check_inputs, check_options
from deploy.terminal import results, waiting

if TYPE_CHECKING:
    from deploy.core.progress import Progress

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT = {"pass": 0, "measured": 0, "unproven": 0, "fail": 3, "inconclusive": 4, "poor": 4}
"""Exit codes by verdict."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of ``deploy`` itself; ``ctx.obj`` of every command."""

    artifacts: Path
    verbose: bool
    quiet: bool

    @contextmanager
    def progress(self, *, drawn: bool = True) -> Iterator[Progress]:
        """Display progress messages on stderr; ``drawn=False`` is for commands with a live display of their own."""
        from deploy.terminal.progress import display

        with display(quiet=self.quiet, verbose=self.verbose, drawn=drawn) as listener:
            yield listener


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
name_option = click.option(
    "--name",
    type=SLUG,
    metavar="NAME",
    help="Name of the folder and the files. [default: the stem of the checkpoint, if there is one, else the model's]",
)
samples_option = click.option(
    "--data",
    type=DATA,
    metavar="PATH|NAME",
    help="Real samples for the parity check, in addition to random ones: .npy, .npz, a folder of images, or the name "
    "of a data set.",
)
"""Read by `deploy.cli._options.pack_samples`."""
probes_option = click.option(
    "--probes",
    type=click.Choice(["quick", "standard", "thorough", "data"]),
    default="standard",
    show_default=True,
    help="How many probes the parity check runs; data: only the samples of --data.",
)


def coverage_options(function: Command) -> Command:
    """Add the options of what a parity check must reach."""
    for option in (
        click.option(
            "--accept-unreached",
            is_flag=True,
            help="Let a traced or foreign file pass although no probe took one of its data-dependent branches.",
        ),
        click.option(
            "--min-coverage",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Exit code 4 if the probes reach less of the weights, nodes and branches of the file.",
        ),
    ):
        function = option(function)
    return function


MIN_SQNR = click.option(
    "--min-sqnr",
    type=click.FloatRange(0),
    metavar="DB",
    help="Signal over noise against float64 that half precision is held to. [default: four times the noise of "
    "PyTorch's own run in half precision, or 40 dB where that is of no use]",
)


def half_options(function: Command) -> Command:
    """Add the options of half precision, see `deploy.exporting.half_options`."""
    for option in (
        click.option(
            "--plan",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Plan of an earlier export (.precision.json) in place of a search.",
        ),
        click.option(
            "--only-half",
            multiple=True,
            metavar="PATTERN",
            help="Nodes that stay in half precision, by name, module or operator; repeatable.",
        ),
        click.option(
            "--keep-float",
            multiple=True,
            metavar="PATTERN",
            help="Nodes that stay in float32, by name, module or operator; repeatable.",
        ),
        MIN_SQNR,
    ):
        function = option(function)
    return function


input_option = click.option(
    "--input",
    "inputs",
    multiple=True,
    callback=check_inputs,
    metavar="NAME:DIMS[:DTYPE[:LOW..HIGH]]",
    help="Input of the model; repeat for each input: image:batch,3,224,224 or "
    "tokens:batch,length=16:int64:0..30522. Named dimensions are dynamic and traced with the size given. "
    "length=16..24 allows at most 24, height=64%32 multiples of 32, height=64%32..640 both.",
)


def model_options(function: Command) -> Command:
    """Add the options that describe a model; `deploy.cli._options.pack_model` reads them."""
    for option in reversed(
        (
            click.option(
                "--weights",
                type=WEIGHTS,
                default="auto",
                metavar="auto|default|none|FILE",
                help="auto: trained or published weights, else untrained ones with a warning; default: published "
                "weights only; none: untrained; FILE: safetensors, a pickled state dict or an index of shards; "
                "FILE#KEY: the tensors under a key or prefix, such as last.pt#ema. [default: auto]",
            ),
            click.option("--arch", type=MODEL, metavar="NAME", help="Architecture, if MODEL is a checkpoint."),
            click.option("--seed", default=0, show_default=True, help="Random seed of untrained weights and probes."),
            input_option,
            click.option(
                "-o",
                "options",
                multiple=True,
                callback=check_options,
                metavar="KEY=VALUE",
                help="Option of the architecture; may be repeated: -o num_classes=10.",
            ),
        )
    ):
        function = option(function)
    return function


def emit(document: Mapping[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print a document as JSON, or call ``show`` to display it."""
    waiting.end()
    if as_json:
        results.echo(json.dumps(document, indent=1))
    else:
        show()
