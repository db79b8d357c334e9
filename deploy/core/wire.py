"""Messages between a process and its child: one line of JSON, then the bytes of the arrays that the line lists.

Nothing is pickled, so that a compromised child cannot run code in its parent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def send(stream: BinaryIO, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    """Write one message: plain values, and numpy arrays by name, of any dtype but object, in C order."""
    ordered = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in (arrays or {}).items()}
    layout = [(name, value.dtype.str, value.shape) for name, value in ordered.items()]
    stream.write(json.dumps({"message": dict(message), "arrays": layout}).encode() + b"\n")
    for value in ordered.values():
        if value.size:
            stream.write(value.data.cast("B"))
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one message and its arrays.

    Raises:
        EOFError: the stream ended.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    arrays: dict[str, Array] = {}
    for name, dtype, shape in head["arrays"]:
        value: Array = np.empty(shape, np.dtype(dtype))
        view = value.reshape(-1).data.cast("B") if value.size else memoryview(b"")
        filled = 0
        while filled < len(view):
            count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count
        arrays[name] = value
    return head["message"], arrays
