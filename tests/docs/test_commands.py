"""Every command line that the documents show is one that the parser takes; none is run."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from deploy.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(.*?)^ *```", re.MULTILINE | re.DOTALL)


def shown(path: Path) -> list[tuple[str, bool]]:
    """The command lines of a page, and whether each is whole: what stands within a sentence may be a beginning."""
    text = path.read_text(encoding="utf-8")
    blocks = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    lines = re.findall(r"^\s*(?:\$ |- run: |run: )?(deploy .*)$", blocks, re.MULTILINE)
    spans = re.findall(r"`\$? ?(deploy\s[^`]*)`", FENCE.sub("", text))
    return [(_cut(line), True) for line in lines] + [(" ".join(span.split()), False) for span in spans]


def _cut(line: str) -> str:
    """Without what a column beside it tells."""
    return re.split(r"\s{2,}", line.strip())[0]


def parse(line: str, whole: bool) -> None:
    """Let click read a line as it would, up to where it would be run.

    Raises:
        click.UsageError: it would not be taken.
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
        name, found, arguments = command.resolve_command(context, rest)
        assert found is not None
        try:
            context = found.make_context(name, list(arguments), parent=context)
        except (click.MissingParameter, click.BadOptionUsage):
            if whole:
                raise
            return
        except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):  # it asks for help
            return
        except click.BadParameter as exc:
            if "does not exist" not in exc.message:
                raise
            return
        command = found


def examples() -> list[tuple[str, str, bool]]:
    """What the commands' own help shows."""
    found = []
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            below = list(command.commands.values()) if isinstance(command, click.Group) else []
            for each in (command, *below):
                epilog = (each.epilog if each else None) or ""
                lines = re.findall(r"^\s*(deploy .*)$", epilog.replace("\\\n", " "), re.MULTILINE)
                found += [(f"{name} --help", _cut(line), True) for line in lines]
    return found


LINES = sorted({*((str(path.relative_to(ROOT)), *item) for path in PAGES for item in shown(path)), *examples()})


@pytest.mark.parametrize(("page", "line", "whole"), LINES, ids=[f"{page}: {line}" for page, line, _ in LINES])
def test_a_line_of_the_documents_is_taken(page: str, line: str, whole: bool) -> None:
    if "COMMAND" in line:
        pytest.skip("it stands for any command")
    parse(line, whole)


def test_there_are_lines() -> None:
    pages = {page for page, _, _ in LINES}
    assert len(LINES) > 60 and {"README.md", "docs/int8.md", "docs/ci.md", "docs/faq.md"} <= pages


@pytest.mark.parametrize(
    "line",
    ["deploy exprot resnet18", "deploy export resnet18 --formt onnx", "deploy bench --batch none", "deploy export"],
)
def test_a_wrong_line_is_seen(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line, True)
