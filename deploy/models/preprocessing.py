"""Preprocessing and class names, which belong to a model: what a user gives with ``--preprocess`` and ``--labels``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.errors import UsageError
from deploy.core.model import Preprocessing
from deploy.core.regular import read_text
from deploy.core.tensors import TensorSpec
from deploy.models.request import parse_options, typed
from deploy.tasks.task import class_count

CHANGES = "preprocess"
"""Option of a manifest: the user's changes to the preprocessing of the model, in order."""

_TUPLES = ("crop", "mean", "std")


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Return the fields and values of texts such as ``resize=256``.

    Raises:
        UsageError: another form, or an unknown key.
    """
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    values: dict[str, Any] = {}
    for key, text in parse_options(tuple(changes), "--preprocess").items():
        if key not in known:
            raise UsageError(f"--preprocess {key}: not one of {', '.join(sorted(known))}.")
        parts = tuple(typed(part) for part in text.split(","))
        values[key] = (parts * 2 if key == "crop" and len(parts) == 1 else parts) if key in _TUPLES else parts[0]
    return values


def override(preprocessing: Preprocessing | None, changes: Sequence[str]) -> Preprocessing | None:
    """Return the preprocessing with changes such as ``resize=256``, ``crop=224,224`` or ``mean=0.5,0.5,0.5``.

    Raises:
        UsageError: an unknown key, sizes that do not fit each other, or no preprocessing to change.
    """
    if not changes:
        return preprocessing
    values = parse_changes(changes)
    if preprocessing is None and not {"crop", "mean", "std"} <= set(values):
        raise UsageError(
            "--preprocess: the model has no preprocessing to change.", "give --preprocess crop=…, mean=… and std=…"
        )
    changed = dataclasses.replace(preprocessing, **values) if preprocessing else Preprocessing(**values)
    if len(changed.crop) != 2 or len(changed.mean) != len(changed.std):
        raise UsageError("--preprocess: crop needs two sizes, mean and std one value for each channel.")
    if changed.letterbox is not None and not (type(changed.letterbox) is int and 0 <= changed.letterbox <= 255):
        raise UsageError(f"--preprocess letterbox={changed.letterbox}: not a gray value from 0 to 255.")
    if changed.letterbox is not None and changed.resize is not None:
        raise UsageError("--preprocess: letterbox and resize exclude each other.", "--preprocess resize=none")
    return changed


def read_labels(text: str) -> tuple[str, ...]:
    """Return class names from a file with one name per line, or from a text separated by commas.

    Raises:
        UsageError: the file cannot be read.
    """
    if not Path(text).is_file():
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return tuple(line.strip() for line in read_text(Path(text)).splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"--labels {text}: cannot be read: {exc}.") from exc


def check_labels(labels: Sequence[str], outputs: Sequence[TensorSpec], of: str) -> tuple[str, ...]:
    """Return class names; ``of`` names the model or file in a message.

    Raises:
        UsageError: there is not one name for each class.
    """
    classes = class_count(outputs)
    if labels and classes is not None and classes != len(labels):
        raise UsageError(f"--labels: {len(labels)} names, and {of} has {classes} classes: {outputs[0]}.")
    return tuple(labels)


def check_preprocessing(recipe: Preprocessing | None, inputs: Sequence[TensorSpec], of: str) -> Preprocessing | None:
    """Return a preprocessing; ``of`` names the model or file in a message.

    Raises:
        UsageError: it does not return the input.
    """
    if recipe is None:
        return None
    takes = "; ".join(map(str, inputs))
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise UsageError(f"--preprocess: {of} takes {takes}, not one batch of images.")
    prepared = (len(recipe.mean), *recipe.crop)
    for dim, size in zip(inputs[0].shape[1:], prepared, strict=True):
        if isinstance(dim, int) and dim != size:
            raise UsageError(f"--preprocess: images become [batch, {', '.join(map(str, prepared))}], not {takes}.")
    return recipe


def described(artifact: Artifact, preprocess: Sequence[str], labels: Sequence[str]) -> Artifact:
    """Return an artifact with changes to the preprocessing and other class names; its manifest is not written.

    Raises:
        UsageError: they do not fit its inputs and outputs.
    """
    manifest, of = artifact.manifest, str(artifact.path)
    recipe = manifest.preprocessing
    if preprocess:
        recipe = check_preprocessing(override(recipe, preprocess), manifest.inputs, of)
    names = check_labels(labels, manifest.outputs, of) or manifest.labels
    changed = dataclasses.replace(
        manifest, preprocessing=recipe, labels=names, options=with_changes(manifest.options, preprocess)
    )
    return dataclasses.replace(artifact, manifest=changed)


def with_changes(options: Mapping[str, Any], preprocess: Sequence[str]) -> dict[str, Any]:
    """Return the options of a manifest with more changes to the preprocessing."""
    changes = [*options.get(CHANGES, ()), *preprocess]
    return {**options, **({CHANGES: changes} if changes else {})}
