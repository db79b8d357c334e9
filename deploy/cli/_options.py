"""Option types and checks that several commands share."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy.cli._arguments import DATA, METHOD, PRECISION_NAMES, Device, Several, check_options, check_preprocessing
from deploy.cli._common import Command
from deploy.quantization import DEFAULT_EFFORT, DEFAULT_METHOD, DEFAULT_SAMPLES, EFFORTS

if TYPE_CHECKING:
    from deploy.core.progress import Progress

Fields = TypeVar("Fields")

REQUEST_OPTIONS = ("weights", "arch", "seed", "inputs", "options", "outputs")
"""Parameters that describe MODEL; see `deploy.cli._common.model_options`."""

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"k": 2**10, "kib": 2**10, "m": 2**20, "mib": 2**20, "g": 2**30, "gib": 2**30, "t": 2**40, "tib": 2**40}
"""Bytes by unit, in lower case; a letter alone is binary, as in NVIDIA's tools."""


DURATIONS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
"""Seconds by unit."""


class Percent(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share between 0 and 1, written ``3%`` or ``0.03``."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a share."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(value).strip())
        share = (float(match[1]) / (100 if match[2] else 1)) if match else -1.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is not a percentage such as 3%.", param, ctx)
        return share


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A size in bytes: a number, or one with a unit: 2GB, 2GiB, 1.5 GB, 512M."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a size."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
        if match is None or match[2] not in UNITS:
            self.fail(f"{value!r} is not a size such as 2GB or 512MiB.", param, ctx)
        return int(float(match[1]) * UNITS[match[2]])


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A duration in seconds: a number with a unit: 5ms, 30s, 10min, 1h."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a duration."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)", str(value).strip().lower())
        if match is None or match[2] not in DURATIONS or not float(match[1]):
            self.fail(f"{value!r} is not a duration such as 5ms, 30s or 10min.", param, ctx)
        return float(match[1]) * DURATIONS[match[2]]


class DimensionSize(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The name of a dimension, which may contain ``=``, and its size."""

    name = "dimension"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse ``NAME=N``."""
        name, _, size = str(value).rpartition("=")
        if not name or not size.isascii() or not size.isdigit() or not 0 < int(size) < 2**31:
            self.fail(f"{value!r} is not the size of a dimension, such as length=16.", param, ctx)
        return name, int(size)


def _by_name(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, int], ...]) -> dict[str, int]:
    sizes = dict(value)
    if len(sizes) < len(value):
        raise click.BadParameter("a dimension is given twice.", ctx, param)
    return sizes


option = functools.partial(click.option, show_default=True)
"""`click.option` that shows the default."""

count = click.IntRange(min=1)
path = click.Path(path_type=Path)

allow_untrained_option = option("--allow-untrained", is_flag=True, help="Accept models with untrained weights.")
arch_option = option(
    "-o",
    "options",
    multiple=True,
    callback=check_options,
    metavar="KEY=VALUE",
    help="Option of the architecture; may be repeated.",
)
batch_option = option("--batch", type=count, default=1, help="Batch size.")
batch_size_option = option("--batch-size", type=count, default=64, help="Images per batch.")
calib_option = option(
    "--calib", type=DATA, metavar="DIR|FILE|NAME", help="Calibration data, where an INT8 file has to be made first."
)
data_root_option = option(
    "--data-root", type=click.Path(file_okay=False, path_type=Path), help="Directory of downloaded data sets."
)
device_option = option("--device", type=Device(), default="cpu", help="Device.")
instances_option = option("--instances", type=count, default=1, help="Instances of each model.")
labels_option = option("--labels", metavar="FILE|a,b,c", help="Class names: a file with one per line, or a list.")
max_batch_option = option("--max-batch", type=count, default=32, help="Maximum batch size, in samples.")
method_option = option(
    "--method",
    type=METHOD,
    default=DEFAULT_METHOD,
    metavar="minmax|percentile|entropy|mse",
    help="How the range of each tensor is chosen.",
)
effort_option = option(
    "--effort",
    type=click.Choice(EFFORTS),
    default=DEFAULT_EFFORT,
    help="What is tried to make the error smaller. low: nothing; medium: equalization, SmoothQuant and bias "
    "correction; high: also rounding by the error of each layer, which takes minutes.",
)
calib_samples_option = option(
    "--samples", type=click.IntRange(min=2), default=DEFAULT_SAMPLES, help="Number of calibration samples."
)
outputs_option = option(
    "--outputs",
    type=Several(),
    metavar="NAMES",
    default=(),
    show_default=False,
    help="Outputs of MODEL that are in the file and count, separated by commas. [default: all]",
)
seed_option = option("--seed", default=0, help="Seed of the inputs.")
sizes_option = option(
    "--size",
    "sizes",
    multiple=True,
    type=DimensionSize(),
    callback=_by_name,
    metavar="NAME=N",
    help="Size of a dynamic dimension other than the batch; repeatable. [default: from the manifest]",
)
skip_bad_option = option("--skip-bad", is_flag=True, help="Skip unreadable images instead of failing.")
threads_option = option("--threads", type=count, help="Threads per process. [default: all cores]")


def precision_option(text: str) -> Callable[[Command], Command]:
    """Return ``--precision``, whose default depends on the command."""
    return option("--precision", type=click.Choice(PRECISION_NAMES), help=text)


def preprocess_option(text: str) -> Callable[[Command], Command]:
    """Return ``--preprocess``, which changes or gives a preprocessing."""
    return option("--preprocess", multiple=True, callback=check_preprocessing, metavar="KEY=VALUE", help=text)


