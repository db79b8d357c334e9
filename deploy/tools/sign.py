"""``deploy sign`` and ``deploy verify --key``: a signature of a folder, by the package ``model-signing``, offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.errors import ArtifactError, DigestError, MissingPackageError, UsageError
from deploy.core.paths import default_root
from deploy.core.store import SIGNATURE, storage_errors
from deploy.tools.verify import verify

if TYPE_CHECKING:
    from types import ModuleType

LOCK = ".lock"
KEYS = (
    "make a pair: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; "
    "openssl ec -in key.pem -pubout -out key.pub"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignReport:
    """What was signed, and where the signature lies."""

    folder: Path
    signature: Path
    artifacts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"folder": str(self.folder), "signature": str(self.signature), "artifacts": self.artifacts}


def sign(folder: Path | None = None, *, key: Path, signature: Path | None = None) -> SignReport:
    """Sign every file of a folder, after each artifact in it was held against its digests.

    Args:
        folder: an artifacts directory, or a model's folder in one; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        key: a private key on an elliptic curve, PEM, without a password.
        signature: where to write it; default ``model.sig`` in the folder.

    Raises:
        DigestError: something in it is not what its manifest says; nothing is signed.
        ArtifactError: there is nothing to sign.
        UsageError: the key cannot be used.
        MissingPackageError: model-signing is not installed.
        StorageError: the disk refused.
    """
    folder = folder or default_root()
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: there is no such folder.")
    report = verify(folder)
    if report.problems:
        raise DigestError(f"{folder}: not signed: {report.problems[0]}", "deploy verify tells all of it")
    if not report.sound:
        raise ArtifactError(f"{folder}: there is no artifact in it.", "deploy export MODEL")
    path = signature or folder / SIGNATURE
    signing, hashing = _package("signing"), _package("hashing")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, OSError) as exc:
        raise UsageError(f"{key}: not a private key that can sign: {exc}.", KEYS) from exc
    left_out = [item.relative_to(folder) for item in folder.rglob(LOCK)]
    left_out += [path.relative_to(folder)] if path.is_relative_to(folder) else []
    with storage_errors(path):
        path.unlink(missing_ok=True)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=left_out)).sign(folder, path)
    return SignReport(folder=folder, signature=path, artifacts=len(report.sound))


def verify_signature(folder: Path | None = None, *, key: Path, signature: Path | None = None) -> None:
    """Hold every file of a folder against its signature.

    Args:
        folder: as it was signed; default as for `sign`.
        key: the public key, PEM.
        signature: default ``model.sig`` in the folder.

    Raises:
        DigestError: the signature is of another key, or a file is not what was signed, is new or is gone.
        ArtifactError: there is no signature.
        UsageError: the key cannot be used.
        MissingPackageError: model-signing is not installed.
    """
    folder = folder or default_root()
    path = signature or folder / SIGNATURE
    if not folder.is_dir():
        raise UsageError(f"{folder}: a folder is signed, not a file.", "deploy verify FOLDER --key PUBLIC")
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no signature.", "deploy sign FOLDER --key PRIVATE")
    verifying = _package("verifying")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, OSError) as exc:
        raise UsageError(f"{key}: not a public key: {exc}.", KEYS) from exc
    try:
        config.verify(folder, path)
    except Exception as exc:  # of the package, of cryptography and of protobuf: in each case it does not hold
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise DigestError(f"{folder}: the signature in {path} does not hold: {reason[:500]}") from exc


def _package(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as exc:
        raise MissingPackageError("model-signing", "signatures", "deploy-toolkit[sign]") from exc
