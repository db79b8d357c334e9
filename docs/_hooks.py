"""Pages that are generated when the site is built: one per command, and the list of the Python API.

They are not stored in the repository. The command pages are read from the command line, so they always match it. Only
short lists are stored, for those who read the pages without the site: ``python docs/_hooks.py`` writes them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

import deploy
from deploy.cli.main import ABOUT, cli

SHIM, OWN_SHIM = "https://unpkg.com/iframe-worker/shim", "javascripts/iframe-worker.js"
FOLDER = "commands"
COMMANDS, OPTIONS = "commands", "options"
"""Lists in ``commands/index.md``."""
API = "api"
"""The list in ``python-api.md``."""
DOCS = Path(__file__).parent


def walk(group: click.Group, parent: click.Context | None = None, name: str = "deploy") -> Iterator[click.Context]:
    """Yield the context of every command of a group, a group before its commands."""
    with click.Context(group, info_name=name, parent=parent, **group.context_settings) as context:
        for each in group.list_commands(context):
            command = group.get_command(context, each)
            if command is None:
                continue
            yield click.Context(command, info_name=each, parent=context)
            if isinstance(command, click.Group):
                yield from walk(command, context, each)


def address(context: click.Context) -> str:
    """Return the path of a command's page, ``commands/trt-build.md``."""
    return f"{FOLDER}/{'-'.join(context.command_path.split()[1:])}.md"


def command_page(context: click.Context) -> str:
    """Return the page of a command in Markdown."""
    command = context.command
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    parts = [
        f"# {context.command_path}",
        f"```text\n{usage}\n```",
        *_paragraphs(command.help or ""),
    ]
    if isinstance(command, click.Group):
        children = list(walk(command, context.parent, context.info_name or ""))
        parts += ["## Commands", "\n".join(f"- [{item.command_path}]({_sibling(item)})" for item in children)]
    options = [item for item in command.get_params(context) if isinstance(item, click.Option) and not item.hidden]
    parts += ["## Options", _table(options, context)]
    examples = inspect.cleandoc((command.epilog or "").replace("\b", "")).removeprefix("Examples:")
    if examples.strip():
        parts += ["## Examples", f"```text\n{inspect.cleandoc(examples)}\n```"]
    return "\n\n".join(parts) + "\n"


