"""Shared by the data sets of torchvision: where the files are, and how they are downloaded."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.errors import DataError
from deploy.data.dataset import Dataset

_TIMEOUT_S = 15.0
"""A download that receives no byte for this long is given up."""


def load_torchvision(
    name: str, split: str, root: Path | None, make: Callable[..., Any], classes: tuple[str, ...], layout: str
) -> Dataset:
    """Read a data set under ``root`` (default: the user's cache folder), downloading missing files.

    Raises:
        DataError: the files are missing and cannot be downloaded, or are damaged.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root or cache / "deploy-toolkit" / "data"
    try:
        with _quiet_download():
            loaded = make(root=str(folder), train=split == "train", download=True)
            images = np.asarray(loaded.data)
            labels = np.asarray(loaded.targets, dtype=np.int64)
    except Exception as exc:  # missing, damaged, no network, no permission: torchvision raises many types
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise DataError(
            f"{name}: not found in {folder} and not downloaded, or damaged: {reason}",
            f"put the files there, or give their folder with --data-root DIR: {layout}",
        ) from exc
    images = images[..., np.newaxis] if images.ndim == 3 else images
    return Dataset.from_arrays(name, split, classes, images, labels)


@contextlib.contextmanager
def _quiet_download() -> Iterator[None]:
    """Send torchvision's output to stderr and limit the wait for a connection."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
