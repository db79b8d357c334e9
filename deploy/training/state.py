"""The state file of a training: weights, optimizer, settings and history, as safetensors with JSON metadata.

The learning rate and every random draw are functions of the seed, the epoch and the step (see
`deploy.training.loop`), so the epoch number is their whole state. The file contains everything that resuming needs
and its own digest: a process that is killed between two files leaves nothing inconsistent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from deploy.core.errors import ArtifactError
from deploy.core.regular import is_file

SCHEMA = 1

Tensors = Mapping[str, torch.Tensor]


def dump_weights(module: torch.nn.Module) -> bytes:
    """Return the tensors of a module as safetensors; equal tensors give equal bytes."""
    data: bytes = safetensors.torch.save(_copied(module.state_dict()))
    return data


def _copied(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return contiguous copies: safetensors refuses tensors that share memory, as tied weights do."""
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def training_tensors(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return copies of the tensors that `restore` needs, by name."""
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items() if value is not None}
    return _copied(tensors)


def restore(module: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Load the tensors of `training_tensors` into a module and an optimizer of the same structure."""
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    module.load_state_dict(weights)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def dump_state(tensors: Tensors, facts: Mapping[str, Any]) -> bytes:
    """Return the bytes of a state file with plain values and `training_tensors`; none if the training is finished."""
    text = json.dumps({"schema": SCHEMA, **facts})
    data: bytes = safetensors.torch.save(dict(tensors), metadata={"state": text, "sha256": _digest(tensors, text)})
    return data


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return the tensors and facts of a state file, or None if there is no file.

    Raises:
        ArtifactError: the file is damaged, or of another version.
    """
    if not is_file(path):
        return None
    hint = "train from the beginning, without --resume"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        text = metadata["state"]
        facts = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, OSError, RecursionError) as exc:
        raise ArtifactError(f"{path}: incomplete or damaged training state: {exc}.", hint) from exc
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA or metadata.get("sha256") != _digest(tensors, text):
        raise ArtifactError(f"{path}: the training state is damaged, or of another version.", hint)
    return tensors, facts


def _digest(tensors: Tensors, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
