"""Read weights from a file or download them, without executing code from the file."""

from __future__ import annotations

import hashlib
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

WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state")
"""Keys under which training scripts keep the state dict in a checkpoint."""

_TIMEOUT_S = 15.0
"""A download that receives no byte for this long is given up."""


def read_state_dict(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read a checkpoint: safetensors, or a pickle with ``weights_only=True``.

    Returns:
        The tensors by name (memory-mapped if the format allows), and notes on what was unwrapped.

    Raises:
        WeightsError: the file is missing, damaged, or not a state dict.
        UnsafePickleError: the pickle would execute code; it was not loaded.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    with path.open("rb") as stream:
        head = stream.read(16)
    is_safetensors = head[8:9] == b"{" and not head.startswith((b"PK", b"\x80"))
    try:
        if path.suffix == ".safetensors" or is_safetensors:
            return dict(safetensors.torch.load_file(path)), []
        if head.startswith(b"PK"):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
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
    return _unwrap(loaded, path)


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


def _unwrap(loaded: Any, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    notes = []
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            notes.append(f"{path.name}: using the state dict under the key {key!r}")
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(item, torch.Tensor) for item in loaded.values()):
        raise WeightsError(f"{path}: contains a {type(loaded).__name__}, not a dictionary of tensors.")
    state = {str(key): value for key, value in loaded.items()}
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            notes.append(f"{path.name}: removed the prefix {prefix!r} from every name")
    return state, notes


def load_into(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict into a module; names or shapes that differ raise `WeightsError`, which lists the first five."""
    own = module.state_dict()
    shapes = [
        f"{key} is {list(state[key].shape)}, the model has {list(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    missing = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [f"{key} is not in the model" for key in state if key not in own]
    differences = shapes + missing + extra
    if differences:
        listed = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise WeightsError(
            f"{source} does not fit the model: {listed}.",
            "give the options of the architecture, for example -o num_classes=10" if shapes else None,
        )
    try:
        module.load_state_dict(dict(state), strict=False)
    except RuntimeError as exc:  # tensors without data, sparse tensors
        raise WeightsError(f"{source}: cannot be loaded into the model: {str(exc).splitlines()[-1].strip()}") from exc


def check_finite(module: torch.nn.Module, source: str) -> None:
    """Raise `WeightsError` if a parameter or buffer contains NaN or infinity."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
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
