"""The command ``deploy``: its commands are the files of this folder, imported when they are called."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from deploy.cli._common import Settings
from deploy.core import registry
from deploy.core.errors import DeployError
from deploy.core.interrupt import Stopped, stoppable
from deploy.core.paths import default_root
from deploy.core.text import visible

ABOUT = {
    "bench": "Time models on backends, with confidence intervals.",
    "check": "Parity of an ONNX file against its model.",
    "compare": "Tell which of two files, models or backends is faster, with a verdict.",
    "doctor": "What works on this machine, what does not, why, and what mends it.",
    "evaluate": "Accuracy of every artifact of a model, with intervals.",
    "export": "Export a model and prove the file equal to it.",
    "inspect": "What an ONNX file holds: inputs, outputs, operators, cost.",
    "models": "List what can be exported.",
    "package": "Write what a server takes: for Triton, for KServe, or to run alone.",
    "profile": "Show where the time of one call goes, by operator and layer.",
    "quantize": "Calibrate an export and write an INT8 graph for one target.",
    "report": "One page that compares what was timed: architectures, backends, precisions.",
    "serve": "Answer requests over HTTP: the Open Inference Protocol, and a page to try it.",
    "sign": "Sign artifacts with a key of your own, offline.",
    "sweep": "A matrix of models, precisions, backends and machines, made and measured; here or on a cluster.",
    "train": "Train or fine-tune a model.",
    "trt": "Build TensorRT engines, and tell what is in one.",
    "verify": "Hold artifacts against the digests in their manifests.",
}
"""Help lines, here so that ``deploy --help`` need not import the commands; a test holds them complete."""


class LazyGroup(click.Group):
    """Commands by file name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the command files."""
        return [name for name in registry.own_names("deploy.cli") if name != "main"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command; None where there is no such file."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = registry.load("deploy.cli", name).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest names for an unknown one."""
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, known)
            ctx.fail(f"no such command {name!r}." + (f" Did you mean {', '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, ABOUT.get(name, "")) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--artifacts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where artifacts are written and found. [default: $DEPLOY_ARTIFACTS, else ./artifacts]",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell more; errors with their traceback.")
@click.option("-q", "--quiet", is_flag=True, help="Only results, warnings and errors.")
@click.version_option(package_name="deploy-toolkit")
@click.pass_context
def cli(ctx: click.Context, artifacts: Path | None, verbose: bool, quiet: bool) -> None:
    """Export trained PyTorch models, prove the files equal to them, and deploy them.

    \b
      deploy export resnet18 --format onnx       a proven ONNX file under artifacts/
      deploy check resnet18 --onnx other.onnx    is this file equal to that model?
      deploy quantize resnet18 --calib images/   INT8, right for its target
      deploy trt build --int8 --calib images/    a TensorRT engine of the newest export
      deploy bench resnet18                      how long it takes, on every backend
      deploy sweep sweep.yaml                    many models, backends and machines at once
      deploy report                              one page of all that was measured
      deploy doctor                              what works on this machine

    Shell completion: eval "$(_DEPLOY_COMPLETE=bash_source deploy)", or zsh_source, fish_source.

    Exit codes: 0 done, 1 failed, 2 usage, 3 a check did not pass, 4 inconclusive.
    """  # noqa: D301  (click reads the escape)
    if quiet and verbose:
        raise click.UsageError("--quiet cannot be combined with --verbose.", ctx)
    ctx.obj = Settings(artifacts=artifacts or default_root(), verbose=verbose, quiet=quiet)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; the only place that turns errors into exit codes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _keep_stdout()
    sys.exit(_run(arguments))


def _keep_stdout() -> None:
    """Standard output is for results: what a library prints there by itself goes to standard error."""
    if sys.stdout is not sys.__stdout__ or sys.stdout is None or sys.stdout.fileno() != 1:
        return  # somebody took it already, as tests do
    sys.stdout.flush()
    results = os.dup(1)
    os.dup2(2, 1)
    stdout, buffering = sys.stdout, 1 if sys.stdout.isatty() else -1
    sys.stdout = os.fdopen(results, "w", buffering, encoding=stdout.encoding, errors=stdout.errors)


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        with stoppable():
            result = cli.main(arguments, prog_name="deploy", standalone_mode=False)
        return int(result or 0)
    except DeployError as exc:
        if "-v" in arguments or "--verbose" in arguments:
            import traceback

            traceback.print_exc()
        return _fail(type(exc).__name__, exc.message, exc.hint, exc.exit_code, as_json)
    except click.ClickException as exc:
        if as_json:
            return _fail("UsageError", exc.format_message(), None, 2, as_json)
        exc.show()
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("Interrupted", "interrupted; nothing unfinished was kept.", None, 130, as_json)
    except Stopped as exc:
        word = "interrupted" if exc.number == signal.SIGINT else "terminated"
        return _fail(word.title(), f"{word}; nothing unfinished was kept.", None, 128 + exc.number, as_json)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        return _fail("StorageError", f"{where}{exc.strerror or exc}.", None, 1, as_json)
    except MemoryError:
        return _fail("OutOfMemory", "out of memory.", "a smaller batch or input needs less", 1, as_json)


def _fail(kind: str, message: str, hint: str | None, code: int, as_json: bool) -> int:
    click.echo(visible(f"Error: {message}" + (f"\nHint: {hint}" if hint else "")), err=True)
    if as_json:
        document: dict[str, Any] = {
            "error": {"kind": kind, "message": message, "hint": hint},
            "exit_code": code,
        }
        click.echo(json.dumps(document))
    return code


if __name__ == "__main__":
    main()
