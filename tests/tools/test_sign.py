"""`deploy sign` and `deploy verify --key`: a signature is valid for exactly the signed files and the right key."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

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


@pytest.mark.parametrize("change", [add, swap, other_signature])
def test_unsigned_changes_are_found(run: Run, signed: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(signed)
    assert run("verify").code == 0, "the digests match"
    ran = run("verify", "--key", tmp_path / "key.pub", "--json")
    assert ran.code == 3 and ran.json["error"]["kind"] == "DigestError" and "Traceback" not in ran.err


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
