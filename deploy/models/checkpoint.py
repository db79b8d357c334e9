"""Find the tensors of a model in what a training script saved: under keys, under prefixes, and more than once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deploy.core.errors import WeightsError
from deploy.core.model import EXTRA_STATE

WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "module", "net", "params")
"""Keys under which training scripts keep the state dict in a checkpoint."""

UNTRACKED = "num_batches_tracked"
"""End of the names of counters that are used in training only and that old checkpoints lack."""

_MAX_DEPTH = 6
_PARTS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that torch.compile, FSDP and activation checkpointing put into names."""
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow|teacher|momentum|target)(?:[._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Place:
    """The tensors under one prefix of all names, ``state_dict.model`` for example, by the names after it."""

    label: str
    state: dict[str, Any]
    own: Mapping[str, torch.Tensor]

    @property
    def fits(self) -> bool:
        """Whether these are exactly the tensors of the model."""
        names = {name for name in self.state if not name.endswith((UNTRACKED, EXTRA_STATE))}
        return names == _required(self.own) and all(self.state[name].shape == self.own[name].shape for name in names)

    @property
    def averaged(self) -> bool:
        """Whether the label suggests an average over training steps, or another model such as a teacher."""
        return bool(_AVERAGED.search(self.label))


def find_state(
    tree: Mapping[Any, Any], own: Mapping[str, torch.Tensor], file: str, key: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of a model in a checkpoint by the model's names, and notes on where they were.

    Of several places that fit, one that is no average of other weights is taken; the notes name the others.

    Args:
        tree: the content of the checkpoint: dictionaries, tensors, and values that are ignored.
        own: the tensors of the model.
        file: name of the file, for messages.
        key: the place to take, with dots between keys and names.

    Raises:
        WeightsError: there are no tensors, none under ``key``, or several places fit and none is preferred.
    """
    flat = dict(_flatten(tree, "", 0, set()))
    if not flat:
        raise WeightsError(f"{file}: contains no tensors with names.")
    if key:
        flat = {name: item for name, item in flat.items() if name.startswith(f"{key}.")}
        if not flat:
            keys = ", ".join(str(item) for item, value in tree.items() if isinstance(value, Mapping))
            raise WeightsError(
                f"{file}: there are no tensors under {key!r}.", f"it has the keys {keys}" if keys else None
            )
    places = [_place(flat, own, prefix) for prefix in _prefixes(flat, own)]
    fitting = [place for place in places if place.fits]
    chosen = _preferred(fitting, file) if fitting else places[0] if places else _place(flat, own, _largest(flat))
    notes = []
    if chosen.label:
        kind = " (averaged weights)" if chosen.averaged or "n_averaged" in flat else ""
        notes.append(f"{file}: using the tensors under {chosen.label!r}{kind}")
    others = [place.label or "the top level" for place in fitting if place is not chosen]
    if others:
        notes.append(f"{file}: {', '.join(others)} would fit too; choose with {file}#{others[0]}")
    return chosen.state, notes


def _flatten(tree: Mapping[Any, Any], path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Yield tensors as ``(name, (path of the dictionary, tensor))``; a dictionary that occurs twice only once."""
    if depth > _MAX_DEPTH or id(tree) in seen:
        return
    seen.add(id(tree))
    for key, value in tree.items():
        name = _PARTS.sub("", f"{path}{key}.").removesuffix(".")
        if isinstance(value, torch.Tensor) or str(key).endswith(EXTRA_STATE):
            yield name, (path, value)
        elif isinstance(value, Mapping) and isinstance(key, str):
            yield from _flatten(value, f"{name}.", depth + 1, seen)


def _required(own: Mapping[str, torch.Tensor]) -> set[str]:
    return {name for name in own if not name.endswith(UNTRACKED)}


def _prefixes(flat: Mapping[str, Any], own: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the prefixes after which names of the model occur, most names first, then the shortest."""
    counts: Counter[str] = Counter()
    required = _required(own)
    for name in flat:
        for start in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if name[start:] in required:
                counts[name[:start]] += 1
    return sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))


def _place(flat: Mapping[str, tuple[str, Any]], own: Mapping[str, torch.Tensor], prefix: str) -> _Place:
    """Return the tensors after a prefix, without those in dictionaries that hold none of the model's."""
    under = {name[len(prefix) :]: item for name, item in flat.items() if name.startswith(prefix)}
    paths = {path for name, (path, _) in under.items() if name in own}
    state = {name: value for name, (path, value) in under.items() if not paths or path in paths}
    return _Place(prefix.removesuffix("."), state, own)


def _largest(flat: Mapping[str, tuple[str, Any]]) -> str:
    """Return the path of the dictionary to compare with a model that shares no name with it."""
    counts = Counter(path for path, _ in flat.values())
    return max(counts, key=lambda path: (path.removesuffix(".") in WRAPPERS, counts[path]))


def _preferred(fitting: Sequence[_Place], file: str) -> _Place:
    plain = [place for place in fitting if not place.averaged] or list(fitting)
    known = [place for place in plain if place.label.partition(".")[0] in ("", *WRAPPERS)]
    choice = plain if len(plain) == 1 else known
    if len(choice) != 1:
        labels = ", ".join(place.label for place in fitting)
        raise WeightsError(
            f"{file}: the tensors under {labels} fit the model.", f"choose with {file}#{fitting[0].label}"
        )
    return choice[0]
