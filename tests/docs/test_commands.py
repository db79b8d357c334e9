"""Every command line in the documentation is accepted by the parser; none is run."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from deploy.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY"))]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^ *```(.*?)^ *```", re.MULTILINE | re.DOTALL)


def lines_of(path: Path) -> list[tuple[str, bool]]:
    """Return the command lines of a page, and whether each is complete: one within a sentence may be a fragment."""
    text = path.read_text(encoding="utf-8")
    blocks = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    lines = re.findall(r"^\s*(?:\$ |- run: |run: )?(deploy .*)$", blocks, re.MULTILINE)
    spans = re.findall(r"`\$? ?(deploy\s[^`]*)`", FENCE.sub("", text))
    return [(_without_remark(line), True) for line in lines] + [(" ".join(span.split()), False) for span in spans]


def _without_remark(line: str) -> str:
    """Remove the text in a column beside the command."""
    return re.split(r"\s{2,}", line.strip())[0]


def parse(line: str, complete: bool) -> None:
    """Parse a line as click would, without running the command.

    Raises:
        click.UsageError: the line is not valid.
    """
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("…", "...")]
    words = list(takewhile(lambda word: word not in ("&&", "||", "|", ";", ">"), words))
    try:
        context = cli.make_context("deploy", words)
    except click.exceptions.Exit:
        return
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, inner, arguments = command.resolve_command(context, rest)
        assert inner is not None
        try:
            context = inner.make_context(name, list(arguments), parent=context)
        except (click.MissingParameter, click.BadOptionUsage):
            if complete:
                raise
            return
        except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):  # the line asks for help
            return
        except click.BadParameter as exc:
            if "does not exist" not in exc.message:
                raise
            return
        command = inner


def examples() -> list[tuple[str, str, bool]]:
    """Return the examples in the commands' help."""
    lines = []
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            inner = list(command.commands.values()) if isinstance(command, click.Group) else []
            for each in (command, *inner):
                epilog = (each.epilog if each else None) or ""
                shown = re.findall(r"^\s*(deploy .*)$", epilog.replace("\\\n", " "), re.MULTILINE)
                lines += [(f"{name} --help", _without_remark(line), True) for line in shown]
    return lines


LINES = sorted({*((str(path.relative_to(ROOT)), *item) for path in PAGES for item in lines_of(path)), *examples()})


@pytest.mark.parametrize(("page", "line", "complete"), LINES, ids=[f"{page}: {line}" for page, line, _ in LINES])
def test_command_line_is_accepted(page: str, line: str, complete: bool) -> None:
    if "COMMAND" in line:
        pytest.skip("a placeholder for any command")
    parse(line, complete)


def test_command_lines_are_found() -> None:
    pages = {page for page, _, _ in LINES}
    assert len(LINES) > 60 and {"README.md", "docs/int8.md", "docs/ci.md", "docs/faq.md"} <= pages


@pytest.mark.parametrize(
    "line",
    ["deploy exprot resnet18", "deploy export resnet18 --formt onnx", "deploy bench --batch none", "deploy export"],
)
def test_an_invalid_line_is_rejected(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line, True)
