"""The identity of a graph without its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from deploy.support import onnx_file


def structure(path: Path) -> str:
    """Return the SHA-256 of the nodes of a graph: operators, names of values and attributes; weights do not count."""
    digest = hashlib.sha256()
    for node in onnx_file.load(path).graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        digest.update(node.SerializeToString(deterministic=True))
    return digest.hexdigest()
