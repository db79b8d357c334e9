"""A sweep as a YAML file; what is wrong in it is told with its line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from deploy.core.errors import UsageError
from deploy.sweeps.spec import Place, Spec, SpecError, parse

MOST_BYTES = 1 << 20


class _Node:
    """Plain values of a YAML document, with the line of each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scalars = yaml.constructor.SafeConstructor()
        self.lines: dict[Place, int] = {}

    def plain(self, node: yaml.Node, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = self._scalars.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
                line = key_node.start_mark.line + 1
                if not isinstance(key, str):
                    raise self.wrong(line, "a key that is no text.")
                if key in found:
                    raise self.wrong(line, f"{key} is there twice.")
                below: Place = (*place, key)
                self.lines[below] = line
                found[key] = self.plain(value_node, below)
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*place, position)) for position, item in enumerate(node.value)]
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            raise self.wrong(node.start_mark.line + 1, f"{node.value[:40]!r} cannot be read.") from exc

    def wrong(self, line: int, text: str) -> UsageError:
        return UsageError(f"{self._path}:{line}: {text}")

    def line_of(self, place: Place) -> int:
        """The line of a value, or of the nearest thing above it that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read(path: Path, backends: Collection[str]) -> Spec:
    """Read a sweep.

    Args:
        path: a YAML file; see ``docs/sweeps.md`` for its fields.
        backends: that there are.

    Raises:
        UsageError: it is no YAML, or no sweep; with the line.
    """
    reader = _Node(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path}: larger than {MOST_BYTES >> 20} MiB: no sweep is.")
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise reader.wrong(line, "anchors are not read; write the value out.")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        plain = {} if node is None else reader.plain(node, ())
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise reader.wrong(mark.line + 1 if mark else 1, f"not YAML: {exc.problem or exc.context}.") from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not a text in YAML"
        raise UsageError(f"{path}: cannot be read: {why}.") from exc
    try:
        return parse(plain, backends)
    except SpecError as exc:
        raise reader.wrong(reader.line_of(exc.place), exc.message) from exc
