"""The command ``deploy``. Each module of this package is a command, imported when it is called."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from deploy.cli._common import Settings
from deploy.core import registry
from deploy.core.errors import DeployError
from deploy.core.interrupt import Stopped, stoppable
from deploy.core.paths import default_root
from deploy.core.text import visible

SECTIONS = {
    "Prepare models": {
        "models": "List the models that can be exported.",
        "train": "Train or fine-tune a model.",
        "export": "Export a model to ONNX or TensorRT and check parity.",
        "check": "Check an ONNX file for parity with its model.",
        "edit": "Change an ONNX file and check the result against it.",
        "convert": "Put an ONNX file in half precision and check it.",
        "quantize": "Quantize an ONNX export to INT8 for one target.",
        "trt": "Build and inspect TensorRT engines.",
    },
    "Measure": {
        "evaluate": "Measure the accuracy of a model's artifacts.",
        "bench": "Measure latency and throughput on every backend.",
        "compare": "Tell which of two files, models or backends is faster.",
        "profile": "Show where the time of one call goes.",
        "sweep": "Run many models, precisions, backends and machines.",
        "report": "Write one HTML page that compares all measurements.",
    },
    "Deploy": {
        "package": "Package models for Triton, KServe or standalone use.",
        "serve": "Serve models over HTTP (Open Inference Protocol).",
    },
    "Inspect and verify": {
        "doctor": "Check this installation and suggest fixes.",
        "inspect": "Describe an ONNX file: inputs, operators, cost.",
        "adopt": "Write a manifest for an ONNX file from elsewhere.",
        "verify": "Compare artifacts with their digests and signature.",
        "sign": "Sign artifacts with your own key, offline.",
    },
}
"""Short help of all commands, here so that ``deploy --help`` does not import them."""

ABOUT = {name: text for section in SECTIONS.values() for name, text in section.items()}


class LazyGroup(click.Group):
    """Commands by module name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [name for name in registry.own_names("deploy.cli") if name != "main"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command; None if there is no such command."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = registry.load("deploy.cli", name).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command as click does, but suggest similar names for an unknown one."""
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, known)
            ctx.fail(f"no such command {name!r}." + (f" Did you mean {', '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in sections, without importing them."""
        width = max(map(len, ABOUT))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Exit codes: 0 success, 1 error, 2 usage error, 3 check failed, 4 inconclusive
Shell completion: eval "$(_DEPLOY_COMPLETE=bash_source deploy)"
                  (zsh_source and fish_source for other shells)
""",
)
@click.option(
    "--artifacts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Artifacts directory. [default: $DEPLOY_ARTIFACTS, else ./artifacts]",
)
@click.option("-v", "--verbose", is_flag=True, help="Show library messages and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Show only results, warnings and errors.")
@click.version_option(package_name="deploy-toolkit")
@click.pass_context
def cli(ctx: click.Context, artifacts: Path | None, verbose: bool, quiet: bool) -> None:
    """Export trained PyTorch models, check the exported files, and deploy them.

    \b
    Get started:
      deploy export resnet18                     export to ONNX and check parity
      deploy quantize resnet18 --calib images/   quantize the export to INT8
      deploy bench resnet18                      measure latency on every backend
      deploy report                              compare the results on one page

    `deploy COMMAND --help` shows the options of a command, with examples.
    """  # noqa: D301  (click reads the escape)
    if quiet and verbose:
        raise click.UsageError("--quiet cannot be combined with --verbose.", ctx)
    ctx.obj = Settings(artifacts=artifacts or default_root(), verbose=verbose, quiet=quiet)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _reserve_stdout()
    sys.exit(_run(arguments))


def _reserve_stdout() -> None:
    """Reserve standard output for results: libraries that print to it write to standard error instead."""
    if sys.stdout is not sys.__stdout__ or sys.stdout is None or sys.stdout.fileno() != 1:
        return  # already replaced, as in tests
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
        return _fail("Interrupted", "interrupted; partial results were discarded.", None, 130, as_json)
    except Stopped as exc:
        word = "interrupted" if exc.number == signal.SIGINT else "terminated"
        return _fail(word.title(), f"{word}; partial results were discarded.", None, 128 + exc.number, as_json)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        return _fail("StorageError", f"{where}{exc.strerror or exc}.", None, 1, as_json)
    except MemoryError:
        return _fail("OutOfMemory", "out of memory.", "use a smaller batch or input", 1, as_json)


def _fail(kind: str, message: str, hint: str | None, code: int, as_json: bool) -> int:
    click.echo(visible(f"Error: {message}" + (f"\nHint: {hint}" if hint else "")), err=True)
    if as_json:
        error = {"kind": kind, "message": message, "hint": hint}
        click.echo(json.dumps({"error": error, "exit_code": code}))
    return code


if __name__ == "__main__":
    main()
