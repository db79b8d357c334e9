"""Weights from a file or from their publisher, never by running code that a file brings."""

from __future__ import annotations

import hashlib
import os
import pickle
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from deploy.core.artifact import sha256
from deploy.core.errors import UnsafePickleError, WeightsError

WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state")
"""Keys under which training scripts keep the state dict inside a checkpoint."""

MOST_EXPANSION = 100
"""An archive that claims to hold more times its own size is not read; PyTorch writes them without compression."""

_TIMEOUT = 15.0
"""Seconds without a byte before a download is given up."""


def read_state_dict(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read a checkpoint: safetensors, or a pickle with ``weights_only=True`` and never otherwise.

    Returns:
        The tensors by name (mapped from the file where the format allows), and notes on what was unwrapped.

    Raises:
        WeightsError: missing, truncated, or not a state dict.
        UnsafePickleError: it wants to run code; it was not run.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file.")
    with path.open("rb") as stream:
        head = stream.read(16)
    looks_safe = head[8:9] == b"{" and not head.startswith((b"PK", b"\x80"))
    try:
        if path.suffix == ".safetensors" or looks_safe:
            return dict(safetensors.torch.load_file(path)), []
        if head.startswith(b"PK"):
            _hold_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as exc:
        raise _refused(path, exc) from exc
    except Exception as exc:
        raise WeightsError(f"{path}: not a complete checkpoint: {_first_line(exc)}") from exc
    return _unwrap(loaded, path)


def _hold_sums(path: Path) -> None:
    """Hold an archive against the checksums in it, which PyTorch does not."""
    with zipfile.ZipFile(path) as archive:
        total = sum(item.file_size for item in archive.infolist())
        if total > MOST_EXPANSION * path.stat().st_size:
            raise WeightsError(f"{path}: claims to unpack to {total / 1e9:.1f} GB; it was not read.")
        bad = archive.testzip()
    if bad is not None:
        raise WeightsError(
            f"{path}: not a complete checkpoint: the checksum of {bad} does not hold.",
            "where it was saved without checksums (set_crc32_options), save it again as safetensors",
        )


def _refused(path: Path, exc: Exception) -> WeightsError:
    text = str(exc)
    if "Unsupported global" in text or "Unsupported operand" in text or "weights_only" in text.lower():
        names = text.partition("GLOBAL ")[2].split(" ", 1)[0] or "an object that is not a tensor"
        return UnsafePickleError(
            f"{path}: the pickle wants to run code ({names}); it was refused and not run.",
            "where you trust the file, save only its tensors: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        )
    return WeightsError(f"{path}: not a complete checkpoint: {_first_line(exc)}")


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).splitlines()), type(exc).__name__)[:300]


def _unwrap(loaded: Any, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    notes = []
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            notes.append(f"{path.name}: the state dict was taken from its entry {key!r}")
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(item, torch.Tensor) for item in loaded.values()):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, not a dictionary of tensors by name.")
    state = {str(key): value for key, value in loaded.items()}
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            notes.append(f"{path.name}: the prefix {prefix!r} was taken off every name")
    return state, notes


def fit(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put a state dict into a module; every name and shape must fit.

    Raises:
        WeightsError: some do not; the first five are named.
    """
    own = module.state_dict()
    shapes = [
        f"{key} is {list(state[key].shape)}, the model has {list(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    missing = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [f"{key} is not in the model" for key in state if key not in own]
    misfits = shapes + missing + extra
    if misfits:
        shown = "; ".join(misfits[:5]) + (f"; and {len(misfits) - 5} more" if len(misfits) > 5 else "")
        raise WeightsError(
            f"{source} does not fit the model: {shown}.",
            "give the architecture its options, for example -o num_classes=10" if shapes else None,
        )
    module.load_state_dict(dict(state), strict=False)


def check_finite(module: torch.nn.Module, source: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        WeightsError: naming the first tensor and how many of its values are not finite.
    """
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            flat = value.detach()
            # the sum is finite wherever every value is, but for overflow: look closer only then
            if not torch.isfinite(flat.sum(dtype=torch.float64)):
                bad = int(torch.count_nonzero(~torch.isfinite(flat)))
                raise WeightsError(
                    f"{source}: tensor {name!r} holds {bad} values that are not finite (of {flat.numel()})."
                )


def fetch(url: str, folder: Path) -> Path:
    """The file behind an address, from the cache or the network; the digest in its name is checked.

    Raises:
        WeightsError: there is no network, or what came is not what was published.
    """
    name = Path(urllib.request.url2pathname(url.partition("?")[0])).name
    if name == "model.safetensors":  # a hub's common file name: tell repositories apart
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.safetensors"
    target = folder / name
    if target.is_file():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, part.open("wb") as out:
            while chunk := response.read(1 << 20):
                out.write(chunk)
        _check_digest(part, target.stem)
        os.replace(part, target)
    except (TimeoutError, urllib.error.URLError, OSError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or exc
        raise WeightsError(f"{url} could not be fetched: {reason}.") from exc
    finally:
        part.unlink(missing_ok=True)
    return target


def _check_digest(path: Path, stem: str) -> None:
    prefix = stem.rpartition("-")[2]
    if (
        len(prefix) == 8
        and all(letter in "0123456789abcdef" for letter in prefix)
        and not sha256(path).startswith(prefix)
    ):
        raise WeightsError(f"{stem}: what was downloaded does not have the published digest {prefix}….")
