"""Read weights from a file or download them, without executing code from the file."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from deploy.core.archive import check_archive
from deploy.core.artifact import sha256
from deploy.core.errors import DeployError, UnsafePickleError, WeightsError
from deploy.core.limits import PREFIX, limits
from deploy.core.model import EXTRA_STATE, state_tensors
from deploy.models.archive_kind import check_is_weights
from deploy.models.checkpoint import UNTRACKED, find_state
from deploy.models.request import INDEX, split_key

_TIMEOUT_S = 15.0
"""A download that receives no byte for this long is given up."""


def read_state_dict(source: str, module: torch.nn.Module) -> tuple[dict[str, Any], list[str]]:
    """Read the weights of a module: safetensors, a pickle with ``weights_only=True``, or the index of shards.

    Args:
        source: the file, and optionally the place of the tensors in it: ``last.pt#ema``.
        module: decides which keys and prefixes are removed, see `deploy.models.checkpoint`.

    Returns:
        The tensors by the module's names (memory-mapped if the format allows), and notes on where they were found.

    Raises:
        WeightsError: the file is missing, damaged, or has no tensors.
        UnsafePickleError: the pickle would execute code; it was not loaded.
    """
    path, key = split_key(source)
    tree: dict[str, Any] = {}
    for file in checkpoint_files(path):
        loaded = _read(file)
        if not isinstance(loaded, Mapping):
            raise WeightsError(f"{file}: contains a {type(loaded).__name__}, not a dictionary of tensors.")
        tree |= loaded
    return find_state(tree, state_tensors(module), path.name, key)


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files with the tensors of a checkpoint: the file itself, or the shards that an index lists.

    Raises:
        WeightsError: the index is damaged, or lists files in other folders.
    """
    if not path.name.endswith(INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        plain = all(isinstance(name, str) and name == Path(name).name for name in names)
    except FileNotFoundError as exc:
        raise WeightsError(f"{path}: no such file.") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise WeightsError(f"{path}: not an index of shards: {exc}.") from exc
    if not plain or not names:
        raise WeightsError(f"{path}: lists no files, or files in other folders.")
    return [path.parent / name for name in names]


def digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint; of an index, that of its shards' digests."""
    files = checkpoint_files(path)
    if files == [path]:
        return sha256(path)
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def state_digest(module: torch.nn.Module) -> str:
    """Return a digest of the names, types, shapes and values of a module's parameters and buffers."""
    found = hashlib.sha256()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    with path.open("rb") as stream:
        head = stream.read(16)
    is_safetensors = head[8:9] == b"{" and not head.startswith((b"PK", b"\x80"))
    try:
        if path.suffix == ".safetensors" or is_safetensors:
            return safetensors.torch.load_file(path)
        if head.startswith(b"PK"):
            check_is_weights(path)
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except DeployError:
        raise
    except Exception as exc:
        text = str(exc)
        unsafe = "Unsupported global" in text or "Unsupported operand" in text or "weights_only" in text.lower()
        if isinstance(exc, pickle.UnpicklingError) and unsafe:
            names = text.partition("GLOBAL ")[2].split(" ", 1)[0] or "an object that is not a tensor"
            raise UnsafePickleError(
                f"{path}: the pickle would execute code ({names}); it was not loaded.",
                "if you trust the file, save only its tensors: "
                "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
            ) from exc
        reason = next(iter(text.splitlines()), type(exc).__name__)[:300]
        raise WeightsError(f"{path}: incomplete or damaged checkpoint: {reason}") from exc


def _check_archive(path: Path) -> None:
    """Check the sizes and the CRC-32 checksums in an archive, which PyTorch does not check."""
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path.stat().st_size)
        bad = archive.testzip()
    if bad is not None:
        raise WeightsError(
            f"{path}: damaged checkpoint: wrong checksum of {bad}.",
            "if it was saved without checksums (set_crc32_options), save it again as safetensors",
        )


