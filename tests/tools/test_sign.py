"""`deploy sign` and `deploy verify --key`: a signature is valid for exactly the signed files and the right key."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.core.errors import ArtifactError, DigestError
from deploy.tools.sign import sign, verify_signature

Run = Callable[..., Any]


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key."""
    private = ec.generate_private_key(ec.SECP256R1())
    paths = folder / f"{name}.pem", folder / f"{name}.pub"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    paths[0].write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    paths[1].write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture
def signed(run: Run, lenet5: Path, store: Path, tmp_path: Path) -> Path:
    """A signed artifacts directory; its public key is in ``tmp_path``."""
    shutil.copytree(lenet5, store)
    private, _ = pair(tmp_path, "key")
    ran = run("sign", "--key", private)
    assert ran.code == 0 and (store / "model.sig").is_file() and "model.sig" in ran.out
    return store


def test_the_signed_files_are_valid(run: Run, signed: Path, tmp_path: Path) -> None:
    ran = run("verify", "--key", tmp_path / "key.pub")
    assert ran.code == 0 and "signature" in ran.out


def add(store: Path) -> None:
    (store / "notes.txt").write_text("new")


def swap(store: Path) -> None:
    """Another valid artifact with its own manifest, which only the signature detects."""
    from deploy.exporting.export import export_model
    from deploy.models.request import ModelRequest

    export_model(ModelRequest(name="zoo/lenet5", weights="none", seed=1), artifacts=store)


def other_signature(store: Path) -> None:
    (store / "model.sig").write_text("{}")


def added_file(name: str) -> Callable[[Path], None]:
    """A file that the digests of the artifacts do not cover, perhaps in a folder of its own."""

    def change(store: Path) -> None:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("evil")

    change.__name__ = name
    return change


def empty_folder(store: Path) -> None:
    (store / "lenet5" / "rejected").mkdir()


def folder_with_a_lock(store: Path) -> None:
    (store / "other").mkdir()
    (store / "other" / ".lock").touch()


ADDED = (
    ".git/config", ".github/workflows/x.yml", ".gitignore", ".gitattributes", "lenet5/.gitignore", ".hidden",
    "lenet5/rejected/evil.onnx", ".scratch-1-x/evil.onnx", ".limits/evil.onnx", "report/evil.html", "lenet5/README.md",
    "lenet5/bench/log/evil.onnx", "other/.lock/evil.onnx", "lenet5/model.sig",
)  # fmt: skip