def replaced(markdown: str, mark: str, text: str) -> str:
    """Return a page with another text between ``<!-- mark -->`` and ``<!-- end of mark -->``."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    return re.sub(f"(?<={begin}).*?(?={end})", lambda _: f"\n\n{text}\n\n", markdown, flags=re.DOTALL)


def public_names() -> dict[str, list[str]]:
    """Return the public names of ``deploy`` by section: functions, classes, errors."""
    public = [name for name in deploy.__all__ if not name.startswith("_")]
    errors = [name for name in public if name.endswith("Error")]
    functions = [name for name in public if name[0].islower()]
    classes = [name for name in public if name not in (*errors, *functions)]
    return {
        "Functions": [f"deploy.{name}" for name in functions],
        "Testing": ["deploy.testing.assert_equal_to_model", "deploy.testing.write_export"],
        "Requests, options and results": [f"deploy.{name}" for name in classes],
        "Errors": [f"deploy.{name}" for name in errors] or ["deploy.core.errors.DeployError"],
    }


def api() -> str:
    """Return mkdocstrings directives for every public name."""
    parts = []
    for title, names in public_names().items():
        parts.append(f"## {title}")
        parts += [f"::: {name}\n    options:\n      heading_level: 3" for name in names]
    return "\n\n".join(parts)


def short_api() -> str:
    """Return what each public name is, in a line, with a link to its source, as text in Markdown."""
    parts = []
    for title, names in public_names().items():
        parts += [f"## {title}", "| name | what it is |\n|---|---|\n" + "\n".join(map(_api_line, names))]
    return "\n\n".join(parts)


def _api_line(name: str) -> str:
    home, _, attribute = name.rpartition(".")
    own = str(getattr(getattr(importlib.import_module(home), attribute), "__module__", ""))
    module = importlib.import_module(own if own.startswith("deploy.") else deploy._HOMES[attribute])
    path = Path(str(module.__file__))
    source = path.relative_to(DOCS.parent)
    about = _docstrings(ast.parse(path.read_text(encoding="utf-8")))[attribute].partition("\n\n")[0]
    return f"| [`{name}`](../{source}) | {_plain(about.replace(chr(10), ' '))} |"


def _docstrings(module: ast.Module) -> dict[str, str]:
    """Return the docstrings of a module's functions, classes and constants by name."""
    found = {}
    for item, after in itertools.zip_longest(module.body, module.body[1:]):
        if isinstance(item, ast.FunctionDef | ast.ClassDef):
            found[item.name] = ast.get_docstring(item) or ""
        elif isinstance(item, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found.update({target.id: str(after.value.value) for target in item.targets if isinstance(target, ast.Name)})
    return found


def _sibling(context: click.Context) -> str:
    return address(context).rpartition("/")[2]


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a help text; those with click's mark against wrapping become code blocks."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            paragraphs.append("```text\n" + inspect.cleandoc(paragraph.removeprefix("\b")) + "\n```")
        else:
            paragraphs.append(_plain(paragraph))
    return paragraphs


def _plain(text: str) -> str:
    """Escape the characters that Markdown would interpret, except in code between backquotes."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        pieces = [text]
    return "`".join(piece if index % 2 else _escaped(piece) for index, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    for sign in "\\*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


def _table(options: list[click.Option], context: click.Context) -> str:
    rows = ["| option | meaning | default |", "|---|---|---|"]
    for option in options:
        described: dict[str, Any] = option.to_info_dict()
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        value = "" if option.is_flag else f" `{option.make_metavar(context).removesuffix(' RANGE')}`"
        text, _, default = (described["help"] or "").partition("[default: ")  # a default that the code computes
        text = _plain(text.strip()) + _bounds(option.type)
        text += " May be repeated." if option.multiple and "repeat" not in text.lower() else ""
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
    low = "" if kind.min is None else f"{'above' if kind.min_open else 'from'} {kind.min}"
    high = "" if kind.max is None else f"to {kind.max}"
    return f" ({' '.join(part for part in (low, high) if part)})"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the command pages to the navigation."""
    for item in config.nav or []:
        if isinstance(item, dict) and "Commands" in item:
            item["Commands"] = [f"{FOLDER}/index.md", *(address(context) for context in walk(cli))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the command pages."""
    for context in walk(cli):
        files.append(File.generated(config, address(context), content=command_page(context)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take the shim that searches without a server from this site, not from another one."""
    return output.replace(SHIM, get_relative_url(OWN_SHIM, page.url))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same in the page that is shown for missing ones."""
    return output_content.replace(SHIM, OWN_SHIM)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the short list of ``python-api.md`` by the whole API; link the commands to their pages."""
    if page.file.src_uri == "python-api.md":
        return replaced(markdown, API, api())
    if page.file.src_uri == f"{FOLDER}/index.md":
        return replaced(markdown, COMMANDS, command_list(linked=True))
    return markdown


def command_list(*, linked: bool) -> str:
    """Return a table of all commands, with or without links to their pages."""
    rows = ["| command | what it does |", "|---|---|"]
    for context in walk(cli):
        names = context.command_path.split()[1:]
        about = ABOUT.get(" ".join(names)) or context.command.get_short_help_str(200)
        name = f"`{context.command_path}`"
        rows.append(f"| {f'[{name}]({_sibling(context)})' if linked else name} | {_plain(about)} |")
    return "\n".join(rows)


def option_list() -> str:
    """Return a table of the options of ``deploy`` itself."""
    with click.Context(cli, info_name="deploy", **cli.context_settings) as root:
        return _table([item for item in cli.get_params(root) if isinstance(item, click.Option)], root)


def stored_pages() -> dict[Path, str]:
    """Return the pages with stored lists, as they should be."""
    commands, python = DOCS / FOLDER / "index.md", DOCS / "python-api.md"
    listed = replaced(commands.read_text(encoding="utf-8"), COMMANDS, command_list(linked=False))
    return {
        commands: replaced(listed, OPTIONS, option_list()),
        python: replaced(python.read_text(encoding="utf-8"), API, short_api()),
    }


if __name__ == "__main__":
    for path, text in stored_pages().items():
        path.write_text(text, encoding="utf-8")
