"""The specification of a sweep: its fields, and how it is read from a YAML file or a command line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from deploy.core.backend import backends
from deploy.core.errors import UsageError
from deploy.core.extras import require
from deploy.models.request import check_slug, checkpoint_slug

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEVICES = ("cpu", "cuda")
MACHINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Place = tuple[str | int, ...]
"""Keys and positions from the top of a specification to a value: ``("machines", 1, "cpus")``."""

WORDS = {
    "Expected": "expected",
    "Object missing": "missing",
    "`object`": "a mapping",
    "`array`": "a list",
    " | null`": "`",
    r"`str` matching regex '\\S'": "non-blank text",
}
"""What YAML users call the things that msgspec's messages name."""

Text = Annotated[str, Meta(pattern=r"\S")]
Count = Annotated[int, Meta(ge=0)]
PositiveInt = Annotated[int, Meta(ge=1)]


class SpecError(UsageError):
    """An invalid specification; ``place`` is where the invalid value is."""

    def __init__(self, place: Place, message: str) -> None:
        path = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in place).removeprefix(".")
        super().__init__(f"{path}: {message}" if path else message)
        self.place = place


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepModel:
    """A model of a sweep; the fields are those of `deploy.models.request.ModelRequest`.

    Without a seed for its untrained weights, it takes the one of the sweep.
    """

    name: Text
    weights: Text = "auto"
    arch: Text | None = None
    seed: Count | None = None
    inputs: tuple[Text, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    slug: Text | None = None

    @property
    def title(self) -> str:
        """Name of the model in the sweep: that of its folder if the user or a checkpoint gives one."""
        return self.slug or checkpoint_slug(self.name, self.weights) or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A kind of machine that models are timed on.

    Attributes:
        name: name in the report.
        resource: custom Ray resource of the nodes of this kind; None for ``name``.
        gpus: GPUs that a benchmark takes.
        cpus: CPU cores that a benchmark on GPUs takes, so that other tasks can share the node; None for the whole node.
        device: ``cpu`` or ``cuda``.
        backends: backends that are timed on this kind of machine; empty for the backends of the sweep.
    """

    name: Text
    resource: Text | None = None
    gpus: Count = 0
    cpus: PositiveInt | None = None
    device: str = "cpu"
    backends: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSpec:
    """A sweep: every model in every precision on every backend at every batch size, on every kind of machine.

    Attributes:
        models: at least one.
        precisions: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        backends: backends to time; empty for torch, onnxruntime and openvino where installed.
        batches: batch sizes.
        threads: threads within an operator; None for all cores.
        calib: calibration data: a folder, a file, or the name of a bundled data set.
        samples: maximum number of calibration samples.
        data: labeled images to evaluate accuracy on; None skips the evaluation.
        repetitions: worker processes per configuration.
        min_time: seconds of timed calls per worker process.
        seed: seed of untrained weights, inputs and measurement order; a model can set its own.
        baseline: backend that speedups are relative to.
        machines: kinds of machines; empty for whatever machine is available.
    """

    models: tuple[SweepModel, ...]
    precisions: tuple[Text, ...] = ("fp32",)
    backends: tuple[Text, ...] = ()
    batches: tuple[PositiveInt, ...] = (1,)
    threads: PositiveInt | None = None
    calib: Text | None = None
    samples: PositiveInt | None = None
    data: Text | None = None
    repetitions: PositiveInt = 5
    min_time: Annotated[float, Meta(gt=0)] = 1.0
    seed: Count = 0
    baseline: Text = "torch"
    machines: tuple[Machine, ...] = ()


def read_spec(path: Path) -> SweepSpec:
    """Read a sweep from a YAML file; ``docs/sweeps.md`` describes its fields.

    Args:
        path: the YAML file.

    Raises:
        UsageError: the file cannot be read, is not YAML, or is not a valid sweep; the message gives the line.
        MissingPackageError: PyYAML is not installed.
    """
    require("sweep")
    from deploy.sweeps.document import Document

    document = Document(path)
    try:
        return parse_spec(document.values)
    except SpecError as exc:
        raise document.error(document.line_of(exc.place), exc.message) from exc


def parse_spec(values: object) -> SweepSpec:
    """Read a sweep from plain values, as YAML or a command line gives them.

    Args:
        values: a mapping with the fields of `SweepSpec`; a model may be given as its name alone.

    Raises:
        SpecError: a field is missing, unknown, repeated, or has an invalid value.
    """
    given = _fields_of((), values, SweepSpec)
    if isinstance(given, dict):
        for name, kind in (("models", SweepModel), ("machines", Machine)):
            if isinstance(items := given.get(name), (list, tuple)):
                given[name] = [_fields_of((name, position), item, kind) for position, item in enumerate(items)]
    try:
        spec = msgspec.convert(given, SweepSpec)
    except msgspec.ValidationError as exc:
        raise _translated(exc, given) from exc
    _check(spec)
    return spec


def _fields_of(place: Place, values: Any, kind: type) -> Any:
    """Return the fields of a mapping that have a value; refuse unknown ones."""
    if isinstance(values, str) and kind is SweepModel:
        return {"name": values}
    if not isinstance(values, Mapping):
        return values
    known = [item.name for item in fields(kind)]
    for key in values:
        if key not in known:
            raise SpecError((*place, key), f"unknown key.{_suggestion(key, known)}")
    given = {name: value for name, value in values.items() if value is not None}
    if kind is SweepModel and isinstance(options := given.get("options"), Mapping):
        for key, item in options.items():
            if not isinstance(item, (str, bool, int, float)):
                raise SpecError((*place, "options", key), "expected text, a number, true or false.")
        given["options"] = {str(key): str(item) for key, item in options.items()}
    return given


def _translated(exc: msgspec.ValidationError, values: Any) -> SpecError:
    """Return the error with its value and the place at the end of the message: ``… - at `$.models[1].name```."""
    message, _, path = str(exc).partition(" - at ")
    place = tuple(int(index) if index else key for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path))
    hint = " Put the value in quotes." if re.search("`str.*`, got `(bool|int|float)`", message) else ""
    if message.startswith("Expected"):
        for part in place:
            values = values[part]
        message = f"{message.partition(', got ')[0]}, got {values!r:.40}"
    for word, plain in WORDS.items():
        message = message.replace(word, plain)
    return SpecError(place, f"{message}.{hint}")


def _check(spec: SweepSpec) -> None:
    if not spec.models:
        raise SpecError(("models",), "at least one model is required.")
    for position, item in enumerate(spec.models):
        if item.slug is not None:
            try:
                check_slug(item.slug)
            except UsageError as exc:
                raise SpecError(("models", position, "slug"), exc.message) from exc
    slugs = [item.title.rpartition("/")[2] for item in spec.models]
    _check_distinct(("models",), slugs, "; both models would write the same files")
    _check_distinct(("machines",), [item.name for item in spec.machines])
    for name in ("precisions", "batches", "backends"):
        _check_distinct((name,), getattr(spec, name))
    known = backends()
    for position, precision in enumerate(spec.precisions):
        _check_known(("precisions", position), precision, PRECISIONS)
    for position, backend in enumerate(spec.backends):
        _check_known(("backends", position), backend, known)
    _check_known(("baseline",), spec.baseline, known)
    if not math.isfinite(spec.min_time):
        raise SpecError(("min_time",), "must be finite.")
    for number, machine in enumerate(spec.machines):
        place: Place = ("machines", number)
        if not MACHINE_NAME.fullmatch(machine.name):
            allowed = "use letters, digits, dots, dashes and underscores"
            raise SpecError((*place, "name"), f"invalid name {machine.name!r}; {allowed}.")
        _check_known((*place, "device"), machine.device, DEVICES)
        for position, backend in enumerate(machine.backends):
            _check_known((*place, "backends", position), backend, known)
        if machine.cpus and not machine.gpus:
            raise SpecError((*place, "cpus"), "requires gpus; a benchmark on the CPU takes the whole node.")
        if machine.device == "cuda" and not machine.gpus:
            raise SpecError((*place, "device"), "cuda requires gpus: 1, so that no other task uses the GPU.")
    if "int8" in spec.precisions and spec.calib is None:
        raise SpecError(("precisions",), "int8 requires calib, the calibration data.")
    if spec.calib is not None and "int8" not in spec.precisions:
        raise SpecError(("calib",), "calib has no effect without int8 in precisions.")
    if spec.samples is not None and spec.calib is None:
        raise SpecError(("samples",), "samples has no effect without calib.")


def _check_known(place: Place, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise SpecError(place, f"{value!r} is not one of {', '.join(known)}.{_suggestion(value, known)}")


def _check_distinct(place: Place, values: Sequence[Any], reason: str = "") -> None:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise SpecError((*place, position), f"{value} is given twice{reason}.")


def _suggestion(value: Any, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
