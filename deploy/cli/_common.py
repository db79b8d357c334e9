"""What commands share: settings, options, and how a result is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from deploy.core.progress import Progress

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT = {"pass": 0, "measured": 0, "fail": 3, "inconclusive": 4}
"""Exit codes of verdicts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of ``deploy`` itself, in ``ctx.obj``."""

    artifacts: Path
    verbose: bool
    quiet: bool

    @contextmanager
    def progress(self, *, drawn: bool = True) -> Iterator[Progress]:
        """A display on stderr; it begins with libraries that are known to be unsafe.

        Args:
            drawn: live on a terminal; else lines, for a command that draws something of its own.
        """
        from deploy.core.advisories import unsafe
        from deploy.terminal.progress import display

        with display(quiet=self.quiet, verbose=self.verbose, drawn=drawn) as listener:
            for advisory, found in unsafe():
                listener.warn(f"{advisory.told(found)} {advisory.fix}")
            yield listener


class Several(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Words, or numbers from 1 on, separated by commas."""

    name = "list"

    def __init__(self, *, numbers: bool = False) -> None:
        self.numbers = numbers

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not parts:
            self.fail("is empty", param, ctx)
        if not self.numbers:
            return tuple(parts)
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of sizes such as 1,8,32.", param, ctx)
        return tuple(int(part) for part in parts)


def json_option(function: Command) -> Command:
    """``--json``: one JSON document on stdout, everything else on stderr."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(function)


def samples_option(function: Command) -> Command:
    """``--data``: real samples to probe; see `deploy.exporting.samples.load_samples`."""
    return click.option(
        "--data",
        metavar="PATH|NAME",
        help="Real samples to probe beside the seeded ones: .npy, .npz, a folder of images, a bundled data set.",
    )(function)


def model_options(function: Command) -> Command:
    """Options that say which model is meant; see `deploy.cli._options.pack_model`."""
    for option in reversed(
        (
            click.option(
                "--weights",
                default="auto",
                metavar="auto|default|none|FILE",
                help="auto: published or trained weights, else seeded untrained ones with a warning; default: "
                "published or nothing; none: untrained; FILE: safetensors, or a pickled state dict. [default: auto]",
            ),
            click.option("--arch", metavar="NAME", help="Architecture of MODEL, where MODEL is a checkpoint."),
            click.option("--seed", default=0, show_default=True, help="Of untrained weights and of probes."),
            click.option(
                "--input",
                "inputs",
                multiple=True,
                metavar="NAME:DIMS[:DTYPE[:LOW..HIGH]]",
                help="What MODEL takes, repeated for each input: image:batch,3,224,224  "
                "tokens:batch,length=16:int64:0..30522. Named dimensions are dynamic.",
            ),
            click.option(
                "-o",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Option of the architecture, repeated: -o num_classes=10",
            ),
        )
    ):
        function = option(function)
    return function


def emit(document: Mapping[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print the document as JSON, or show it."""
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        show()
