"""Pages that are made when the site is built: one for each command, read from the command line itself.

Nothing of them is kept in the repository, so what a page says of an option is what the option does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from deploy.cli.main import ABOUT, cli

FOLDER = "commands"
LIST = "<!-- commands -->"
OPTIONS = "<!-- options -->"
"""Where ``commands/index.md`` gets its tables."""


def walk(group: click.Group, above: click.Context | None = None, name: str = "deploy") -> Iterator[click.Context]:
    """The context of every command below a group, groups before what is in them."""
    with click.Context(group, info_name=name, parent=above, **group.context_settings) as context:
        for each in group.list_commands(context):
            command = group.get_command(context, each)
            if command is None:
                continue
            yield click.Context(command, info_name=each, parent=context)
            if isinstance(command, click.Group):
                yield from walk(command, context, each)


def address(context: click.Context) -> str:
    """``commands/trt-build.md``."""
    return f"{FOLDER}/{'-'.join(context.command_path.split()[1:])}.md"


def page(context: click.Context) -> str:
    """The page of one command, in Markdown."""
    command = context.command
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    parts = [
        f"# {context.command_path}",
        f"```text\n{usage}\n```",
        *_paragraphs(command.help or ""),
    ]
    if isinstance(command, click.Group):
        below = [item for item in walk(command, context.parent, context.info_name or "") if item.command is not command]
        parts += ["## Commands", "\n".join(f"- [{item.command_path}]({_beside(item)})" for item in below)]
    options = [item for item in command.get_params(context) if isinstance(item, click.Option)]
    parts += ["## Options", _table(options, context)]
    examples = inspect.cleandoc((command.epilog or "").replace("\b", "")).removeprefix("Examples:")
    if examples.strip():
        parts += ["## Examples", f"```text\n{inspect.cleandoc(examples)}\n```"]
    return "\n\n".join(parts) + "\n"


def _beside(context: click.Context) -> str:
    return address(context).rpartition("/")[2]


def _paragraphs(text: str) -> list[str]:
    """Paragraphs as click sets them; what follows its mark for text that is not to be wrapped is code."""
    found = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            found.append("```text\n" + inspect.cleandoc(paragraph.removeprefix("\b")) + "\n```")
        else:
            found.append(_plain(paragraph))
    return found


def _plain(text: str) -> str:
    """Help is no Markdown: its signs are shown as they are, but for code between backquotes."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        pieces = [text]
    return "`".join(piece if index % 2 else _escaped(piece) for index, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    for sign in "\\*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


def _table(options: list[click.Option], context: click.Context) -> str:
    rows = ["| option | what it does | default |", "|---|---|---|"]
    for option in options:
        told: dict[str, Any] = option.to_info_dict()
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        value = "" if option.is_flag else f" `{option.make_metavar(context).removesuffix(' RANGE')}`"
        text, _, default = (told["help"] or "").partition("[default: ")  # what the code decides is told in the text
        text = _plain(text.strip()) + _bounds(option.type)
        text += " May be repeated." if option.multiple and "repeated" not in text else ""
        if option.required:
            default = "required"
        elif default:
            default = _plain(default.strip().removesuffix("]"))
        elif option.show_default and option.default not in (None, ()) and not option.is_flag:
            default = f"`{option.default}`"
        rows.append(f"| {names}{value} | {text} | {default} |")
    return "\n".join(rows)


def _bounds(kind: click.ParamType[Any]) -> str:
    if not isinstance(kind, (click.IntRange, click.FloatRange)):
        return ""
    least = "" if kind.min is None else f"{'above' if kind.min_open else 'from'} {kind.min}"
    most = "" if kind.max is None else f"to {kind.max}"
    return f" ({' '.join(part for part in (least, most) if part)})"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages in the navigation; the configuration has only the place, since they are not there yet."""
    for item in config.nav or []:
        if isinstance(item, dict) and "Commands" in item:
            item["Commands"] = [f"{FOLDER}/index.md", *(address(context) for context in walk(cli))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for context in walk(cli):
        files.append(File.generated(config, address(context), content=page(context)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the list of commands, and the table of what stands before them."""
    if LIST not in markdown:
        return markdown
    with click.Context(cli, info_name="deploy", **cli.context_settings) as root:
        options = [item for item in cli.get_params(root) if isinstance(item, click.Option)]
        markdown = markdown.replace(OPTIONS, _table(options, root))
    rows = ["| command | what it does |", "|---|---|"]
    for context in walk(cli):
        names = context.command_path.split()[1:]
        about = ABOUT.get(" ".join(names)) or context.command.get_short_help_str(200)
        rows.append(f"| [`{context.command_path}`]({_beside(context)}) | {_plain(about)} |")
    return markdown.replace(LIST, "\n".join(rows))
