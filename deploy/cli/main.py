"""The command ``deploy``. Each module of this package is a command, imported when it is called."""

from __future__ import annotations

import atexit
import contextlib
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
from deploy.terminal import results, waiting

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
        "optimize": "Find the fastest way to run a model that is still right.",
        "compare": "Tell which of two files, models or backends is faster.",
        "upgrade-check": "Tell what other versions of packages would change.",
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
    """Commands by module name; options of ``deploy`` itself are taken before and after the name of the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move the options of ``deploy`` to the front, and a ``--json`` in front to the command."""
        return super().parse_args(ctx, self._sorted(ctx, args))

    def _sorted(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {name: not param.is_flag for param in self.params if isinstance(param, click.Option)
                       for name in param.opts if name not in ctx.help_option_names}  # fmt: skip
        takes_value.pop("--version", None)
        own: list[str] = []
        rest: list[str] = []
        json_first = False
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif takes_value.get(word.partition("=")[0]) and "=" in word:
                own.append(word)
            elif word in takes_value:
                own.append(word)
                own += [value for value in (next(words, None),) if value is not None] if takes_value[word] else []
            elif word == "--json" and not rest:
                json_first = True
            else:
                rest.append(word)
        if json_first:
            rest.insert(rest.index("--") if "--" in rest else len(rest), "--json")
        return own + rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [name.replace("_", "-") for name in registry.own_names("deploy.cli") if name != "main"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command; None if there is no such command."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = registry.load("deploy.cli", name.replace("-", "_")).command
        return results.keep_apart(command)

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
    if not quiet:
        waiting.start(f"deploy {ctx.invoked_subcommand}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its exit code.

    Args:
        arguments: of a caller in this process; by default, those of the process, which then ends at once: the
            libraries that were loaded would take seconds to be taken down.
    """
    if arguments is not None:
        sys.exit(_run(arguments))
    code = [1]
    atexit.register(lambda: _leave(code[0]))  # handlers run in reverse order: this one is the last
    _reserve_stdout()
    code[0] = _run(sys.argv[1:])
    sys.exit(code[0])


def _leave(code: int) -> None:
    """End the process without taking down the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that is gone, a stream that was closed
            stream.flush()
    os._exit(code)


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
    try:
        return _code(arguments)
    finally:
        waiting.end()


def _code(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        with stoppable():
            result = cli.main(arguments, prog_name="deploy", standalone_mode=False)
        return int(result or 0)
    except DeployError as exc:
        if "-v" in arguments or "--verbose" in arguments:
            import traceback

            waiting.end()
            traceback.print_exc()
        return _fail(type(exc).__name__, exc.message, exc.hint, exc.exit_code, as_json)
    except click.ClickException as exc:
        if as_json:
            return _fail("UsageError", exc.format_message(), None, 2, as_json)
        waiting.end()
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
    waiting.end()
    click.echo(visible(f"Error: {message}" + (f"\nHint: {hint}" if hint else "")), err=True)
    if as_json:
        error = {"kind": kind, "message": message, "hint": hint}
        click.echo(json.dumps({"error": error, "exit_code": code}))
    return code


if __name__ == "__main__":
    main()