@pytest.mark.parametrize(
    "change", [add, swap, other_signature, empty_folder, folder_with_a_lock, *map(added_file, ADDED)]
)
def test_unsigned_changes_are_found(run: Run, signed: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(signed)
    assert run("verify").code == (3 if change.__name__.startswith("other/.lock") else 0), "the digests match"
    ran = run("verify", "--key", tmp_path / "key.pub", "--json")
    assert ran.code == 3 and ran.json["error"]["kind"] == "DigestError" and "Traceback" not in ran.err


def filled_lock(store: Path) -> None:
    (store / "lenet5" / ".lock").write_text("evil")


def folder_for_a_lock(store: Path) -> None:
    (store / "lenet5" / ".lock").unlink()
    (store / "lenet5" / ".lock").mkdir()
    (store / "lenet5" / ".lock" / "evil.onnx").write_text("evil")


def removed(store: Path) -> None:
    (store / "notes.txt").unlink()


def changed(store: Path) -> None:
    (store / "notes.txt").write_text("other")


def renamed(store: Path) -> None:
    (store / "notes.txt").rename(store / "NOTES.txt")


def other_unicode_form(store: Path) -> None:
    (store / "caf\u00e9.txt").rename(store / "cafe\u0301.txt")


def linked(store: Path) -> None:
    shutil.move(store / "notes.txt", store.parent / "away")
    (store / "notes.txt").symlink_to(store.parent / "away")


def linked_folder(store: Path) -> None:
    (store / "lenet5" / "evil").symlink_to(store / "lenet5")


def linked_signature(store: Path) -> None:
    shutil.move(store / "model.sig", store.parent / "away")
    (store / "model.sig").symlink_to(store.parent / "away")


def pipe(store: Path) -> None:
    os.mkfifo(store / "pipe")


@pytest.mark.parametrize(
    "change",
    [filled_lock, folder_for_a_lock, removed, changed, renamed, other_unicode_form, linked, linked_folder,
     linked_signature, pipe],
)  # fmt: skip
def test_changes_of_other_files_are_found(
    lenet5: Path, store: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(lenet5, store)
    for name in ("notes.txt", "caf\u00e9.txt", ".gitignore"):
        (store / name).write_text("signed")
    private, public = pair(tmp_path, "key")
    sign(store, key=private)
    verify_signature(store, key=public)
    change(store)
    with pytest.raises(ArtifactError):
        verify_signature(store, key=public)


def test_a_signed_folder_may_be_renamed_and_lose_its_locks(lenet5: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(lenet5, store)
    private, public = pair(tmp_path, "key")
    sign(store, key=private)
    moved = store.rename(tmp_path / "elsewhere")
    for lock in moved.rglob(".lock"):
        lock.unlink()
    verify_signature(moved, key=public)


def test_a_signature_in_the_folder_by_another_path(
    lenet5: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lenet5, store)
    private, public = pair(tmp_path, "key")
    monkeypatch.chdir(store.parent)
    relative = Path(store.name)
    for _ in range(2):
        sign(relative, key=private, signature=store / "own.sig")
        verify_signature(store, key=public, signature=relative / "own.sig")


def two_cases(store: Path) -> None:
    (store / "a.txt").touch()
    (store / "A.txt").touch()


def two_forms(store: Path) -> None:
    (store / "caf\u00e9").touch()
    (store / "cafe\u0301").touch()


def not_unicode(store: Path) -> None:
    Path(os.fsdecode(os.fsencode(store) + b"/\xff")).touch()


def scratch(store: Path) -> None:
    (store / "lenet5" / ".scratch-1-x").mkdir()
    (store / "lenet5" / ".scratch-1-x" / "half.onnx").touch()


def unfinished(store: Path) -> None:
    (store / "lenet5" / ".publishing-1-x").mkdir()


@pytest.mark.parametrize(
    "change", [two_cases, two_forms, not_unicode, scratch, unfinished, linked_folder, pipe, empty_folder]
)
def test_what_cannot_be_signed(lenet5: Path, store: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    shutil.copytree(lenet5, store)
    change(store)
    private, _ = pair(tmp_path, "key")
    with pytest.raises(DigestError):
        sign(store, key=private)
    assert not (store / "model.sig").exists()


def test_a_signature_of_an_earlier_version(run: Run, lenet5: Path, store: Path, tmp_path: Path) -> None:
    """It left out lock files and the files of git: valid where there are none, else refused with the reason."""
    from model_signing import hashing, signing

    shutil.copytree(lenet5, store)
    private, public = pair(tmp_path, "key")
    ignored = [path.relative_to(store) for path in store.rglob(".lock")] + [Path("model.sig")]
    config = signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=ignored)).sign(store, store / "model.sig")
    assert run("verify", "--key", public).code == 0
    (store / ".gitignore").write_text("evil")
    ran = run("verify", "--key", public, "--json")
    assert ran.code == 3 and "again" in ran.json["error"]["hint"]


def test_a_signature_that_a_stranger_made(run: Run, signed: Path, tmp_path: Path) -> None:
    """Without the hash of its key, which model-signing warns of on standard output; and twice the same key in JSON."""
    path = signed / "model.sig"
    document = json.loads(path.read_text())
    document["verificationMaterial"]["publicKey"] = {}
    text = json.dumps(document)
    payload = json.dumps(document["dsseEnvelope"]["payload"])
    other = text.replace('"payload": ' + payload, '"payload": ' + payload + ', "payload": "e30="')
    assert other != text
    for content, code in ((text, 0), (other, 3), ("[" * 100_000, 3), ("{}", 3), ("", 3)):
        path.write_text(content)
        ran = run("verify", "--key", tmp_path / "key.pub", "--json")
        assert ran.code == code and ran.json, content[:80]


def test_another_key(run: Run, signed: Path, tmp_path: Path) -> None:
    _, public = pair(tmp_path, "other")
    assert run("verify", "--key", public).code == 3


def test_changed_files_are_not_signed(run: Run, lenet5: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(lenet5, store)
    (path,) = store.glob("*/*.onnx")
    path.write_bytes(path.read_bytes() + b"\0")
    private, public = pair(tmp_path, "key")
    ran = run("sign", "--key", private, "--json")
    assert ran.code == 3 and ran.json["error"]["kind"] == "DigestError" and not (store / "model.sig").exists()
    assert run("verify", "--key", public, "--json").json["error"]["kind"] == "ArtifactError"


def test_invalid_keys(run: Run, signed: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for words in (("sign", "--key", tmp_path / "text"), ("verify", "--key", tmp_path / "text")):
        ran = run(*words)
        assert ran.code == 2 and "openssl ecparam" in ran.err, ran.err
    assert run("sign", "--key", tmp_path / "nowhere").code == 2
    assert run("verify", "--signature", signed / "model.sig").code == 2


def test_a_signed_folder_is_still_valid(run: Run, signed: Path, tmp_path: Path) -> None:
    (folder,) = (path for path in signed.iterdir() if path.is_dir())
    private, public = pair(tmp_path, "own")
    assert run("sign", folder, "--key", private).code == 0
    assert run("verify").code == 0 and run("verify", folder, "--key", public).code == 0
