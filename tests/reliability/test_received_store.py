"""An artifacts directory of a stranger: what reads it changes nothing in it and reads nothing outside, nor waits."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deploy.core import records
from deploy.core.artifact import Artifact, Payload, manifest_path
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, DeployError, DigestError, StorageError
from deploy.core.store import Store, clear, write_file
from deploy.tools.verify import verify

from . import fuzz
from .conftest import listing, publish, version_of

Run = Callable[..., Any]
Attack = Callable[[Path, Path], object]
OF_NOBODY = 4194303 + 1  # beyond the highest process ID
TIMEOUT_S = 120


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """An artifacts directory with one artifact of three files, to be changed."""
    publish(tmp_path / "received", 1, files=3)
    return tmp_path / "received"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder that must not be changed."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "id_rsa").write_text("secret")
    (folder / f".scratch-{OF_NOBODY}-notes").write_text("mine")
    return folder


def state(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return what is in a folder, links included, with types, sizes and times."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        target = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(root))] = status.st_mode, status.st_size, status.st_mtime_ns, target
    return found


def linked_publication(root: Path, victim: Path) -> None:
    (root / "net" / ".publishing-1-x").symlink_to(victim)


def linked_publication_at_the_top(root: Path, victim: Path) -> None:
    (root / ".publishing-1-x").symlink_to(victim)


def linked_scratch(root: Path, victim: Path) -> None:
    (root / "net" / f".scratch-{OF_NOBODY}-x").symlink_to(victim)


def linked_lock(root: Path, victim: Path) -> None:
    (root / "net" / ".lock").unlink()
    (root / "net" / ".lock").symlink_to(victim / "id_rsa")
    (root / "net" / ".publishing-2-x").mkdir()
    (root / "net" / "net.onnx").write_bytes(b"other")  # a reader that finds a difference takes the lock


def linked_model(root: Path, victim: Path) -> None:
    publish(victim.parent / "other", 2)
    (root / "other").symlink_to(victim.parent / "other" / "net")


def linked_rejected(root: Path, victim: Path) -> None:
    (root / "net" / "rejected").symlink_to(victim)


def linked_records(root: Path, victim: Path) -> None:
    (root / "net" / "bench").symlink_to(victim)


def linked_manifest(root: Path, victim: Path) -> None:
    move_out(root / "net" / "net.onnx.json", victim)


def linked_file(root: Path, victim: Path) -> None:
    move_out(root / "net" / "net.onnx.data", victim)


def linked_limits(root: Path, victim: Path) -> None:
    (root / ".limits").symlink_to(victim)


def linked_report(root: Path, victim: Path) -> None:
    (root / "report").symlink_to(victim)


def dangling_link(root: Path, victim: Path) -> None:
    (root / "net" / "bench").symlink_to(victim / "nothing")


def pipe_for_a_manifest(root: Path, victim: Path) -> None:
    os.mkfifo(root / "net" / "other.onnx.json")


def pipe_for_a_record(root: Path, victim: Path) -> None:
    (root / "net" / "bench").mkdir()
    os.mkfifo(root / "net" / "bench" / "net.0123456789abcdef.json")


def pipe_for_a_file(root: Path, victim: Path) -> None:
    (root / "net" / "net.onnx").unlink()
    os.mkfifo(root / "net" / "net.onnx")


def pipe_for_a_lock(root: Path, victim: Path) -> None:
    (root / "net" / ".lock").unlink()
    os.mkfifo(root / "net" / ".lock")
    (root / "net" / "net.onnx").write_bytes(b"other")


def pipe_for_a_package(root: Path, victim: Path) -> None:
    (root / "packages").mkdir()
    records.save(root / "packages" / "package.json", "package", 1, {"files": {"x": "0" * 64}})
    os.mkfifo(root / "packages" / "x")


def socket_for_a_file(root: Path, victim: Path) -> None:
    before = Path.cwd()
    os.chdir(root / "net")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("extra.json")
    os.chdir(before)


def folder_for_a_lock(root: Path, victim: Path) -> None:
    (root / "net" / ".lock").unlink()
    (root / "net" / ".lock").mkdir()
    (root / "net" / ".lock" / "evil.onnx").write_text("x")


def names_that_lead_outside(root: Path, victim: Path) -> None:
    rewrite(root, lambda data: data["files"][1].update(file="../../victim/id_rsa"))


def publication_of_others(root: Path, victim: Path) -> None:
    """A real folder, but its files are not those of its manifest."""
    place = root / "net" / ".publishing-3-x"
    shutil.copytree(root / "net", place)
    (place / "id_rsa").write_text("x")


def publication_with_links(root: Path, victim: Path) -> None:
    place = root / "net" / ".publishing-3-x"
    shutil.copytree(root / "net", place, ignore=lambda *_: [".lock"])
    move_out(place / "net.onnx.data", victim)


ATTACKS: tuple[Attack, ...] = (
    linked_publication, linked_publication_at_the_top, linked_scratch, linked_lock, linked_model, linked_rejected,
    linked_records, linked_manifest, linked_file, linked_limits, linked_report, dangling_link, pipe_for_a_manifest,
    pipe_for_a_record, pipe_for_a_file, pipe_for_a_lock, pipe_for_a_package, socket_for_a_file, folder_for_a_lock,
    names_that_lead_outside, publication_of_others, publication_with_links,
)  # fmt: skip


def publish_rejected(root: Path) -> None:
    """Publish to the folder of files that failed the parity check."""
    with Store(root).transaction("net") as transaction:
        path = transaction.path("net.onnx")
        path.write_bytes(b"rejected")
        transaction.publish(dataclasses.replace(fuzz.MANIFEST, files=(Payload.of(path),)), "rejected")


def move_out(path: Path, victim: Path) -> None:
    """Replace a file by a link to it."""
    shutil.move(path, victim / path.name)
    path.symlink_to(victim / path.name)


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as somebody does who can write manifests."""
    path = root / "net" / "net.onnx.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(dump_checked(data))


