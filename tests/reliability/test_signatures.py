"""Signatures: they hold for what was signed, with the right key, and for nothing else."""

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
    """A store that was signed; its public key lies beside it."""
    shutil.copytree(lenet5, store)
    private, _ = pair(tmp_path, "key")
    ran = run("sign", "--key", private)
    assert ran.code == 0 and "model.sig" in ran.out
    return store


def test_it_holds(run: Run, signed: Path, tmp_path: Path) -> None:
    ran = run("verify", "--key", tmp_path / "key.pub")
    assert ran.code == 0 and "the signature holds" in ran.out


def add(store: Path) -> None:
    (store / "notes.txt").write_text("new")


def swap(store: Path) -> None:
    """Another artifact with a manifest of its own, sealed and sound: only the signature tells."""
    from deploy.exporting.export import export_model
    from deploy.models.request import ModelRequest

    export_model(ModelRequest(name="zoo/lenet5", weights="none", seed=1), artifacts=store)


def other_signature(store: Path) -> None:
    (store / "model.sig").write_text("{}")


@pytest.mark.parametrize("change", [add, swap, other_signature])
def test_what_was_not_signed(run: Run, signed: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(signed)
    assert run("verify").code == 0, "the digests hold"
    ran = run("verify", "--key", tmp_path / "key.pub")
    assert ran.code == 3 and "does not hold" in ran.err and "Traceback" not in ran.err


def test_another_key(run: Run, signed: Path, tmp_path: Path) -> None:
    _, public = pair(tmp_path, "other")
    assert run("verify", "--key", public).code == 3


def test_what_is_wrong_is_not_signed(run: Run, lenet5: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(lenet5, store)
    (path,) = store.glob("*/*.onnx")
    path.write_bytes(path.read_bytes() + b"\0")
    private, public = pair(tmp_path, "key")
    ran = run("sign", "--key", private)
    assert ran.code == 3 and "not signed" in ran.err and not (store / "model.sig").exists()
    assert "there is no signature" in run("verify", "--key", public).err


def test_keys_that_are_none(run: Run, signed: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for words in (("sign", "--key", tmp_path / "text"), ("verify", "--key", tmp_path / "text")):
        ran = run(*words)
        assert ran.code == 2 and "openssl ecparam" in ran.err, ran.err
    assert run("sign", "--key", tmp_path / "nowhere").code == 2
    assert run("verify", "--signature", signed / "model.sig").code == 2


def test_after_signing_the_store_is_still_sound(run: Run, signed: Path, tmp_path: Path) -> None:
    (folder,) = (path for path in signed.iterdir() if path.is_dir())
    private, public = pair(tmp_path, "own")
    assert run("sign", folder, "--key", private).code == 0
    assert run("verify").code == 0 and run("verify", folder, "--key", public).code == 0
