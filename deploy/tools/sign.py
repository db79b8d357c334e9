"""``deploy sign`` and ``deploy verify --key``: sign a folder, offline, with the package ``model-signing``.

A signature lists every file of the folder with its digest: hidden files, records and reports too. The only exceptions
are the signature itself and empty lock files. Links, pipes, sockets, devices and folders without files cannot be
listed, so they are not signed, and verifying finds them. The name of the folder is not signed: it may be moved and
renamed. To sign the names of models, sign the artifacts directory, which contains their folders.
"""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.errors import ArtifactError, DigestError, UsageError
from deploy.core.extras import require
from deploy.core.names import LOCK, SCRATCH, SIGNATURE, colliding
from deploy.core.paths import default_root
from deploy.core.plain import to_plain
from deploy.core.regular import entries, file_size, is_file, is_folder, read_document
from deploy.core.store import write_file
from deploy.tools.verify import verify

if TYPE_CHECKING:
    from types import ModuleType

CREATE_KEYS = (
    "create a key pair: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; "
    "openssl ec -in key.pem -pubout -out key.pub"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignReport:
    """The result of `sign`; ``artifacts`` is the number of artifacts, records and packages in the folder."""

    folder: Path
    signature: Path
    artifacts: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(to_plain(self))


def sign(folder: Path | None = None, *, key: Path, signature: Path | None = None) -> SignReport:
    """Verify every artifact in a folder, then sign all files of the folder.

    Args:
        folder: the artifacts directory or a model's folder in it; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        key: file with an elliptic-curve private key, PEM, without a password.
        signature: file for the signature; None for ``model.sig`` in the folder.

    Raises:
        DigestError: a file differs from its manifest, a folder has no files, or a link, pipe, socket or device is in
            the folder; nothing is signed.
        ArtifactError: the folder does not exist or has no artifacts.
        UsageError: the key cannot be used.
        MissingPackageError: model-signing is not installed.
        StorageError: the signature cannot be written.
    """
    require("sign")
    folder = folder or default_root()
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder.")
    report = verify(folder)
    if report.problems:
        raise DigestError(f"{folder}: not signed: {report.problems[0]}", f"deploy verify {folder}")
    if report.unfinished:
        place = report.unfinished[0]
        raise DigestError(f"{folder}: not signed: {place} was left by a killed process.", "run its command again")
    if not report.sound:
        raise ArtifactError(f"{folder}: no artifacts found.", "deploy export MODEL")
    path = signature or folder / SIGNATURE
    names = [item.relative_to(folder).as_posix() for item in _files(folder, path)]
    if unfinished := [name for name in names if f"/{SCRATCH}" in f"/{name}"]:
        raise DigestError(f"{folder}: not signed: {unfinished[0]} is being written, or a killed process left it.")
    try:
        "".join(names).encode()
    except UnicodeEncodeError as exc:
        raise DigestError(f"{folder}: not signed: the name of a file is not valid Unicode.") from exc
    if same := colliding(names):
        raise DigestError(f"{folder}: not signed: another name differs from {same[0]} only in case or Unicode form.")
    try:
        config = _signing("signing").Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, OSError) as exc:
        raise UsageError(f"{key}: not a private key that can sign: {exc}.", CREATE_KEYS) from exc
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / SIGNATURE
        try:
            config.set_hashing_config(_hashing(path)).sign(folder, written)
        except OSError as exc:
            raise DigestError(f"{folder}: not signed: it cannot be read, or was changed meanwhile: {exc}.") from exc
        write_file(path, written.read_bytes())
    return SignReport(folder=folder, signature=path, artifacts=len(report.sound))


def verify_signature(folder: Path | None = None, *, key: Path, signature: Path | None = None) -> None:
    """Compare every file of a folder with the folder's signature.

    Args:
        folder: the signed folder; default as in `sign`.
        key: file with the public key, PEM.
        signature: file with the signature; None for ``model.sig`` in the folder.

    Raises:
        DigestError: the signature was made with another key, or a file or folder was changed, added or removed.
        ArtifactError: there is no signature.
        UsageError: the key cannot be used, or the path is not a folder.
        MissingPackageError: model-signing is not installed.
    """
    require("sign")
    folder = folder or default_root()
    path = signature or folder / SIGNATURE
    if not folder.is_dir():
        raise UsageError(f"{folder}: only folders have signatures.", "deploy verify FOLDER --key PUBLIC_KEY")
    if not is_file(path):
        raise ArtifactError(f"{path}: no signature found.", f"deploy sign {folder} --key PRIVATE_KEY")
    try:
        config = _signing("verifying").Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, OSError) as exc:
        raise UsageError(f"{key}: not a public key: {exc}.", CREATE_KEYS) from exc
    hashing = _hashing(path)
    try:
        read_document(path)  # its size is limited
        with redirect_stdout(io.StringIO()):  # model-signing prints a warning there
            config.set_hashing_config(hashing).verify(folder, path)
    except Exception as exc:  # model-signing, cryptography and protobuf raise errors of many classes
        reason = exc.message if isinstance(exc, DigestError) else " ".join(str(exc).split()) or type(exc).__name__
        hint = "this signature is of an earlier version, which left out some files: sign the folder again"
        raise DigestError(
            f"{folder}: does not match the signature {path}: {reason[:500]}", hint if hashing.left_out else None
        ) from exc


def _hashing(signature: Path) -> Any:
    """Return a hashing configuration of model-signing that leaves out nothing but the signature and empty locks."""
    config: type[Any] = _signing("hashing").Config

    class Everything(config):  # type: ignore[misc]
        left_out: tuple[str, ...] = ()

        def hash(self, model_path: Path, *, files_to_hash: Iterable[Path] | None = None) -> Any:
            return super().hash(model_path, files_to_hash=_files(model_path, signature))

        def add_ignored_paths(self, *, model_path: Path, paths: Iterable[str]) -> None:
            """Ignore nothing that a signature asks to ignore."""
            self.left_out = tuple(paths)

    return Everything().set_ignored_paths(paths=(), ignore_git_paths=False)


def _files(folder: Path, signature: Path) -> list[Path]:
    """Return the files that a signature lists.

    Raises:
        DigestError: something in the folder cannot be listed.
    """
    found: list[Path] = []
    own = signature.parent.resolve() / signature.name
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        before = len(found)
        paths = [path for path in entries(inside) if inside.resolve() / path.name != own]
        for path in paths:
            if not is_file(path) and not is_folder(path):
                raise DigestError(f"{path}: a symbolic link, or not a regular file.")
        folders = [path for path in paths if is_folder(path)]
        found += [path for path in paths if is_file(path) and not (path.name == LOCK and file_size(path) == 0)]
        if len(found) == before and not folders and inside != folder:
            raise DigestError(f"{inside}: a folder without files.")
        waiting += folders
    return found


def _signing(name: str) -> ModuleType:
    """Import a module of model-signing."""
    return importlib.import_module(f"model_signing.{name}")