recipe_option = preprocess_option(
    "From an image to the input; repeatable: crop=224, mean=…, std=…, resize=256, interpolation=…, gray=…"
)


def max_delay_option(default: float) -> Callable[[Command], Command]:
    """Return ``--max-delay-ms``, whose default depends on the server."""
    return option(
        "--max-delay-ms",
        type=click.FloatRange(min=0),
        default=default,
        help="How long a request may wait for others to join its batch, in milliseconds.",
    )


def pack(options: dict[str, Any], kind: type[Fields]) -> Fields:
    """Take the fields of a dataclass out of a command's options and return the dataclass."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in options]  # type: ignore[arg-type]
    return kind(**{name: options.pop(name) for name in names})


def pack_model(options: dict[str, Any]) -> None:
    """Replace MODEL and the options that describe it by a `deploy.ModelRequest`; MODEL may be missing."""
    from deploy.models.request import ModelRequest, checkpoint_as_weights, parse_options

    fields = {name: options.pop(name) for name in REQUEST_OPTIONS if name in options}
    fields["options"] = parse_options(fields["options"])
    if "name" in options:
        fields["slug"] = options.pop("name")
    if options["model"] is not None:
        options["model"] = ModelRequest(name=options["model"], **fields)
        checkpoint_as_weights(options["model"])  # refuses a checkpoint without its architecture


def check_probes(options: dict[str, Any]) -> None:
    """Refuse ``--probes data`` without data."""
    if options["probes"] == "data" and options["data"] is None:
        raise click.UsageError("--probes data needs --data.")


def postprocess_options(function: Command) -> Command:
    """Add the options of how the outputs of a detector become detections; `pack_pipeline` reads them."""
    share = click.FloatRange(0, 1)
    for add in (
        option("--detections", type=count, help="Most detections of a picture. [default: 100]"),
        option(
            "--candidates",
            type=count,
            help="Most boxes of a picture that suppression considers. [default: 300; of torchvision's detectors 1000]",
        ),
        option("--iou-threshold", type=share, help="Overlap above which a box is suppressed. [default: 0.5]"),
        option("--score-threshold", type=share, help="Score that a detection must exceed. [default: 0.05]"),
        option(
            "--postprocess",
            type=click.Choice(["yolo", "fcos", "detr", "none"]),
            help="Form of the outputs of a detector: yolo: one tensor of boxes and scores; fcos: boxes and scores; "
            "detr: logits and pred_boxes; none: detections. [default: by the names of the outputs]",
        ),
    ):
        function = add(function)
    return function


def pack_pipeline(ctx: click.Context, options: dict[str, Any]) -> None:
    """Replace the options of `postprocess_options` and ``parts`` by the ``pipeline`` of an export."""
    from deploy.tasks.pipeline import GraphPipeline
    from deploy.tasks.postprocessing import Postprocessing

    parts, kind = options.pop("parts"), options.pop("postprocess")
    names = ("score_threshold", "iou_threshold", "candidates", "detections")
    refuse_unused(ctx, names, kind is not None or "postprocessing" in parts, "--postprocess or --with postprocessing")
    refuse_unused(ctx, ("suppression",), "postprocessing" in parts, "--with postprocessing")
    suppression = options.pop("suppression")
    limits = {name: value for name in names if (value := options.pop(name)) is not None}
    postprocessing = Postprocessing(kind=kind or "auto", **limits) if kind or limits else None
    options["pipeline"] = (
        GraphPipeline(parts=parts, postprocessing=postprocessing, suppression=suppression)
        if parts or postprocessing
        else None
    )


def pack_postprocessing(options: dict[str, Any]) -> None:
    """Replace the options of `postprocess_options` by the ``postprocessing`` of an evaluation."""
    from deploy.tasks.postprocessing import Postprocessing

    names, kind = ("score_threshold", "iou_threshold", "candidates", "detections"), options.pop("postprocess")
    limits = {name: value for name in names if (value := options.pop(name)) is not None}
    options["postprocessing"] = Postprocessing(kind=kind or "auto", **limits) if kind or limits else None


def pack_labels(options: dict[str, Any]) -> None:
    """Replace ``labels``, as the user wrote them, by the class names."""
    from deploy.models.preprocessing import read_labels

    options["labels"] = read_labels(options["labels"]) if options["labels"] else ()


def pack_samples(options: dict[str, Any], progress: Progress) -> None:
    """Replace ``data``, as the user wrote it, by the ``samples`` for the parity check."""
    data = options.pop("data")
    if data is not None:
        from deploy.exporting.samples import load_samples

        options["samples"] = load_samples(data, progress)


def given(ctx: click.Context, name: str) -> bool:
    """Whether the user typed a parameter, rather than leaving its default."""
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def refuse_unused(ctx: click.Context, names: Iterable[str], used: bool, needs: str) -> None:
    """Refuse options that this invocation ignores; the message says what they need: ``--scenario server``."""
    if used:
        return
    for name in names:
        if given(ctx, name):
            raise click.UsageError(f"{option_of(ctx.command, name)} has no effect without {needs}.", ctx)


def refuse_together(ctx: click.Context, names: Iterable[str], other: str) -> None:
    """Refuse options that contradict another one, which the caller has found to apply."""
    for name in names:
        if given(ctx, name):
            raise click.UsageError(f"{option_of(ctx.command, name)} cannot be combined with {other}.", ctx)


def option_of(command: click.Command, name: str) -> str:
    """Return the longest spelling of a parameter: ``--p99`` for ``p99``."""
    for param in command.params:
        if param.name == name:
            return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
    return name
