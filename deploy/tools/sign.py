"""``deploy sign`` and ``deploy verify --key``: sign a folder, offline, with the package ``model-signing``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.errors import ArtifactError, DigestError, MissingPackageError, UsageError
from deploy.core.lock import LOCK
from deploy.core.paths import default_root
from deploy.core.plain import to_plain
from deploy.core.store import SIGNATURE, storage_errors
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
        DigestError: a file differs from its manifest; nothing is signed.
        ArtifactError: the folder does not exist or has no artifacts.
        UsageError: the key cannot be used.
        MissingPackageError: model-signing is not installed.
        StorageError: the signature cannot be written.
    """
    folder = folder or default_root()
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder.")
    report = verify(folder)
    if report.problems:
        raise DigestError(f"{folder}: not signed: {report.problems[0]}", f"deploy verify {folder}")
    if not report.sound:
        raise ArtifactError(f"{folder}: no artifacts found.", "deploy export MODEL")
    path = signature or folder / SIGNATURE
    signing, hashing = _package("signing"), _package("hashing")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, OSError) as exc:
        raise UsageError(f"{key}: not a private key that can sign: {exc}.", CREATE_KEYS) from exc
    excluded = [item.relative_to(folder) for item in folder.rglob(LOCK)]
    excluded += [path.relative_to(folder)] if path.is_relative_to(folder) else []
    with storage_errors(path):
        path.unlink(missing_ok=True)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=excluded)).sign(folder, path)
    return SignReport(folder=folder, signature=path, artifacts=len(report.sound))


def verify_signature(folder: Path | None = None, *, key: Path, signature: Path | None = None) -> None:
    """Compare every file of a folder with the folder's signature.

    Args:
        folder: the signed folder; default as in `sign`.
        key: file with the public key, PEM.
        signature: file with the signature; None for ``model.sig`` in the folder.

    Raises:
        DigestError: the signature was made with another key, or a file was changed, added or removed.
        ArtifactError: there is no signature.
        UsageError: the key cannot be used, or the path is not a folder.
        MissingPackageError: model-signing is not installed.
    """
    folder = folder or default_root()
    path = signature or folder / SIGNATURE
    if not folder.is_dir():
        raise UsageError(f"{folder}: only folders have signatures.", "deploy verify FOLDER --key PUBLIC_KEY")
    if not path.is_file():
        raise ArtifactError(f"{path}: no signature found.", f"deploy sign {folder} --key PRIVATE_KEY")
    verifying = _package("verifying")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, OSError) as exc:
        raise UsageError(f"{key}: not a public key: {exc}.", CREATE_KEYS) from exc
    try:
        config.verify(folder, path)
    except Exception as exc:  # model-signing, cryptography and protobuf raise errors of many classes
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise DigestError(f"{folder}: does not match the signature {path}: {reason[:500]}") from exc


def _package(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as exc:
        raise MissingPackageError("model-signing", "signatures", "deploy-toolkit[sign]") from exc