def load_into(module: torch.nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load a state dict into a module; names or shapes that differ raise `WeightsError`, which lists the first five."""
    own = state_tensors(module)
    shapes = [
        f"{key} is {list(state[key].shape)}, the model has {list(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    missing = [f"{key} is missing" for key in own if key not in state and not key.endswith(UNTRACKED)]
    extra = [f"{key} is not in the model" for key in state if key not in own and not key.endswith(EXTRA_STATE)]
    differences = shapes + missing + extra
    if differences:
        listed = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        classes = _other_number_of_classes(own, state) if shapes and not missing and not extra else None
        hint = "is this the checkpoint of another architecture, or of other options of it?"
        if classes is not None:
            hint = f"it seems to have another number of classes: -o num_classes={classes}"
        elif missing and not own.keys() & state.keys():
            hint = "no name agrees: is this the checkpoint of another architecture?"
        raise WeightsError(f"{source} does not fit the model: {listed}.", hint)
    empty = any(value.is_meta for value in own.values())  # built without memory: take the tensors themselves
    kept = {key: value.to(own[key].dtype) if empty and key in own else value for key, value in state.items()}
    try:
        module.load_state_dict(kept, strict=False, assign=empty)
    except RuntimeError as exc:  # tensors without data, sparse tensors
        raise WeightsError(f"{source}: cannot be loaded into the model: {str(exc).splitlines()[-1].strip()}") from exc


def _other_number_of_classes(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> int | None:
    """Return the number of classes of a checkpoint that differs from the model only in that; None if in more."""
    pairs = [(state[key].shape, own[key].shape) for key in own if key in state and own[key].shape != state[key].shape]
    if any(not given or len(given) != len(wanted) or given[1:] != wanted[1:] for given, wanted in pairs):
        return None
    changes = {(given[0], wanted[0]) for given, wanted in pairs}
    return int(changes.pop()[0]) if len(changes) == 1 else None


def check_finite(module: torch.nn.Module, source: str) -> None:
    """Raise `WeightsError` if a parameter or buffer contains NaN or infinity, or has no values."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, value in tensors if value.is_meta]
    if empty:
        raise WeightsError(
            f"{source}: {len(empty)} tensors are on the meta device and have no values: {', '.join(empty[:5])}.",
            "build the model on the CPU, or give a checkpoint with --weights FILE",
        )
    for name, value in tensors:
        if value.is_floating_point():
            flat = value.detach()
            # barring overflow, the sum is finite if every value is: count only if it is not
            if not torch.isfinite(flat.sum(dtype=torch.float64)):
                bad = int(torch.count_nonzero(~torch.isfinite(flat)))
                raise WeightsError(f"{source}: tensor {name!r} has {bad} non-finite values of {flat.numel()}.")


def fetch(url: str, folder: Path | None = None) -> Path:
    """Return a file from the cache (by default torch's), or download it and check the digest in its name.

    Raises:
        WeightsError: the download failed, or the digest is wrong.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    name = Path(urllib.request.url2pathname(url.partition("?")[0])).name
    if name == "model.safetensors":  # all Hugging Face repositories use this name
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.safetensors"
    target = folder / name
    if target.is_file():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, part.open("wb") as out:
            while chunk := response.read(1 << 20):
                if out.tell() + len(chunk) > limits().download_bytes:
                    raise ValueError(f"more bytes than the limit {PREFIX}DOWNLOAD_BYTES={limits().download_bytes}")
                out.write(chunk)
        _check_digest(part, target.stem)
        os.replace(part, target)
    except (OSError, ValueError) as exc:  # URLError is an OSError
        reason = getattr(exc, "reason", None) or exc
        raise WeightsError(f"{url}: download failed: {reason}.") from exc
    finally:
        part.unlink(missing_ok=True)
    return target


def _check_digest(path: Path, stem: str) -> None:
    """Compare with the first 8 digits of the SHA-256, with which torch.hub ends file names (``name-0123abcd``)."""
    prefix = stem.rpartition("-")[2]
    if re.fullmatch("[0-9a-f]{8}", prefix) and not sha256(path).startswith(prefix):
        raise WeightsError(f"{stem}: the downloaded file does not have the published digest {prefix}….")
