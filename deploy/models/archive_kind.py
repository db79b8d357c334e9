"""What a file that PyTorch saved holds, told from its archive without loading it."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

from deploy.core.errors import UnsafePickleError, WeightsError

_MODULE = "torch.nn.modules."
_LARGEST_PICKLE = 1 << 26


def check_is_weights(path: Path) -> None:
    """Refuse a file that holds a whole model in place of its weights; one that is neither is left to the loader.

    Raises:
        WeightsError: TorchScript, or an ExportedProgram.
        UnsafePickleError: a model pickled with its class.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            pickled = next((item for item in archive.infolist() if item.filename.endswith("/data.pkl")), None)
            small = pickled is not None and pickled.file_size <= _LARGEST_PICKLE
            classes = _classes(archive.read(pickled)) if pickled is not None and small else []
    except (zipfile.BadZipFile, OSError, ValueError):
        return
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise WeightsError(
            f"{path} is TorchScript, which cannot be exported.",
            "build the model from its Python class: deploy export FILE.py:FUNCTION --input NAME:DIMS",
        )
    if "archive_format" in names or "serialized_exported_program.json" in names:
        raise WeightsError(f"{path} is an ExportedProgram, not a checkpoint.", f"rename it to {path.stem}.pt2")
    if any(name.startswith(_MODULE) for name in classes):
        own = [name for name in classes if not name.startswith(("torch", "collections", "builtins", "numpy"))]
        kind = (own or [name for name in classes if name.startswith(_MODULE)])[0]
        raise UnsafePickleError(
            f"{path} is a whole model ({kind}), pickled with its class, not only its weights: loading it would run "
            "code, so it was not loaded.",
            "if you trust it, save its weights where its code is: "
            f"torch.save(torch.load('{path.name}', weights_only=False).state_dict(), '{path.stem}-weights.pt')",
        )


def _classes(pickled: bytes) -> list[str]:
    """Return the classes and functions that a pickle names, in order, as ``module.name``."""
    found: list[str] = []
    texts: list[str] = []
    for code, value, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            found.append(str(value).replace(" ", "."))
        elif code.name == "STACK_GLOBAL":
            found.append(".".join(texts[-2:]))
        elif isinstance(value, str):
            texts.append(value)
    return found
