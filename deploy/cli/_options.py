"""Option types and checks that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click


class Percent(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share between 0 and 1, written ``3%`` or ``0.03``."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a share."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(value).strip())
        share = (float(match[1]) / (100 if match[2] else 1)) if match else -1.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is not a percentage such as 3%.", param, ctx)
        return share


threads_option = click.option("--threads", type=click.IntRange(min=1), help="Threads per process. [default: all cores]")
device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device."
)
batch_option = click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Batch size.")
calib_option = click.option(
    "--calib", metavar="DIR|FILE|NAME", help="Calibration data, where an INT8 file has to be made first."
)


def given(ctx: click.Context, name: str) -> bool:
    """Whether the user typed a parameter, rather than leaving its default.

    Args:
        ctx: the command's context.
        name: name of the parameter in the command's function.
    """
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def refuse_unused(ctx: click.Context, names: Iterable[str], used: bool, needs: str) -> None:
    """Refuse options that this invocation would ignore.

    Args:
        ctx: the command's context.
        names: parameter names of the options.
        used: whether the invocation uses them.
        needs: what makes them apply, for the message: ``--scenario server``.

    Raises:
        UsageError: one of them was given and is not used.
    """
    if used:
        return
    for name in names:
        if given(ctx, name):
            raise click.UsageError(f"{option_of(ctx.command, name)} has no effect without {needs}.", ctx)


def refuse_together(ctx: click.Context, names: Iterable[str], other: str) -> None:
    """Refuse options that contradict another one.

    Args:
        ctx: the command's context.
        names: parameter names of the options.
        other: what they cannot be combined with, for the message; the caller has checked that it applies.

    Raises:
        UsageError: one of them was given.
    """
    for name in names:
        if given(ctx, name):
            raise click.UsageError(f"{option_of(ctx.command, name)} cannot be combined with {other}.", ctx)


def option_of(command: click.Command, name: str) -> str:
    """Return the longest spelling of a parameter: ``--p99`` for ``p99``."""
    for param in command.params:
        if param.name == name:
            return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
    return name
