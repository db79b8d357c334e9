"""Messages in protobuf's text format, from plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping

Value = "bool | int | str | Word | Mapping[str, Value] | list[Value]"


class Word(str):
    """A name of an enumeration: written without quotes."""

    __slots__ = ()


def text(message: Mapping[str, object], indent: str = "") -> str:
    """A message, a line for every value; lists are repeated fields, mappings messages."""
    lines = []
    for name, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                lines.append(f"{indent}{name} {{\n{text(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Word, int)):
        return str(value)
    return json.dumps(str(value), ensure_ascii=True)
