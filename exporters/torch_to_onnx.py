"""PyTorch to ONNX: by torch.export where it can, by tracing where it cannot, and never without saying which."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from deploy.core.errors import DeployError, ExportError, ModelError, StorageError
from deploy.core.model import Model
from deploy.core.tensors import TensorSpec, symbols
from exporters.limits import SINGLE_FILE_LIMIT

INPUT_FORMAT = "torch"
OUTPUT_SUFFIX = ".onnx"
TRACE_OPSET = 17
_KEPT_METADATA = ("namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What to make.

    Attributes:
        opset: the ONNX operator set, or None for the strategy's own default.
        precision: ``fp32``, or ``fp16`` for half-precision weights and activations with float32 inputs and outputs.
    """

    opset: int | None = None
    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was made.

    Attributes:
        strategy: ``export`` or ``trace``.
        outputs: what the graph gives, dimensions named as the graph names them.
        decided: places in Python code where tracing took one way by a value that it saw, as ``file.py:12``: the graph
            has that way only.
        log: everything the exporter said.
    """

    path: Path
    strategy: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    decided: tuple[str, ...]
    log: str


def export(
    model: Model, inputs: Sequence[TensorSpec], path: Path, options: ExportOptions, *, strategy: str
) -> Exported:
    """Export with one strategy.

    Args:
        model: the model.
        inputs: its inputs; what is still symbolic becomes dynamic, traced with ``model.sizes``.
        path: the file to write; weights of 2 GB and more go to ``<path>.data`` beside it.
        options: what to make.
        strategy: ``export`` (torch.export) or ``trace`` (run once and record).

    Raises:
        ExportError: this strategy cannot, or the graph fixed a dimension that was to be dynamic.
    """
    names = list(_example_outputs(model, inputs))
    with _captured() as (log, caught):
        try:
            STRATEGIES[strategy](model, inputs, names, path, options)
        except OSError as exc:
            raise StorageError(f"{path.name} cannot be written: {exc.strerror or exc}.") from exc
        except Exception as exc:
            text = log()
            raise ExportError(
                f"{strategy}: {_reason(exc)}", f"full log: {_write_log(model, strategy, text, exc)}"
            ) from exc
        if options.precision == "fp16":
            from exporters.half import to_half  # imports onnxruntime: half a second that fp32 does without

            to_half(path, path, SINGLE_FILE_LIMIT)
    graph = onnx.load(str(path), load_external_data=False)
    made = Exported(
        path=path,
        strategy=strategy,
        opset=next(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")),
        inputs=tuple(_spec(value) for value in graph.graph.input),
        outputs=tuple(_spec(value) for value in graph.graph.output),
        decided=_decided(caught),
        log=log(),
    )
    _check_interface(made, inputs, names)
    if options.opset not in (None, made.opset):
        raise ExportError(f"{strategy}: opset {options.opset} was asked for and opset {made.opset} came out.")
    return made


def example(model: Model, inputs: Sequence[TensorSpec]) -> dict[str, torch.Tensor]:
    """Seeded example tensors to trace with; a batch of 2, since 1 would be specialized."""
    generator = np.random.default_rng(0)
    tensors = {}
    for spec in inputs:
        shape = spec.concrete(model.sizes)
        if spec.dtype.startswith("float"):
            value = generator.standard_normal(shape).astype(spec.dtype)
            if spec.bounds is not None:
                value = value.clip(*spec.bounds)
        else:
            low, high = spec.bounds or (0, 2)
            value = generator.integers(int(low), int(high), shape).astype(spec.dtype)
        tensors[spec.name] = torch.from_numpy(np.asarray(value))
    return tensors


def _example_outputs(model: Model, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    try:
        with torch.inference_mode():
            return model.call(example(model, inputs))
    except DeployError:
        raise
    except Exception as exc:
        takes = "; ".join(map(str, inputs))
        raise ModelError(f"{model.name} does not run on {takes}: {type(exc).__name__}: {exc}") from exc


def _by_torch_export(
    model: Model, inputs: Sequence[TensorSpec], outputs: list[str], path: Path, options: ExportOptions
) -> None:
    args, kwargs = model.arguments(example(model, inputs))
    dims = {spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in inputs}
    shapes_args, shapes_kwargs = model.arguments(dims)
    names = [spec.name for spec in inputs]
    by_position = [*shapes_args, *shapes_kwargs.values()]
    program = torch.onnx.export(
        model.module,
        args,
        kwargs=kwargs,
        dynamo=True,
        verbose=False,
        input_names=names,
        output_names=outputs,
        opset_version=options.opset,
        dynamic_shapes=_dynamic_shapes(model, shapes_args, shapes_kwargs) if any(by_position) else None,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned nothing.")
    _clean(program.model)
    _save(program.model, path)


def _save(model: ir.Model, path: Path) -> None:
    """Write the model, and let go of its weights: onnxscript's rewrite rules hold on to the graph they saw last."""
    stored = [value for value in model.graph.initializers.values() if value.const_value is not None]
    size = sum(value.const_value.nbytes for value in stored if value.const_value is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size >= SINGLE_FILE_LIMIT else None)
    for value in stored:
        value.const_value = None


