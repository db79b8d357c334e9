"""Read ExportedProgram files (``.pt2``) without running their author's code.

``torch.export.load`` unpickles sample inputs, constants and weights without restriction, loads compiled libraries
(AOTInductor), and evaluates parts of the graph as Python. The archive is therefore written again with what is safe,
and only this copy is given to PyTorch.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveWriter

from deploy.core.archive import ArchiveError, check_archive, check_expansion
from deploy.core.errors import ModelError, UnsafePickleError, UsageError
from deploy.core.limits import PREFIX, limits
from deploy.models.program_graph import clean_graph

_GRAPH, _INPUTS = "models/model.json", "data/sample_inputs/model.pt"
_FORMAT = ("archive_format", "archive_version")
_TENSORS = {"data/weights/": "weight_", "data/constants/": "tensor_"}
"""Folders of tensors, and how the names of tensors in plain bytes begin; other names are those of pickled objects."""
_BEFORE_2_8 = {
    "serialized_exported_program.json": _GRAPH,
    "serialized_state_dict.pt": "data/weights/model.pt",
    "serialized_constants.pt": "data/constants/model.pt",
    "serialized_example_inputs.pt": _INPUTS,
}
"""Names in the files of torch before 2.8, and their names now."""


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Load an ExportedProgram; it has no example inputs and no guards.

    Raises:
        UnsafePickleError: the file contains a pickle or a graph that would run code; it was not loaded.
        ModelError: the file is damaged, not an ExportedProgram, or needs another version of torch.
    """
    try:
        with tempfile.TemporaryFile() as copy:
            with zipfile.ZipFile(path) as archive:
                check_archive(archive, path.stat().st_size)
                _copy(_Members(archive), copy)
            copy.seek(0)
            return _load(copy)
    except UnsafePickleError as exc:
        raise UnsafePickleError(f"{path}: {exc.message}", exc.hint) from exc
    except UsageError:  # of a limit
        raise
    except Exception as exc:  # whatever a damaged file raises
        lines = str(exc).strip().splitlines() or [type(exc).__name__]  # the last one of a traceback is the reason
        raise ModelError(
            f"{path}: not an ExportedProgram that this version of torch can load: {lines[-1][:300]}"
        ) from exc


def _load(copy: Any) -> torch.export.ExportedProgram:
    """Load a copy; torch only logs the error that it meets first, and raises another."""
    logged: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        logged.extend(exc for exc in (record.exc_info or ())[1:2] if isinstance(exc, BaseException))
        return False

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep)
    try:
        return torch.export.load(copy)
    except Exception as exc:
        raise (logged[0] if logged else exc) from exc
    finally:
        logger.removeFilter(keep)


class _Members:
    """The members of an archive by their names in a current file, without the root folder."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        old = _BEFORE_2_8.keys() <= set(archive.namelist())
        self.items = {
            _BEFORE_2_8.get(item.filename, "") if old else item.filename.partition("/")[2]: item
            for item in archive.infolist()
        }
        if _GRAPH not in self.items:
            raise ArchiveError(f"the archive does not contain {_GRAPH}")

    def read(self, name: str) -> bytes:
        """Read a member and check its CRC-32."""
        return self._archive.read(self.items[name])

    def read_json(self, name: str) -> bytes:
        """Read a JSON document of limited size."""
        size, most = self.items[name].file_size, limits().program_bytes
        if size > most:
            raise ArchiveError(f"{name}: {size:,} bytes exceed the limit {PREFIX}PROGRAM_BYTES={most}")
        return self.read(name)


def _copy(members: _Members, target: Any) -> None:
    """Write what is safe in an archive to another."""
    with PT2ArchiveWriter(target) as writer:
        for name in _FORMAT:
            if name in members.items:
                writer.write_bytes(name, members.read(name))
        writer.write_bytes(_GRAPH, clean_graph(members.read_json(_GRAPH)))
        if _INPUTS in members.items:
            _check_pickle(members.read(_INPUTS), "the sample inputs")
        writer.write_bytes(_INPUTS, b"")  # not needed: the graph has the structure of the inputs
        for folder, prefix in _TENSORS.items():
            _copy_tensors(members, folder, prefix, writer)


def _copy_tensors(members: _Members, folder: str, prefix: str, writer: PT2ArchiveWriter) -> None:
    pickled = f"{folder}model.pt"  # torch before 2.9
    if pickled in members.items:
        data = members.read(pickled)
        _check_pickle(data, pickled)
        writer.write_bytes(pickled, data)
        return
    name = f"{folder}model_{folder.split('/')[1]}_config.json"
    text = members.read_json(name)
    entries: Mapping[str, Mapping[str, Any]] = json.loads(text)["config"]
    files = {str(entry["path_name"]): entry for entry in entries.values()}
    for key, entry in entries.items():
        if not re.fullmatch(rf"{prefix}\d+", str(entry["path_name"])) or entry["use_pickle"] is not False:
            raise UnsafePickleError(f"{key!r} in {name} is a pickled object, not a tensor; it was not loaded.")
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        if not members.items[folder + entry["path_name"]].file_size and math.prod(sizes):
            raise ArchiveError(f"the tensor {key!r} of shape {sizes} has no data")
    writer.write_bytes(name, json.dumps(json.loads(text)).encode())
    for file in files:
        writer.write_bytes(folder + file, members.read(folder + file))


def _check_pickle(data: bytes, what: str) -> None:
    if not data:
        return
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                check_expansion(sum(item.file_size for item in archive.infolist()), len(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as exc:
        raise UnsafePickleError(
            f"{what} contain a pickle that is damaged or would execute code; it was not loaded.",
            "if you trust the file: torch.export.save(torch.export.export(module, tensors), FILE)",
        ) from exc
    if not isinstance(loaded, dict | tuple):
        raise UnsafePickleError(f"{what} contain a {type(loaded).__name__}, not tensors; it was not loaded.")
