"""Where a training stands, in one file: weights, optimizer, epoch, history; safetensors with JSON, never a pickle.

The schedule and every generator are functions of the seed, the epoch and the step (see `_train_loop`), so the
epoch is all their state. The file is complete by itself and carries its own digest: resuming needs no other, so
a process that is killed between two files leaves nothing that does not fit together.
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

SCHEMA = 1


def weights_bytes(module: torch.nn.Module) -> bytes:
    """The module's tensors as safetensors; equal tensors give equal bytes."""
    data: bytes = safetensors.torch.save(_owned(module.state_dict()))
    return data


def _owned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies: safetensors refuses tensors that share memory, as tied weights do."""
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def state_bytes(module: torch.nn.Module, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]) -> bytes:
    """Everything needed to go on after an epoch.

    Args:
        module: the network.
        optimizer: its optimizer.
        facts: plain values: the epoch, the history, what was asked for.
    """
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items() if value is not None}
    tensors = _owned(tensors)
    text = json.dumps({"schema": SCHEMA, **facts})
    metadata = {"state": text, "sha256": _digest(tensors, text)}
    data: bytes = safetensors.torch.save(tensors, metadata=metadata)
    return data


def finished_bytes(facts: Mapping[str, Any]) -> bytes:
    """The same for a training that is over: the facts without the tensors."""
    text = json.dumps({"schema": SCHEMA, **facts})
    data: bytes = safetensors.torch.save({}, metadata={"state": text, "sha256": _digest({}, text)})
    return data


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The tensors and the facts of a state file, or None where there is none.

    Raises:
        ArtifactError: it is damaged, or of another version.
    """
    if not path.is_file():
        return None
    hint = "train from the beginning: without --resume"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        text = metadata["state"]
        facts = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as exc:
        raise ArtifactError(f"{path}: not a complete training state: {exc}.", hint) from exc
    if facts.get("schema") != SCHEMA or metadata.get("sha256") != _digest(tensors, text):
        raise ArtifactError(f"{path}: the training state is damaged, or of another version.", hint)
    return tensors, facts


def restore(module: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put a state back; the module and the optimizer are of the same making as those it came from."""
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    module.load_state_dict(weights)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
