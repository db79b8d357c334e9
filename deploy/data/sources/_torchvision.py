"""What the data sets of torchvision share: where their files are, and what is said when they are missing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.errors import DataError
from deploy.data.dataset import ArrayImages, Dataset

_TIMEOUT = 15.0
"""Seconds without a byte before a download is given up."""


def default_root() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/deploy-toolkit/data``, else under ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "deploy-toolkit" / "data"


def fetch(
    name: str, split: str, root: Path | None, make: Callable[..., Any], classes: tuple[str, ...], layout: str
) -> Dataset:
    """Read the files of a data set under ``root``, downloading those that are missing.

    Args:
        name: of the data set.
        split: ``train`` or ``test``.
        root: folder of the files, or None for `default_root`.
        make: torchvision's class.
        classes: names in the order of the labels.
        layout: the files that would serve, for the error.

    Raises:
        DataError: they are not there and cannot be fetched, or are damaged.
    """
    folder = root or default_root()
    try:
        with _quiet_and_patient():
            found = make(root=str(folder), train=split == "train", download=True)
            images = np.asarray(found.data)
            labels = np.asarray(found.targets, dtype=np.int64)
    except Exception as exc:  # missing, damaged, no network, no permission: torchvision raises many kinds
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise DataError(
            f"{name} is not under {folder} and could not be downloaded, or is damaged: {reason}",
            f"put the files there, or name their folder with --data-root DIR: {layout}",
        ) from exc
    images = images[..., np.newaxis] if images.ndim == 3 else images
    return Dataset(
        name=name,
        split=split,
        classes=classes,
        images=ArrayImages(images),
        labels=labels,
        digest=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
    )


@contextlib.contextmanager
def _quiet_and_patient() -> Iterator[None]:
    """Nothing torchvision prints may reach stdout, and no connection may wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
