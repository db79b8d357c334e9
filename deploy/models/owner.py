"""Which model a folder of the artifacts directory belongs to, so that two models never share one by accident."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, Manifest
from deploy.core.errors import UsageError
from deploy.core.model import Weights
from deploy.core.store import Store
from deploy.models.request import WEIGHT_NAMES, split_key
from deploy.support.lookup import is_export
from deploy.support.provenance import differ

Reference = Mapping[str, Any]
"""Plain values that rebuild a model, see `deploy.core.model.Model.reference`."""


def claim(
    store: Store,
    slug: str,
    *,
    model: str,
    reference: Reference,
    weights: Weights,
    precision: str | None = None,
    force: bool | None = None,
) -> str:
    """Refuse to write files of a model into the folder of another one, or untrained weights over trained ones.

    Args:
        store: the artifacts directory.
        slug: name of the folder.
        model: full name of the model.
        reference: rebuilds the model.
        weights: of the model.
        precision: of the float export that will be written; None: no float export is.
        force: write in any case; None: not offered to the user.

    Returns:
        What the export had been made from that will be replaced, if from other weights; else empty.

    Raises:
        UsageError: the folder holds another model or, for an export, trained weights where these are untrained.
    """
    present = store.artifacts(slug)
    exports = [artifact for artifact in present if is_export(artifact.manifest)]
    for owner in (exports or present)[:1]:
        if not force:
            _refuse_other(store, slug, owner, model, reference, weights, offered=force is not None)
        replaced = [item for item in exports if item is owner or item.manifest.precision == precision]
        trained = next((item for item in replaced if item.manifest.weights.trained), None)
        if precision is not None and not weights.trained and trained is not None and not force:
            old = trained.manifest
            raise UsageError(
                f"{trained.path}: holds trained weights ({_shown(old.weights)}, exported {old.created[:19]}), "
                f"and these are untrained ({_shown(weights)}).",
                f"give trained weights with --weights FILE; or --name {free_name(store, slug)} writes elsewhere, and "
                "--force replaces the file",
            )
    for artifact in exports:
        old = artifact.manifest
        if old.precision == precision and differ(old.weights.identity, weights):
            return (
                f"{artifact.path} was exported from other weights: {_shown(old.weights)} at {old.created[:19]}; "
                f"now {_shown(weights)}"
            )
    return ""


def free_name(store: Store, slug: str) -> str:
    """Return the first of ``slug-2``, ``slug-3`` … that is no folder yet."""
    number = 2
    while os.path.lexists(store.root / f"{slug}-{number}"):
        number += 1
    return f"{slug}-{number}"


def _refuse_other(
    store: Store, slug: str, owner: Artifact, model: str, reference: Reference, weights: Weights, *, offered: bool
) -> None:
    old, folder = owner.manifest, store.folder(slug).resolve()
    if _is_same(folder, old, model, reference, weights):
        return
    force = "; --force replaces the other" if offered else ""
    raise UsageError(
        f"{owner.path.parent}: holds another model, {_described(folder, old.model, old.reference, old.weights)}, of "
        f"{old.created[:19]}; it is not mixed with {_described(folder, model, reference, weights)}.",
        f"--name {free_name(store, slug)} gives this model a folder of its own{force}",
    )


def _is_same(folder: Path, old: Manifest, model: str, reference: Reference, weights: Weights) -> bool:
    """Return whether a manifest is of the same model: the same code or name, options, and checkpoint file.

    A checkpoint of `deploy train` in the folder itself, and published or untrained weights, count as no file. The file
    does not count either if it was copied, or if the user named the folder.
    """
    if not old.reference or not reference:
        paths = {str(Path(item.source).resolve()) for item in (old.weights, weights)}
        return not old.reference and not reference and (not differ(old.weights.identity, weights) or len(paths) == 1)
    if "module" in old.reference or "module" in reference:
        return old.reference.get("module") == reference.get("module")
    if _code(old.model, old.reference) != _code(model, reference):
        return False
    (was, was_key), (now, now_key) = _file(old.reference), _file(reference)
    if folder in (was.parent if was else None, now.parent if now else None):
        return True
    if dict(old.reference.get("options", {})) != dict(reference.get("options", {})):
        return False
    copied = was_key == now_key and old.weights.sha256 is not None and old.weights.sha256 == weights.sha256
    return copied or reference.get("slug") is not None or (was, was_key) == (now, now_key) or not (was and now)


def _code(model: str, reference: Reference) -> str:
    """Return what builds a model: the path of a file of the user with the factory in it, or the model's full name."""
    name = str(reference.get("name", model))
    where, colon, attribute = name.rpartition(":")
    if name.endswith(".pt2"):
        return str(Path(name).resolve())
    if not colon:
        return model
    path = Path(where if where.endswith(".py") else f"{where.replace('.', '/')}.py")
    return f"{path.resolve() if path.is_file() else where}:{attribute}"


def _file(reference: Reference) -> tuple[Path | None, str]:
    source = str(reference.get("weights", "auto"))
    if source in WEIGHT_NAMES:
        return None, ""
    path, key = split_key(source)
    return path.resolve(), key


def _described(folder: Path, model: str, reference: Reference, weights: Weights) -> str:
    if not reference:
        return f"the file {weights.source}"
    name = reference.get("module") or (
        reference.get("name", model) if ":" in model or model.endswith(".pt2") else model
    )
    path, _ = _file(reference)
    parts = [f"{key}={value}" for key, value in dict(reference.get("options", {})).items()]
    parts += [f"weights {reference['weights']}"] if path and path.parent != folder else []
    more = f" ({', '.join(parts)})" if parts else ""
    return f"{name}{more}"


def _shown(weights: Weights) -> str:
    seed = f", seed {weights.seed}" if weights.seed is not None and not weights.trained else ""
    return weights.source + seed + (f", sha256 {weights.sha256:.8}" if weights.sha256 else "")