def _dynamic_shapes(model: Model, positional: tuple[Any, ...], keyword: dict[str, Any]) -> Any:
    if not keyword:
        return positional
    order = list(inspect.signature(model.module.forward).parameters)
    return {**dict(zip(order, positional, strict=False)), **keyword}


def _by_tracing(
    model: Model, inputs: Sequence[TensorSpec], outputs: list[str], path: Path, options: ExportOptions
) -> None:
    args, kwargs = model.arguments(example(model, inputs))
    axes = {spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in inputs}
    axes |= _output_axes(model, inputs)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / path.name
        torch.onnx.export(
            model.module,
            (*args, kwargs) if kwargs else args,
            traced,
            dynamo=False,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=outputs,
            opset_version=options.opset or TRACE_OPSET,
            dynamic_axes=axes,
        )
        loaded = ir.load(traced)
        _clean(loaded)
        _save(loaded, path)


def _output_axes(model: Model, inputs: Sequence[TensorSpec]) -> dict[str, dict[int, str]]:
    """Names for output dimensions that equal a dynamic input dimension, seen by running the model at another size."""
    shapes = {name: tuple(value.shape) for name, value in _example_outputs(model, inputs).items()}
    axes: dict[str, dict[int, str]] = {}
    for symbol in symbols(inputs):
        size = model.sizes[symbol]
        other = model.replace(sizes={**model.sizes, symbol: size + 1})
        try:
            moved = _example_outputs(other, inputs)
        except ModelError:  # not every size is one the model takes
            continue
        for name, shape in shapes.items():
            for axis, (before, after) in enumerate(zip(shape, moved[name].shape, strict=True)):
                if (before, after) == (size, size + 1):
                    axes.setdefault(name, {})[axis] = symbol
    return axes


STRATEGIES: Mapping[str, Callable[[Model, Sequence[TensorSpec], list[str], Path, ExportOptions], None]] = {
    "export": _by_torch_export,
    "trace": _by_tracing,
}


def _clean(model: ir.Model) -> None:
    """Drop what would leak the exporting machine (source paths) or differ between two equal exports."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for key in [key for key in node.metadata_props if key not in _KEPT_METADATA]:
            del node.metadata_props[key]
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.doc_string = None
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    shape = tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def _check_interface(made: Exported, wanted: Sequence[TensorSpec], outputs: Sequence[str]) -> None:
    found = {spec.name: spec for spec in made.inputs}
    for spec in wanted:
        if spec.name not in found:
            raise ExportError(f"{made.strategy}: input {spec.name!r} is not used by the graph and was dropped.")
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and not isinstance(found[spec.name].shape[axis], str):
                fixed = found[spec.name].shape[axis]
                raise ExportError(
                    f"{made.strategy}: dimension {dim!r} of input {spec.name!r} was to be dynamic, "
                    f"and the graph has fixed it to {fixed}.",
                    "ask for fewer dynamic dimensions with --dynamic",
                )
    if [spec.name for spec in made.outputs] != list(outputs):
        given = ", ".join(spec.name for spec in made.outputs)
        raise ExportError(f"{made.strategy}: the graph gives {given}; the model gives {', '.join(outputs)}.")


def _decided(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Where a value became a number or a truth of Python, as the tracer tells it."""
    found = [item for item in caught if item.category.__name__ == "TracerWarning"]
    found = [item for item in found if "to a Python" in str(item.message)]
    return tuple(dict.fromkeys(f"{Path(item.filename).name}:{item.lineno}" for item in found))


@contextlib.contextmanager
def _captured() -> Iterator[tuple[Callable[[], str], Sequence[warnings.WarningMessage]]]:
    """Catch warnings, log records and prints of the exporter instead of showing them.

    Yields:
        What gives their text, and the warnings.
    """
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    printed = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    before = [(logger, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [Keep()], False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
                yield (
                    lambda: "\n".join([*lines, *(str(item.message) for item in caught), printed.getvalue()]),
                    caught,
                )
    finally:
        for logger, propagate, handlers in before:
            logger.handlers, logger.propagate = handlers, propagate


def _reason(exc: Exception) -> str:
    """The exporter's own message, shortened to the lines that say why."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(exc))
    text = text.partition("## Exception summary")[2] or text
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("(Refer to")]
    return " ".join(lines)[:400] or type(exc).__name__


def _write_log(model: Model, strategy: str, text: str, exc: Exception) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"deploy-export-{model.slug}-{strategy}-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(f"{text}\n\n{exc}\n")
    return Path(log.name)
