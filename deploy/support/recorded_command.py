"""Commands that a manifest records. It may come from somebody else, and what it says is shown to users and run."""

from __future__ import annotations

import shlex
from pathlib import Path

from deploy.core.artifact import Manifest
from deploy.support.lookup import name_for

COMMANDS = (("quantize",), ("train",), ("trt", "build"))
# fmt: off
OPTIONS = frozenset((
    "--calib", "--target", "--method", "--samples", "--effort", "--max-drop", "--min-sqnr", "--preprocess",
    "--cpu", "--skip-bad", "--data", "--qat", "--epochs", "--lr", "--batch-size", "--seed", "--name",
    "--fp16", "--int8", "--fp8", "--keep-float", "--only-half", "--plan", "--batch", "--shape", "--runtime",
    "--workspace", "--optimization-level", "--compute-capability",
))
# fmt: on
"""Options of commands that make a file in the artifacts directory: none of them names a place to write to."""


def recorded_command(manifest: Manifest, key: str) -> str | None:
    """Return a command that a manifest records under an option, ``rebuild`` or ``mend``.

    None if there is none, or if it does anything else than to make a file of this model.
    """
    text = manifest.options.get(key)
    try:
        words = shlex.split(text) if isinstance(text, str) else []
    except ValueError:
        return None
    command = next((item for item in COMMANDS if tuple(words[1 : 1 + len(item)]) == item), None)
    if command is None or words[0] != "deploy":
        return None
    first, *rest = words[1 + len(command) :] or [""]
    own = {name_for(manifest.model, manifest.slug), manifest.slug, str(manifest.reference.get("name"))}
    own |= {first} if first == f"{Path(first).parent / manifest.slug}.onnx" else set()  # a lone file, by its path
    options = {word.partition("=")[0] for word in rest if word.startswith("-")}
    return str(text) if first in own and options <= OPTIONS else None
