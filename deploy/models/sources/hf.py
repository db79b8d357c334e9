"""Hugging Face: models of transformers, from a local folder or from the hub (extra ``hf``).

A folder has ``config.json`` and, for trained weights, ``model.safetensors``. The class is the one that the
configuration names; ``-o architecture=CLASS`` chooses another one, and other options change the configuration. Code
that a repository contains is never run, and pickles are not read.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import torch
import transformers

from deploy.core.errors import ModelError, UnknownNameError, UsageError, WeightsError
from deploy.core.model import UNTRAINED, Model, Weights
from deploy.models.calling import with_form
from deploy.models.python import parse_inputs
from deploy.models.request import INDEX, ModelRequest
from deploy.models.sources._hf_inputs import describe
from deploy.models.sources._hf_preprocessing import find_preprocessing
from deploy.models.weights import digest

_WEIGHTS = "model.safetensors"
_PICKLE = "pytorch_model.bin"


def names() -> list[str]:
    """Return no names: the hub has too many to list."""
    return []


def summary(name: str) -> str:
    """Return an empty text: a configuration has no description."""
    return ""


def build(name: str, request: ModelRequest) -> Model:
    """Build a model with the weights of its safetensors file, unless ``--weights`` says otherwise or there is none.

    Raises:
        ModelError: there is no configuration, or transformers has no such model.
        WeightsError: the weights do not fit the configuration, or they are a pickle.
        UsageError: an option is not one of the configuration.
    """
    place = _place(name)
    wanted = request.weights in ("auto", "default")
    with _quiet():
        kind, config, notes = _configuration(place, request.typed_options())
        file = _weights_file(place) if wanted else None
        module, weights, more = _module(place, kind, config, file, request.seed)
    given = (*parse_inputs(request), ("batch",)) if request.inputs else None
    specs, sizes, dynamic = given or describe(module, config)
    recipe, remarks = find_preprocessing(place, specs)
    model = Model(
        name=name if isinstance(place, Path) else f"hf/{name}",
        slug=re.sub("[^A-Za-z0-9_-]+", "-", place.resolve().name if isinstance(place, Path) else f"hf-{name}"),
        module=module.eval(),
        inputs=specs,
        sizes=sizes,
        dynamic=dynamic,
        weights=weights,
        preprocessing=recipe,
        labels=_labels(config) if "For" in kind.__name__ else (),
        notes=(*notes, *more, *remarks),
    )
    return with_form(model)


def published(name: str, model: Model) -> tuple[str, str] | None:
    """Raise the reason why `build` found no weights.

    Raises:
        WeightsError: always.
    """
    place = _place(name)
    if isinstance(place, Path):
        raise WeightsError(f"{place}: the folder has no {_WEIGHTS}.")
    raise WeightsError(f"{name}: {_WEIGHTS} is not in the cache of the hub and could not be downloaded.")


def _place(name: str) -> Path | str:
    """Return the folder of a model, or its name on the hub."""
    return Path(name).expanduser() if name.startswith((".", "/", "~")) else name


def _configuration(place: Path | str, options: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """Return the class of a model, its configuration, and notes."""
    chosen = options.pop("architecture", None)
    try:
        config: Any = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        named = chosen or next(iter(config.architectures or ()), None)
        kind = _class(str(named)) if named else transformers.AutoModel._model_mapping[type(config)]
        kind = kind[0] if isinstance(kind, tuple) else kind
        if chosen and not isinstance(config, kind.config_class):  # a part of the model, such as one tower
            config = kind.config_class.from_pretrained(place, trust_remote_code=False)
    except (UnknownNameError, ModelError):
        raise
    except Exception as exc:
        reason = next(iter(str(exc).strip().splitlines()), "") or type(exc).__name__
        hint = "give a folder with config.json and model.safetensors: deploy export ./FOLDER"
        raise ModelError(f"{place}: no configuration of transformers could be read: {reason}", hint) from exc
    for key, value in options.items():
        if not hasattr(config, key):
            raise UsageError(f"{place}: -o {key}: {type(config).__name__} has no such field.")
        setattr(config, key, value)
    return kind, config, [] if named else [f"config.json names no architecture: built as {kind.__name__}"]


def _class(name: str) -> Any:
    kind = getattr(transformers, name, None)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return kind
    known = [item for item in dir(transformers) if "Model" in item or "For" in item]
    hint = f"transformers {transformers.__version__} has no such class; code of repositories is not run"
    raise UnknownNameError("architecture", name, known, hint)


def _weights_file(place: Path | str) -> Path | None:
    """Return the file with the weights, or the index of several; None if there is none, or no connection.

    Raises:
        WeightsError: there is only a pickle.
    """
    found = {name: _file(place, name) for name in (_WEIGHTS, f"{_WEIGHTS}{INDEX}")}
    file = next((path for path in found.values() if path is not None), None)
    pickled = _file(place, _PICKLE) if file is None and isinstance(place, Path) else None
    if pickled is not None:
        raise WeightsError(
            f"{place}: the weights are a pickle, {_PICKLE}, which is not read unless it is named.",
            f"save them as {_WEIGHTS}, or read its tensors only: --weights {pickled}",
        )
    return file


def _file(place: Path | str, name: str) -> Path | None:
    """Return a file of a folder, or of a repository on the hub, downloaded if needed; None if there is none."""
    if isinstance(place, Path):
        return place / name if (place / name).is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(place, name))
    except Exception:  # offline, or there is no such file
        return None


def _module(
    place: Path | str, kind: Any, config: Any, file: Path | None, seed: int
) -> tuple[torch.nn.Module, Weights, list[str]]:
    """Return the module, its weights, and notes."""
    try:
        if file is None:
            return kind(config).float(), Weights(source=UNTRAINED, trained=False, seed=seed), []
        module, loaded = kind.from_pretrained(
            place,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=isinstance(place, Path),
            output_loading_info=True,
        )
    except Exception as exc:
        reason = " ".join(str(exc).split())[:300]
        error = ModelError if file is None else WeightsError
        raise error(f"{place}: {kind.__name__} cannot be built: {reason}") from exc
    missing = sorted(loaded["missing_keys"])
    notes = []
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        notes.append(f"{file.name} has no values for {', '.join(missing[:3])}{more}: these are random numbers")
    label = f"{place}/{file.name}"
    return (
        module,
        Weights(source=label, trained=not missing, seed=seed if missing else None, sha256=digest(file)),
        notes,
    )


def _labels(config: Any) -> tuple[str, ...]:
    """Return the names of classes; empty where transformers has filled in numbers."""
    given = getattr(config, "id2label", None) or {}
    listed = tuple(str(given[key]) for key in sorted(given))
    return () if all(name == f"LABEL_{index}" for index, name in enumerate(listed)) else listed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and remarks of transformers within this context."""
    logging, hub = transformers.utils.logging, getLogger("huggingface_hub")
    before, bar, level = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.level
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    hub.setLevel(CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(level)
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
