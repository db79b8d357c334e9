"""What a sweep is of: read from plain values, whose every mistake is named with the place where it stands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from deploy.core.errors import UsageError

PRECISIONS = ("fp32", "fp16", "int8")
DEVICES = ("cpu", "cuda")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Place = tuple[str | int, ...]
"""Where a value stands: keys and positions from the top, ``("machines", 1, "cpus")``."""


class SpecError(UsageError):
    """A sweep that cannot be; ``place`` says which of its values is wrong."""

    def __init__(self, place: Place, message: str) -> None:
        where = ".".join(str(part) if isinstance(part, str) else f"{part + 1}" for part in place)
        super().__init__(f"{where}: {message}" if where else message)
        self.place = place


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A model of a sweep; the fields are those of `deploy.models.request.ModelRequest`."""

    name: str
    weights: str = "auto"
    arch: str | None = None
    seed: int | None = None
    inputs: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is called in the sweep: the architecture, where ``name`` is a checkpoint."""
        return self.arch or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A kind of machine that models are timed on.

    Attributes:
        name: in the report.
        resource: the custom resource that the nodes of this kind carry; None for ``name``.
        gpus: of a node that a timing takes.
        cpus: cores of a node that a timing on GPUs takes, beside others; None has it alone on the node.
        device: ``cpu`` or ``cuda``.
        backends: timed there; empty for those of the sweep.
    """

    name: str
    resource: str | None = None
    gpus: int = 0
    cpus: int | None = None
    device: str = "cpu"
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A sweep: every model in every precision on every backend at every batch, on every kind of machine.

    Attributes:
        backends: empty for torch, onnxruntime and openvino where installed.
        threads: within an operator; None for all cores.
        calib, samples: data to quantize with, and how many at the most.
        data: labeled images that accuracy is judged on; None judges none.
        repetitions: processes of each cell.
        min_time: seconds of timed calls in each.
        seed: of untrained weights, inputs and order, where a model has none of its own.
        baseline: the backend that speed-ups are against.
        machines: empty for whatever is there.
    """

    models: tuple[Entry, ...]
    precisions: tuple[str, ...] = ("fp32",)
    backends: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    calib: str | None = None
    samples: int | None = None
    data: str | None = None
    repetitions: int = 5
    min_time: float = 1.0
    seed: int = 0
    baseline: str = "torch"
    machines: tuple[Machine, ...] = ()


def parse(plain: Any, backends: Collection[str]) -> Spec:
    """Read a sweep from plain values, as YAML or a command line gives them.

    Args:
        plain: a mapping with the fields of `Spec`.
        backends: that there are.

    Raises:
        SpecError: something is missing, unknown, doubled, or not of its kind.
    """
    known = _known((), plain, Spec)
    spec = Spec(
        models=tuple(_entry(("models", place), item) for place, item in enumerate(_some(("models",), plain))),
        machines=_machines(known.get("machines")),
        **{name: READ[name]((name,), value) for name, value in known.items() if name in READ},
    )
    _check(spec, backends)
    return spec


def _check(spec: Spec, backends: Collection[str]) -> None:
    """What the fields must be to each other."""
    _distinct(("models",), [item.title.rpartition("/")[2] for item in spec.models], "they would overwrite each other")
    _distinct(("machines",), [item.name for item in spec.machines], "kinds of machines need names of their own")
    for name in ("precisions", "batches", "backends"):
        _distinct((name,), getattr(spec, name), "once is enough")
    for position, precision in enumerate(spec.precisions):
        _one_of(("precisions", position), precision, PRECISIONS)
    for position, backend in enumerate(spec.backends):
        _one_of(("backends", position), backend, backends)
    _one_of(("baseline",), spec.baseline, backends)
    for number, machine in enumerate(spec.machines):
        for position, backend in enumerate(machine.backends):
            _one_of(("machines", number, "backends", position), backend, backends)
        if machine.cpus and not machine.gpus:
            raise SpecError(("machines", number, "cpus"), "a timing on a CPU has its node alone; cpus goes with gpus.")
        if machine.device == "cuda" and not machine.gpus:
            raise SpecError(("machines", number, "device"), "cuda needs gpus: 1, so that nothing else runs on it.")
    if "int8" in spec.precisions and spec.calib is None:
        raise SpecError(("precisions",), "int8 needs calib: the data that ranges of activations are looked up in.")


def _entry(place: Place, value: Any) -> Entry:
    if isinstance(value, str):
        return Entry(name=_text(place, value))
    known = _known(place, value, Entry)
    if "name" not in known:
        raise SpecError(place, "the name is missing.")
    readers: dict[str, Any] = {
        **dict.fromkeys(("name", "weights", "arch"), _text),
        "seed": _count,
        "inputs": _words,
        "options": _options,
    }
    return Entry(**{name: readers[name]((*place, name), item) for name, item in known.items()})


def _machines(value: Any) -> tuple[Machine, ...]:
    readers: dict[str, Any] = {
        "name": _name,
        "resource": _text,
        "cpus": _whole,
        "gpus": _count,
        "device": lambda place, item: _one_of(place, item, DEVICES),
        "backends": _words,
    }
    found = []
    for position, item in enumerate(_list(("machines",), value)):
        place: Place = ("machines", position)
        known = _known(place, item, Machine)
        if "name" not in known:
            raise SpecError(place, "the name is missing.")
        found.append(Machine(**{name: readers[name]((*place, name), part) for name, part in known.items()}))
    return tuple(found)


def _known(place: Place, value: Any, kind: type) -> dict[str, Any]:
    """The fields of a mapping that are given."""
    if not isinstance(value, Mapping):
        raise SpecError(place, f"expected a mapping, found {_shown(value)}.")
    names = [item.name for item in fields(kind)]
    for key in value:
        if key not in names:
            raise SpecError((*place, key), f"unknown.{_meant(key, names)}")
    return {name: item for name, item in value.items() if item is not None}


def _some(place: Place, plain: Mapping[str, Any]) -> Sequence[Any]:
    found = _list(place, plain.get("models"))
    if not found:
        raise SpecError(place if "models" in plain else (), "at least one model is needed.")
    return found


def _list(place: Place, value: Any) -> Sequence[Any]:
    if value is None:
        return []
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise SpecError(place, f"expected a list, found {_shown(value)}.")
    return value


def _text(place: Place, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = " Put it in quotes." if isinstance(value, (bool, int, float)) else ""
        raise SpecError(place, f"expected text, found {_shown(value)}.{hint}")
    return value


def _name(place: Place, value: Any) -> str:
    text = _text(place, value)
    if not NAME.fullmatch(text):
        raise SpecError(place, f"{text!r} is no name: letters, digits, dots, dashes and underscores.")
    return text


def _words(place: Place, value: Any) -> tuple[str, ...]:
    return tuple(_text((*place, position), item) for position, item in enumerate(_list(place, value)))


def _whole(place: Place, value: Any) -> int:
    return _count(place, value, least=1)


def _count(place: Place, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(place, f"expected a whole number from {least} on, found {_shown(value)}.")
    return value


def _wholes(place: Place, value: Any) -> tuple[int, ...]:
    return tuple(_whole((*place, position), item) for position, item in enumerate(_list(place, value)))


def _seconds(place: Place, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise SpecError(place, f"expected seconds above 0, found {_shown(value)}.")
    return float(value)


def _options(place: Place, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise SpecError(place, f"expected a mapping, found {_shown(value)}.")
    for name, item in value.items():
        if not isinstance(item, (str, bool, int, float)):
            raise SpecError((*place, name), f"expected a number, a word or true or false, found {_shown(item)}.")
    return {str(name): str(item) for name, item in value.items()}


def _one_of(place: Place, value: Any, known: Collection[str]) -> str:
    if value not in known:
        raise SpecError(place, f"{value!r} is not one of {', '.join(known)}.{_meant(value, known)}")
    return str(value)


def _meant(value: Any, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _distinct(place: Place, values: Sequence[Any], why: str) -> None:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise SpecError((*place, position), f"{value} is named twice; {why}.")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


READ: Mapping[str, Any] = {
    "precisions": _words,
    "backends": _words,
    "batches": _wholes,
    "threads": _whole,
    "calib": _text,
    "samples": _whole,
    "data": _text,
    "repetitions": _whole,
    "min_time": _seconds,
    "seed": _count,
    "baseline": _text,
}