class Waited(BaseException):
    """Something took too long; nothing between catches it."""


@pytest.fixture
def in_time() -> Iterator[None]:
    """Fail after so many seconds instead of waiting for a pipe."""
    import signal

    def late(*_: object) -> None:
        raise Waited

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TIMEOUT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("attack", ATTACKS)
def test_readers_change_nothing(run: Run, received: Path, victim: Path, tmp_path: Path, attack: Attack) -> None:
    attack(received, victim)
    before = state(received), state(victim)
    report = verify(received)
    assert report.problems
    ran = run("verify", received)
    assert ran.code == 3 and "Traceback" not in ran.err
    for words in (("report",), ("package", "net", "--for", "triton", "--output", tmp_path / "package")):
        ran = run("--artifacts", received, *words)
        assert ran.code in (1, 2, 3) and "Traceback" not in ran.err, ran.err
    assert run("inspect", received / "net" / "net.onnx").code == 1  # it is no ONNX file
    for artifact in Store(received).artifacts():
        with suppress(DeployError):
            artifact.verify()
    assert (state(received), state(victim)) == before


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("attack", ATTACKS)
def test_writers_change_nothing_outside(received: Path, victim: Path, attack: Attack) -> None:
    attack(received, victim)
    before = state(victim)
    for work in (
        lambda: publish(received, 2, files=1),
        lambda: publish_rejected(received),
        lambda: records.save(received / "net" / "bench" / "net.0123456789abcdef.json", "timings", 2, {}),
        lambda: write_file(received / ".limits" / "x.json", b"x", depth=1),
        lambda: write_file(received / "report" / "index.html", b"x", depth=1),
    ):
        with suppress(DeployError):
            work()
    assert state(victim) == before


def test_readers_create_nothing(run: Run, received: Path) -> None:
    """Also no lock, and also where a file is damaged."""
    (received / "net" / ".lock").unlink()
    (received / "net" / "net.onnx").write_bytes(b"other")
    before = state(received)
    assert run("verify", received).code == 3
    assert run("--artifacts", received, "report").code == 1
    for artifact in Store(received).artifacts():
        with pytest.raises(DigestError):
            artifact.verify()
    assert state(received) == before


