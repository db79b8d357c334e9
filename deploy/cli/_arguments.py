"""Arguments that are checked when they are parsed: before PyTorch is imported and before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from deploy.cli._completion import in_list, model_names, offered
from deploy.core import registry
from deploy.core.errors import BackendError, UnknownNameError, WeightsError

Check = Callable[[str], None]
Offer = Callable[[], Iterable[str]]

PRECISION_NAMES = ("fp32", "fp16", "bf16", "int8")
THROUGHPUT = "throughput"
"""The scenario of ``deploy bench`` that grows the batch."""


def will_run(ctx: click.Context | None) -> bool:
    """Return whether a command is to be run; what is only parsed, such as documentation, may name what is not here."""
    return ctx is not None and ctx.find_root().obj is not None


class Checked(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A text that a function refuses with an error, or accepts.

    Args:
        name: what it is, for help.
        check: raises `deploy.core.errors.DeployError`.
        offer: returns the names that the shell completes.
        paths: the text may be a path.
    """

    def __init__(self, name: str, check: Check, offer: Offer = tuple, *, paths: bool = False) -> None:
        self.name, self.check, self.offer, self.paths = name, check, offer, paths

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as it is."""
        if will_run(ctx):
            self.check(str(value))
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that the shell offers."""
        return offered(self.offer(), incomplete, paths=self.paths)


