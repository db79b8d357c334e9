"""What the shell offers while a name is typed. Nothing is imported that would take longer than a keystroke."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from click import Context
from click.shell_completion import CompletionItem, FishComplete, add_completion_class

from deploy.core.paths import default_root


@add_completion_class
class FishLists(FishComplete):
    """Fish, with names that contain commas: Click's script would cut a comma-separated list after its first name."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


def offered(names: Iterable[str], incomplete: str, *, paths: bool = False) -> list[CompletionItem]:
    """Return the names that begin with what was typed, sorted.

    Args:
        names: those that can be typed.
        incomplete: what was typed so far.
        paths: a path can be typed as well; bash offers paths if no name matches, other shells offer both.
    """
    items = [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *items] if paths else items  # bash drops what comes before a file


def in_list(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return what can end the last item of a comma-separated list, without the items it has."""
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return offered((f"{before}{comma}{name}" for name in names if name not in given), f"{before}{comma}{last}")


def model_names(ctx: Context, incomplete: str) -> list[str]:
    """Return the names of models: those that were exported, and those that can be.

    Names of a source are offered with their prefix where one was typed; otherwise those of the zoo and of torchvision
    are, and the prefixes of the others.
    """
    from deploy.core.store import Store
    from deploy.models.known import PRECEDENCE, names_without_import, source_names

    prefix, slash, _ = incomplete.partition("/")
    if slash:
        return [f"{prefix}/{name}" for name in names_without_import(prefix) or ()] if prefix in source_names() else []
    exported = [folder.name for folder in Store(_artifacts(ctx)).folders()]
    bare = [name for source in PRECEDENCE if source != "timm" for name in names_without_import(source) or ()]
    return [*exported, *bare, *(f"{source}/" for source in source_names())]


def _artifacts(ctx: Context) -> Path:
    return ctx.find_root().params.get("artifacts") or default_root()
