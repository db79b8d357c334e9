"""Readers beside processes that write all the time: no false alarms, and real damage is still found."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from deploy.core import records
from deploy.core.folder import replaced
from deploy.core.store import Store
from deploy.support.package_file import write_package
from deploy.tools.verify import verify

from .conftest import listing, publish
from .test_many_writers import ended, started

Run = Callable[..., Any]
TIMES = 50


def publishing(root: Path) -> None:
    for version in count(1):
        publish(root, version, files=1 + version % 3)


def recording(root: Path) -> None:
    for value in count():
        records.save(root / "net" / "bench" / f"net.{value % 7:016x}.json", "test", 1, {"value": value})


def packaging(root: Path) -> None:
    for value in count():
        with replaced(root / "packages" / "shelf") as folder:
            for name in ("a", "b", "c"):
                (folder / name).write_text(f"{name} {value}" * 1000)
            write_package(folder, {"server": "shelf"})


@contextmanager
def beside(work: Callable[[Path], None], root: Path) -> Iterator[None]:
    """Let another process work all the time; it must still do so at the end."""
    import os

    child = started(lambda: work(root))
    try:
        yield
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the writer ended"
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)


@pytest.mark.parametrize("work", [publishing, recording, packaging])
def test_no_false_alarms_and_no_missed_damage(tmp_path: Path, work: Callable[[Path], None]) -> None:
    publish(tmp_path, 0, files=3)
    publish(tmp_path / "damaged", 0)
    with beside(work, tmp_path):
        for _ in range(TIMES):
            report = verify(tmp_path)
            assert report.problems == report.unfinished == ()
            assert len(Store(tmp_path).artifacts("net")) <= 1
        with (tmp_path / "damaged" / "net" / "net.onnx").open("ab") as file:
            file.write(b"x")
        for _ in range(5):
            assert [problem for problem in verify(tmp_path).problems if "damaged" in problem]


def test_a_writer_without_a_lock_file(tmp_path: Path) -> None:
    """One of an earlier version, or on a file system without locks: what changes is read again."""
    publish(tmp_path / "one", 1)
    publish(tmp_path / "two", 2)
    shutil.copytree(tmp_path / "one", tmp_path / "store")
    (tmp_path / "store" / "net" / ".lock").unlink()

    def work(root: Path) -> None:
        import os
        import time

        for version in count():
            for path in sorted((tmp_path / ("one", "two")[version % 2] / "net").glob("net*")):
                shutil.copyfile(path, root / f".copy-{path.name}")
                os.replace(root / f".copy-{path.name}", root / "net" / path.name)
            time.sleep(0.2)

    with beside(work, tmp_path / "store"):
        for _ in range(TIMES // 2):
            assert verify(tmp_path / "store").problems == ()


def test_report_and_listings(run: Run, lenet5: Path, store: Path) -> None:
    shutil.copytree(lenet5, store)
    words = ("bench", "lenet5", "--backends", "onnxruntime", "--repetitions", "1", "--min-time", "0.01")
    assert run("-q", *words).code == 0
    (record,) = (store / "lenet5" / "bench").glob("*.json")

    def work(root: Path) -> None:
        document = records.check(record)
        content = {name: value for name, value in document.items() if name not in ("kind", "schema", "name")}
        for version in count():
            records.save(record, document["kind"], document["schema"], content)
            publish(root, version, files=1 + version % 3)

    with beside(work, store):
        for _ in range(TIMES // 5):
            ran = run("report", "--json")
            assert ran.code == 0 and len(ran.json["rows"]) == 1 and "left out" not in ran.err
            assert run("verify").code == 0
    assert verify(store).problems == () and any(name.startswith("report/") for name in listing(store))


@pytest.mark.parametrize("name", [".", "net.onnx", "net.onnx.data", "net.onnx.json", "bench", "shelf"])
def test_what_vanishes_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another process may remove a file, or a folder, before any access: it is missing, and that is all."""
    import os

    publish(tmp_path / "whole", 0, files=3)
    records.save(tmp_path / "whole" / "net" / "bench" / f"net.{0:016x}.json", "test", 1, {"value": 1})
    with replaced(tmp_path / "whole" / "net" / "shelf") as folder:
        (folder / "a").write_text("a")
        write_package(folder, {"server": "shelf"})
    accesses = 0

    def looked(folder: Path, at: int | None) -> None:
        """Verify a copy of the folder; remove what is named before an access."""
        nonlocal accesses
        shutil.copytree(tmp_path / "whole", folder)
        accesses = 0

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                nonlocal accesses
                accesses += 1
                if accesses == at:
                    path = folder / "net" / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                return function(*arguments, **options)

            return called

        with monkeypatch.context() as patched:
            for function in ("lstat", "stat", "open", "scandir", "listdir"):
                patched.setattr(os, function, watched(getattr(os, function)))
            verify(folder)
            assert at is None or len(Store(folder).artifacts("net")) <= 1

    looked(tmp_path / "untouched", None)
    for at in range(1, accesses + 1):
        looked(tmp_path / str(at), at)