class Several(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A comma-separated list of words or of positive integers."""

    name = "list"

    def __init__(self, *, numbers: bool = False) -> None:
        self.numbers = numbers

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the items of an argument."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not parts:
            self.fail("the list is empty.", param, ctx)
        if not self.numbers:
            return tuple(parts)
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of positive integers, such as 1,8,32.", param, ctx)
        return tuple(int(part) for part in parts)


class Names(Several):
    """A comma-separated list of names that a function checks, one by one; the shell completes those of another."""

    def __init__(self, check: Check, offer: Offer) -> None:
        super().__init__()
        self.check, self.offer = check, offer

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the items."""
        items = super().convert(value, param, ctx)
        for item in items if will_run(ctx) else ():
            self.check(item)
        return items

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what the shell offers for the last item."""
        return in_list(self.offer(), incomplete)


class ModelName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A model, see `deploy.models.known.check_name`.

    Args:
        with_backend: ``MODEL@BACKEND`` and the name of a backend are taken, too.
        besides: ends of the names of files that are no models and are taken as they are.
    """

    name = "model"

    def __init__(self, *, with_backend: bool = False, besides: tuple[str, ...] = ()) -> None:
        self.with_backend, self.besides = with_backend, besides

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value as it is."""
        from deploy.models.known import check_name

        name = value
        if self.with_backend:
            from deploy.core.backend import backends

            what, at, backend = value.rpartition("@")
            name = what if at and backend in backends() else value
            if name in backends():
                return value
        if ctx is not None and will_run(ctx) and not (self.besides and name.endswith(self.besides)):
            check_name(name, ctx.find_root().obj.artifacts)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the models, and the backends where one can be given, that the shell offers."""
        return offered(
            [*model_names(ctx, incomplete), *(_backends() if self.with_backend else ())], incomplete, paths=True
        )


class Device(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """``cpu`` or ``cuda``, and in some commands ``auto``.

    Args:
        names: the devices.
        used: the command runs on it, so that there must be one.
    """

    def __init__(self, names: tuple[str, ...] = ("cpu", "cuda"), *, used: bool = True) -> None:
        super().__init__(names)
        self.used = used

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name of the device."""
        if value in ("gpu", "nvidia", "cuda:0"):
            self.fail(f"{value!r} is not a device; an NVIDIA GPU is called cuda: --device cuda", param, ctx)
        device = super().convert(value, param, ctx)
        if device == "cuda" and self.used and will_run(ctx):
            check_gpu()
        return device


def check_gpu() -> None:
    """Check that there is a GPU.

    Raises:
        BackendError: there is none.
    """
    from deploy.support import cuda_driver

    if not cuda_driver.gpus():
        raise BackendError("--device cuda: this machine has no NVIDIA GPU with a driver.", "deploy doctor")


def one_of(kind: str, names: Callable[[], tuple[str, ...]]) -> Checked:
    """Return the type of a name out of those that a function returns."""

    def check(value: str) -> None:
        known = names()
        if value not in known:
            raise UnknownNameError(kind, value, known, f"known: {', '.join(known)}")

    return Checked(kind, check, names)


def _check_data(value: str) -> None:
    from deploy.data.collection import check_data

    check_data(value)


def _data() -> Iterable[str]:
    from deploy.data.collection import bundled_names

    return bundled_names()


def _check_format(value: str) -> None:
    from deploy.engines.route import route

    route(value)


def _formats() -> Iterable[str]:
    from deploy.engines.route import formats

    return formats()


def _check_backend(value: str) -> None:
    """Check that a backend exists, on this machine or on another one of a sweep.

    Raises:
        UnknownNameError: it does not.
    """
    from deploy.core.backend import find_backend

    find_backend(value)


def _check_installed(value: str) -> None:
    from deploy.core.backend import find_backend

    find_backend(value).require()


def _backends() -> Iterable[str]:
    from deploy.core.backend import backends

    return [name for name, backend in backends().items() if backend.installed]


def _declared() -> Iterable[str]:
    from deploy.core.backend import backends

    return backends()


def _check_target(value: str) -> None:
    from calibration.target import find_target

    find_target(value)


def _targets() -> Iterable[str]:
    from calibration.target import targets

    return targets()


def _check_precision(value: str) -> None:
    if value not in PRECISION_NAMES:
        raise UnknownNameError("precision", value, PRECISION_NAMES, f"known: {', '.join(PRECISION_NAMES)}")


def _check_executor(value: str) -> None:
    from deploy.sweeps.executor import check_executor

    check_executor(value)


def _executors() -> Iterable[str]:
    from deploy.sweeps.executor import EXECUTORS

    return registry.names(EXECUTORS)


def _libraries() -> tuple[str, ...]:
    from deploy.support.tensorrt_library import RUNTIMES

    return ("auto", *RUNTIMES)


def _scenarios() -> Iterable[str]:
    from deploy.bench.cells import scenarios

    return (*scenarios(), THROUGHPUT)


def _check_scenario(value: str) -> None:
    from deploy.bench.cells import check_scenario

    check_scenario(value, (THROUGHPUT,))


def _weights() -> Iterable[str]:
    from deploy.models.request import WEIGHT_NAMES

    return WEIGHT_NAMES


def _check_weights(value: str) -> None:
    from deploy.models.archive_kind import check_is_weights
    from deploy.models.request import WEIGHT_NAMES, split_key

    path = split_key(value)[0].expanduser()
    if value in WEIGHT_NAMES:
        return
    if not path.is_file():
        raise WeightsError(f"{value}: no such file.")
    check_is_weights(path)


def check_options(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Check the form of ``-o KEY=VALUE``."""
    from deploy.models.request import parse_options

    parse_options(value)
    return value


def check_inputs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Check the form of ``--input NAME:DIMS``."""
    from deploy.core.tensors import parse_input

    for text in value:
        parse_input(text)
    return value


def check_preprocessing(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Check the form of ``--preprocess KEY=VALUE``."""
    from deploy.models.preprocessing import parse_changes

    parse_changes(value)
    return value


def existing(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Check that a file exists.

    Raises:
        ArtifactError: it does not.
    """
    from deploy.core.errors import ArtifactError

    if value is not None and will_run(ctx) and not value.exists():
        raise ArtifactError(f"{value}: no such file or folder.")
    return value


def _check_slug(value: str) -> None:
    from deploy.models.request import check_slug

    check_slug(value)


DATA = Checked("data", _check_data, _data, paths=True)
FORMAT = Checked("format", _check_format, _formats)
BACKEND = Checked("backend", _check_installed, _backends)
BACKENDS = Names(_check_installed, _backends)
BACKENDS_ANYWHERE = Names(_check_backend, _declared)
PRECISIONS = Names(_check_precision, lambda: PRECISION_NAMES)
TARGET = Checked("target", _check_target, _targets)
METHOD = one_of("calibration method", lambda: registry.names("calibration.statistics"))
WEIGHTS = Checked("weights", _check_weights, _weights, paths=True)
SLUG = Checked("name", _check_slug)
EXECUTOR = Checked("engine", _check_executor, _executors)
SCENARIO = Checked("scenario", _check_scenario, _scenarios)
LIBRARY = one_of("runtime", _libraries)
MODEL = ModelName()
