"""Names in an artifacts directory."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

LOCK = ".lock"
"""Name of the lock file in a folder."""
SCRATCH = ".scratch-"
"""Prefix of files and folders that are being written; the process ID follows."""
PENDING = ".publishing-"
"""Prefix of folders whose files are complete and are being moved to their places."""
REPLACED = ".before-"
"""Prefix of the files that a publication replaces; they are in its folder until it is finished."""
REJECTED = "rejected"
"""Subfolder of a model's folder for files that failed the parity check; they never replace one that passed."""
LIMITS = ".limits"
"""Folder of the measured limits of machines."""
SIGNATURE = "model.sig"
"""Name of a folder's signature file."""
REPORT = "report"
"""Folder of the report."""
PACKAGES = "packages"
"""Folder of the packages."""
RESERVED = frozenset({REJECTED, REPORT, PACKAGES, "bench", "evaluation"})
"""Names that the folder of a model cannot have."""


def is_plain(name: str) -> bool:
    """Return whether a name from a file of others names one entry of a folder, and none that this package reserves."""
    reserved = name.startswith(".") or name == SIGNATURE
    return bool(name) and name.isprintable() and PurePath(name).name == name and "\\" not in name and not reserved


def colliding(names: Iterable[str]) -> list[str]:
    """Return the names that some file system takes for an earlier one: same letters, other case or Unicode form."""
    seen: set[str] = set()
    found = []
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        found += [name] if key in seen else []
        seen.add(key)
    return found
