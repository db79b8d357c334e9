"""Checks of zip archives and compressed data of others, before they are unpacked."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from pathlib import PurePosixPath

from deploy.core.limits import PREFIX, limits

SMALL_BYTES = 1 << 26
"""What unpacks to no more than this is read, however well it is compressed."""


class ArchiveError(ValueError):
    """An archive that is not unpacked; the message says why."""


def check_archive(archive: zipfile.ZipFile, packed_bytes: int) -> None:
    """Check the names and sizes in an archive of ``packed_bytes``; nothing is unpacked.

    Raises:
        ArchiveError: two members have the same name, a name is a path out of the archive, a member is encrypted, or
            the archive would unpack to more than the limit ``archive_expansion`` allows.
    """
    members = archive.infolist()
    repeated = next((name for name, count in Counter(item.filename for item in members).items() if count > 1), None)
    if repeated is not None:
        raise ArchiveError(f"the archive has two members named {repeated!r}")
    for item in members:
        place = PurePosixPath(item.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts:
            raise ArchiveError(f"the archive has a member outside its folder, {item.filename!r}")
        if item.flag_bits & 0x1:
            raise ArchiveError(f"member {item.filename!r} of the archive is encrypted")
    check_expansion(sum(item.file_size for item in members), packed_bytes)


def check_expansion(unpacked_bytes: int, packed_bytes: int) -> None:
    """Raise `ArchiveError` if data would unpack to more than the limit ``archive_expansion`` allows."""
    if unpacked_bytes > most_unpacked(packed_bytes):
        raise ArchiveError(
            f"{packed_bytes:,} bytes would unpack to {unpacked_bytes / 1e9:.1f} GB, more than the limit "
            f"{PREFIX}ARCHIVE_EXPANSION={limits().archive_expansion} allows"
        )


def most_unpacked(packed_bytes: int) -> int:
    """Return the number of bytes that ``packed_bytes`` may unpack to."""
    return max(SMALL_BYTES, limits().archive_expansion * packed_bytes)


def inflate(packed: bytes) -> bytes:
    """Unpack zlib data.

    Raises:
        ArchiveError: it unpacks to more than the limit ``archive_expansion`` allows, or is incomplete.
        zlib.error: it is damaged.
    """
    stream = zlib.decompressobj()
    data = stream.decompress(packed, most_unpacked(len(packed)))
    if not stream.eof:
        raise ArchiveError("compressed data that is incomplete, or larger than it may be")
    return data
