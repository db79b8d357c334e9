"""YAML documents with the line of every value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deploy.core.errors import UsageError
from deploy.core.limits import PREFIX, limits
from deploy.core.regular import read_text

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MAX_DIGITS = 100
"""Longer numbers are no values of a sweep, and take quadratic time."""


class Document:
    """A YAML file as plain values.

    Attributes:
        values: mappings, lists and scalars; an empty file is an empty mapping.
        lines: line of each value by its keys and positions from the top; a mapping entry has the line of its key.

    Raises:
        UsageError: the file cannot be read, is not YAML, repeats a key, has a key that is not text, or uses anchors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scalars = yaml.constructor.SafeConstructor()
        self.lines: dict[tuple[str | int, ...], int] = {}
        try:
            node = self._compose(read_text(path, "sweep_bytes"))
            self.values: Any = {} if node is None else self._plain(node, ())
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            raise self.error(mark.line + 1 if mark else 1, f"invalid YAML: {exc.problem or exc.context}.") from exc
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not YAML text"
            raise UsageError(f"{path}: cannot be read: {reason}.") from exc

    def _compose(self, text: str) -> yaml.Node | None:
        depth, most = 0, limits().sweep_depth
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1 if event.start_mark else 1
            if depth > most:
                raise self.error(line, f"more than {most} levels, the limit {PREFIX}SWEEP_DEPTH.")
            if isinstance(event, yaml.AliasEvent):
                raise self.error(line, "anchors and aliases are not supported; repeat the value.")
        return yaml.compose(text, Loader=yaml.SafeLoader)

    def _plain(self, node: yaml.Node, place: tuple[str | int, ...]) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            values: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
                line = key_node.start_mark.line + 1
                if not isinstance(key, str):
                    raise self.error(line, "a key is not text.")
                if key in values:
                    raise self.error(line, f"{key}: duplicate key.")
                below = (*place, key)
                self.lines[below] = line
                values[key] = self._plain(value_node, below)
            return values
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, position)) for position, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            if node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
                raise ValueError("a number of too many digits")
            return self._scalars.construct_object(node)
        except Exception as exc:  # a tag that does not fit its value makes the constructors raise many errors
            raise self.error(node.start_mark.line + 1, f"{node.value[:40]!r} cannot be read.") from exc

    def error(self, line: int, text: str) -> UsageError:
        """Return an error at a line of the file."""
        return UsageError(f"{self._path}:{line}: {text}")

    def line_of(self, place: tuple[str | int, ...]) -> int:
        """Return the line of a value, or of its nearest parent that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)
