"""If any fsync, rename, mkdir or write fails: an error, the old artifact intact, and nothing left over."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deploy.core import records
from deploy.core.errors import StorageError
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

from .conftest import EXPORTED, Counted, failing, listing, publish, version_of

Run = Callable[..., Any]
REPLACING, FRESH, RECORD, EXPORT = 16, 16, 4, 13
"""Number of system calls of each; `test_every_call_has_its_turn` checks them."""


def calls(work: Callable[[], object]) -> int:
    with Counted(None, lambda name: None) as counted:
        work()
    return counted.count


def record(root: Path, value: int) -> None:
    records.save(root / "net" / "bench" / "cell.0123456789abcdef.json", "test", 1, {"value": value})


def test_every_call_has_its_turn(tmp_path: Path, run: Run, store: Path, lenet5: Path) -> None:
    assert calls(lambda: publish(tmp_path, 1)) == FRESH
    assert calls(lambda: publish(tmp_path, 2)) == REPLACING
    record(tmp_path, 1)
    assert calls(lambda: record(tmp_path, 2)) == RECORD
    shutil.copytree(lenet5, store)
    assert calls(lambda: run(*EXPORTED)) == EXPORT


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["no space", "I/O error"])
@pytest.mark.parametrize("at", range(1, REPLACING + 1))
def test_an_artifact_of_several_files_is_replaced_or_not(tmp_path: Path, at: int, number: int) -> None:
    publish(tmp_path, 1)
    before = listing(tmp_path)
    try:
        with failing(at, number):
            publish(tmp_path, 2)
    except StorageError:
        assert listing(tmp_path) == before
        assert version_of(tmp_path) == 1
    else:  # a folder that is there need not be made
        assert version_of(tmp_path) == 2 and len(listing(tmp_path)) == len(before)
    publish(tmp_path, 3)
    assert version_of(tmp_path) == 3 and len(listing(tmp_path)) == len(before)


@pytest.mark.parametrize("at", range(1, FRESH + 1))
def test_a_first_artifact_is_there_or_nothing_is(tmp_path: Path, at: int) -> None:
    root = tmp_path / "artifacts"
    try:
        with failing(at):
            publish(root, 1)
    except StorageError:
        assert listing(tmp_path) == {}
    else:
        assert version_of(root) == 1
    publish(root, 2)
    assert version_of(root) == 2


@pytest.mark.parametrize("at", range(1, RECORD + 1))
def test_a_record_is_whole_the_old_or_the_new(tmp_path: Path, at: int) -> None:
    record(tmp_path, 1)
    with failing(at), suppress(StorageError):
        record(tmp_path, 2)
    (name,) = listing(tmp_path)
    value = records.load(tmp_path / name, "test", 1)["value"]
    assert value == 1 or at in (1, RECORD)  # its folder need not be made; the rename is done and not flushed


@pytest.mark.parametrize("at", by_day(range(1, EXPORT + 1), *range(1, EXPORT + 1, 2)))
def test_an_export_fails_and_the_old_one_stays(run: Run, store: Path, lenet5: Path, at: int) -> None:
    shutil.copytree(lenet5, store)
    before = listing(store)
    with failing(at):
        ran = run(*EXPORTED, "--seed", "1", "--json")
    if ran.code:
        assert ran.code == 1 and ran.json["error"]["kind"] == "StorageError" and "Traceback" not in ran.err
        assert listing(store) == before
    else:
        assert listing(store).keys() == before.keys()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let writes fail that would make a file larger than ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 4_096, 50_000, 100_000, 200_000, 250_000])
def test_a_write_fails(run: Run, store: Path, lenet5: Path, size: int) -> None:
    shutil.copytree(lenet5, store)
    before = listing(store)
    with files_up_to(size):
        ran = run(*EXPORTED, "--seed", "1")
    assert ran.code == 1 and "Traceback" not in ran.err
    assert listing(store) == before