def test_a_publication_is_finished_by_writers_only(run: Run, received: Path, tmp_path: Path) -> None:
    publish(tmp_path / "newer", 2, files=2)
    place = received / "net" / f".publishing-{OF_NOBODY}-x"
    shutil.copytree(tmp_path / "newer" / "net", place, ignore=lambda *_: [".lock"])
    os.replace(place / "net.onnx.data", received / "net" / "net.onnx.data")
    before = state(received)
    report = verify(received)
    assert report.unfinished == (place,) and report.problems == ()
    assert run("verify", received).code == 3 and run("--artifacts", received, "report").code == 1
    (artifact,) = Store(received).artifacts()
    with pytest.raises(DigestError, match="killed"):
        artifact.verify()
    assert state(received) == before
    assert version_of(received) == 2
    assert sorted(listing(received)) == ["net/net.onnx", "net/net.onnx.data", "net/net.onnx.json"]
    assert verify(received).problems == verify(received).unfinished == ()


def test_a_damaged_publication_is_a_problem(received: Path, tmp_path: Path) -> None:
    place = received / "net" / f".publishing-{OF_NOBODY}-x"
    shutil.copytree(received / "net", place, ignore=lambda *_: [".lock"])
    (place / "net.onnx").write_bytes(b"other")
    assert any("net.onnx" in problem for problem in verify(received).problems) and not verify(received).unfinished


@pytest.mark.parametrize(
    "name",
    [
        "../../victim/id_rsa", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".lock", ".publishing-1-x", "model.sig",
        "a\0b", "a\nb", "\ud800", "net.onnx.JSON", "NET.onnx", "net.onnx",
    ],
)  # fmt: skip
def test_names_in_manifests_of_strangers(received: Path, victim: Path, name: str) -> None:
    """Neither read nor, as a file that the next artifact no longer has, removed."""
    rewrite(received, lambda data: data["files"][1].update(file=name))
    with pytest.raises(ArtifactError):
        Artifact.open(received / "net" / "net.onnx")
    before = state(victim)
    publish(received, 2, files=1)
    assert state(victim) == before and (received / "net" / "net.labels").exists()


@pytest.mark.parametrize("slug", ["../victim", "/tmp", "..", ".limits", "", "a/b", "a\0"])
def test_slugs_of_strangers(received: Path, victim: Path, slug: str) -> None:
    rewrite(received, lambda data: data.update(slug=slug))
    assert Store(received).artifacts() == [] and verify(received).problems
    with pytest.raises(StorageError), Store(received).transaction(slug):
        pass


def test_files_of_another_artifact_are_not_removed(received: Path) -> None:
    """A manifest that lists them, and a new artifact that does not."""
    shutil.copy(received / "net" / "net.onnx", received / "net" / "other.onnx")
    other = Artifact.open(received / "net" / "net.onnx").manifest
    payload = Payload.of(received / "net" / "other.onnx")
    beside = manifest_path(received / "net" / "other.onnx")
    beside.write_text(dataclasses.replace(other, files=(payload,)).to_json())
    stolen = ["other.onnx", "other.onnx.json"]
    rewrite(received, lambda data: data["files"].extend({**data["files"][0], "file": name} for name in stolen))
    publish(received, 2, files=1)
    assert (received / "net" / "other.onnx").exists() and beside.exists()
    assert not (received / "net" / "net.labels").exists()


def test_only_scratch_of_this_package_is_cleared(tmp_path: Path) -> None:
    ours = tmp_path / f".scratch-{OF_NOBODY}-x"
    ours.mkdir()
    others = [".scratch-notes", ".scratch-", ".scratch--1-x", ".scratch-99999999999999999999-x"]
    for name in others:
        (tmp_path / name).write_text("mine")
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_large_documents_are_not_read(received: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a terabyte that is a hole."""
    with (received / "net" / "net.onnx.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert verify(received).problems


@pytest.mark.parametrize("content", [{}, {"files": []}, {"files": {"x": 1}}, {"files": None}])
def test_a_package_that_is_none(tmp_path: Path, content: dict[str, Any]) -> None:
    records.save(tmp_path / "package" / "package.json", "package", 1, content)
    assert verify(tmp_path).problems


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "other files", "a folder in a folder"])
def test_nothing_to_verify_is_an_error(run: Run, tmp_path: Path, what: str) -> None:
    root = tmp_path / "root"
    if what != "nothing":
        (root / "inner").mkdir(parents=True) if what == "a folder in a folder" else root.mkdir()
    if what == "other files":
        (root / "model.onnx").write_bytes(b"x")
    ran = run("verify", root, "--json")
    assert ran.code == 1 and ran.json["error"]["kind"] == "ArtifactError" and ran.json["error"]["hint"]
