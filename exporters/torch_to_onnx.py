"""PyTorch to ONNX, by torch.export or by tracing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from deploy.core.errors import DeployError, ExportError, ModelError, StorageError
from deploy.core.model import Model, caches
from deploy.core.tensors import SizeRange, TensorSpec, size_ranges, symbols, with_ranges
from deploy.support.attention import plain_attention
from deploy.support.onnx_file import SINGLE_FILE_LIMIT, opset
from deploy.support.runtime_errors import refused_inputs
from deploy.support.state import unchanged
from exporters.einsum import lower_case
from exporters.padding import keep_zeros_before_max
from exporters.ranges import exported_ranges
from exporters.suppression import expand_greedy

TRACE_OPSET = 17
"""Default operator set of tracing."""

_NODE_METADATA = ("namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")
"""Metadata of nodes that is kept; it relates nodes to modules."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        opset: the ONNX operator set; None for the strategy's default.
    """

    opset: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported file.

    Attributes:
        inputs: inputs of the graph, with the sizes that it is claimed to be right for.
        outputs: outputs of the graph, with its names of dimensions.
        caches: places of caches in the result of the model, which are not in the graph.
        traced_branches: lines of Python code, as ``file.py:12``, where a value decided which branch was traced; the
            graph contains that branch only.
    """

    path: Path
    strategy: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    traced_branches: tuple[str, ...]
    caches: tuple[str, ...] = ()


def export(
    model: Model, inputs: Sequence[TensorSpec], path: Path, options: ExportOptions, *, strategy: str
) -> Exported:
    """Export with one strategy: ``export`` (torch.export) or ``trace`` (run once and record).

    Symbolic dimensions of the inputs become dynamic and have the sizes ``model.sizes`` during the export. Weights of
    2 GB and more go to ``<path>.data`` beside the file.

    Raises:
        ExportError: the strategy failed, or the graph has other inputs, outputs or dynamic dimensions than requested.
        ModelError: the model does not run on the example inputs.
        StorageError: the file cannot be written.
    """
    result = _example_result(model, inputs)
    names = list(model.name_outputs(result))
    with _captured() as (log, caught), plain_attention():
        try:
            with unchanged(model.module, traced=True):
                ranges = STRATEGIES[strategy](model, inputs, names, path, options)
        except OSError as exc:
            raise StorageError(f"{path.name}: cannot be written: {exc.strerror or exc}.") from exc
        except Exception as exc:
            file = _write_log(model, strategy, log(), exc)
            raise ExportError(f"{strategy}: {_reason(exc, inputs)}", f"full log: {file}") from exc
    saved = onnx.load(str(path), load_external_data=False)
    exported = Exported(
        path=path,
        strategy=strategy,
        opset=opset(saved),
        inputs=with_ranges([_spec(value) for value in saved.graph.input], ranges),
        outputs=tuple(_spec(value) for value in saved.graph.output),
        traced_branches=_traced_branches(caught),
        caches=tuple(caches(result)),
    )
    _check_interface(exported, inputs, names)
    if options.opset not in (None, exported.opset):
        raise ExportError(f"{strategy}: the graph has opset {exported.opset} instead of {options.opset}.")
    return exported


def example(model: Model, inputs: Sequence[TensorSpec]) -> dict[str, torch.Tensor]:
    """Return seeded example tensors of an export; the batch is 2, since exporters specialize a size of 1."""
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


def _example_result(model: Model, inputs: Sequence[TensorSpec]) -> Any:
    try:
        with unchanged(model.module), torch.inference_mode():
            return model.result_of(model.module, *model.arguments(example(model, inputs)))
    except DeployError:
        raise
    except Exception as exc:
        raise refused_inputs(model.name, inputs, exc) from exc


class _Flat(torch.nn.Module):
    """A model that takes its inputs and returns its outputs as flat sequences of tensors, in order.

    The parts of the model are this module's own, so that their names in the graph have no prefix.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.training = False
        self._parameters, self._buffers = model.module._parameters, model.module._buffers
        self._modules = model.module._modules
        self._non_persistent_buffers_set = model.module._non_persistent_buffers_set
        vars(self)["_model"] = model

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the model."""
        model = vars(self)["_model"]
        return tuple(model.call({spec.name: value for spec, value in zip(model.inputs, tensors, strict=True)}).values())

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors; ``get_extra_state`` may return anything, which tracing does not expect."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _by_torch_export(
    model: Model, inputs: Sequence[TensorSpec], outputs: list[str], path: Path, options: ExportOptions
) -> Sequence[SizeRange]:
    from exporters import operator_list, rewrite_rules
    from exporters.translations import translations  # imports onnxscript

    rewrite_rules.guard()
    operator_list.list_once()
    dims = [{axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in inputs]
    program = torch.onnx.export(
        _Flat(model),
        tuple(example(model, inputs).values()),
        dynamo=True,
        verbose=False,
        input_names=[spec.name for spec in inputs],
        output_names=outputs,
        opset_version=options.opset,
        custom_translation_table=translations(options.opset),
        dynamic_shapes=(tuple(dims),) if any(dims) else None,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned nothing.")
    ranges = [] if program.exported_program is None else exported_ranges(program.exported_program, inputs, model.sizes)
    expand_greedy(program.model)
    _clean(program.model)
    _save(program.model, path)
    return [*ranges, *size_ranges(inputs).values()]


def _save(model: ir.Model, path: Path) -> None:
    """Write the model and release its weights, since onnxscript's rewrite rules keep a reference to the last graph."""
    initializers = model.graph.initializers.values()
    size = sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size >= SINGLE_FILE_LIMIT else None)
    for value in initializers:
        value.const_value = None


def _by_tracing(
    model: Model, inputs: Sequence[TensorSpec], outputs: list[str], path: Path, options: ExportOptions
) -> Sequence[SizeRange]:
    axes = {spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in inputs}
    axes |= _output_axes(model, inputs)
    active = any(part.training for part in model.module.modules())  # although eval() was called: EVAL would change it
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _unchecked(model.module):
        traced = Path(folder) / path.name
        torch.onnx.export(
            _Flat(model),
            tuple(example(model, inputs).values()),
            traced,
            dynamo=False,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=outputs,
            opset_version=options.opset or TRACE_OPSET,
            dynamic_axes=axes,
            training=torch.onnx.TrainingMode.PRESERVE if active else torch.onnx.TrainingMode.EVAL,
        )
        loaded = ir.load(traced)
        _clean(loaded)
        _save(loaded, path)
    return list(size_ranges(inputs).values())


@contextlib.contextmanager
def _unchecked(module: torch.nn.Module) -> Iterator[None]:
    """Let an exported program run without its check of input sizes, which cannot be traced."""
    hooks = dict(module._forward_pre_hooks)
    if isinstance(module, torch.fx.GraphModule):
        module._forward_pre_hooks.clear()
    try:
        yield
    finally:
        module._forward_pre_hooks.update(hooks)


def _output_axes(model: Model, inputs: Sequence[TensorSpec]) -> dict[str, dict[int, str]]:
    """Return, by output and axis, the input dimension that it follows, found by running the model at another size."""
    shapes = {name: tuple(value.shape) for name, value in model.name_outputs(_example_result(model, inputs)).items()}
    axes: dict[str, dict[int, str]] = {}
    for symbol in symbols(inputs):
        size, allowed = model.sizes[symbol], size_ranges(inputs)[symbol]
        more = size + allowed.multiple if allowed.allows(size + allowed.multiple) else size - allowed.multiple
        if not allowed.allows(more):
            continue
        other = model.replace(sizes={**model.sizes, symbol: more})
        try:
            changed = model.name_outputs(_example_result(other, inputs))
        except ModelError:  # the model may not accept this size
            continue
        for name, shape in shapes.items():
            for axis, (before, after) in enumerate(zip(shape, changed[name].shape, strict=True)):
                if (before, after) == (size, more):
                    axes.setdefault(name, {})[axis] = symbol
    return axes


Strategy = Callable[[Model, Sequence[TensorSpec], list[str], Path, ExportOptions], Sequence[SizeRange]]
"""Writes the graph, and returns the sizes that it is limited to."""

STRATEGIES: Mapping[str, Strategy] = {
    "export": _by_torch_export,
    "trace": _by_tracing,
}


def _clean(model: ir.Model) -> None:
    """Remove metadata that reveals source paths or differs between two equal exports; write what runtimes misread."""
    keep_zeros_before_max(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "Einsum":
            equation = lower_case(node.attributes["equation"].as_string())
            node.attributes["equation"] = ir.AttrString("equation", equation)
        for key in [key for key in node.metadata_props if key not in _NODE_METADATA]:
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


def _check_interface(exported: Exported, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> None:
    graph_inputs = {spec.name: spec for spec in exported.inputs}
    for spec in inputs:
        if spec.name not in graph_inputs:
            raise ExportError(f"{exported.strategy}: the graph does not use input {spec.name!r}.")
        for dim, size in zip(spec.shape, graph_inputs[spec.name].shape, strict=True):
            if isinstance(dim, str) and not isinstance(size, str):
                raise ExportError(
                    f"{exported.strategy}: dimension {dim!r} of input {spec.name!r} must be dynamic, "
                    f"but the graph fixes it to {size}.",
                    "request fewer dynamic dimensions with --dynamic",
                )
    names = [spec.name for spec in exported.outputs]
    if names != list(outputs):
        raise ExportError(
            f"{exported.strategy}: the graph has the outputs {', '.join(names)} instead of {', '.join(outputs)}."
        )


def _traced_branches(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return the lines where the tracer warned that a tensor became a Python number or boolean."""
    warned = [item for item in caught if item.category.__name__ == "TracerWarning"]
    lines = [f"{Path(item.filename).name}:{item.lineno}" for item in warned if "to a Python" in str(item.message)]
    return tuple(dict.fromkeys(lines))


@contextlib.contextmanager
def _captured() -> Iterator[tuple[Callable[[], str], Sequence[warnings.WarningMessage]]]:
    """Capture warnings, log records and prints of the exporter; yield a function with their text, and the warnings."""
    lines: list[str] = []

    class ListHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    printed = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    before = [(logger, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [ListHandler()], False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with (
                _file_of_stdout() as native,
                contextlib.redirect_stderr(printed),
                contextlib.redirect_stdout(printed),
            ):

                def text() -> str:
                    native.seek(0)
                    messages = [str(item.message) for item in caught]
                    return "\n".join([*lines, *messages, printed.getvalue(), native.read()])

                yield text, caught
    finally:
        for logger, propagate, handlers in before:
            logger.handlers, logger.propagate = handlers, propagate


@contextlib.contextmanager
def _file_of_stdout() -> Iterator[IO[str]]:
    """Redirect the process's standard output, where the tracer's C++ code prints the graph when it fails, to a file."""
    sys.stdout.flush()
    saved = os.dup(1)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield file
        finally:
            os.dup2(saved, 1)
            os.close(saved)


_REASONS = (
    (r"No ONNX function found for <OpOverload\(op='([\w.]+)'", "the operator {0} has no ONNX equivalent."),
    (
        r"Exporting the operator '([\w:]+)' to ONNX opset version (\d+) is not supported",
        "the operator {0} has no ONNX equivalent in opset {1}.",
    ),
    (r"inferred a static shape of (\d+) for dimension (dimension '\w+' of input '\w+')", "the model fixes {1} to {0}."),
    (
        r"Could not (?:guard on|extract specialized integer from) data-dependent expression",
        "{place} depends on the values of a tensor.",
    ),
)
"""Messages of the exporters, and what they mean."""

_DETAILS = re.compile(
    r"\n\s*(?:For more information|The error above|The following call|Suggested fixes|While executing|Original trace|"
    r"If you |Please |Caused by|graph\(|%|Inputs:|Outputs:|File |\()|\s*\[Caused by|\s*\n\n|⬆️"
)
"""Where an exporter's message turns from the reason to details, which are in the log."""


def _reason(exc: Exception, inputs: Sequence[TensorSpec]) -> str:
    """Return the reason of a failure in one or two sentences."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(exc))
    text = text.partition("## Exception summary")[2].strip() or text.strip()
    for number, spec in enumerate(inputs):
        for axis, dim in enumerate(spec.shape):
            text = text.replace(f"inputs[{number}].shape[{axis}]", f"dimension {dim!r} of input {spec.name!r}")
    lines = re.findall(r'File "([^"]+)", line (\d+), in', text)
    place = "a branch or a size" + (f" at {Path(lines[-1][0]).name}:{lines[-1][1]}" if lines else "")
    for pattern, meaning in _REASONS:
        if found := re.search(pattern, text):
            return meaning.format(*found.groups(), place=place)
    text = re.sub(r"^<class '[^']+'>: ", "", text)
    text = text[: match.start()] if (match := _DETAILS.search(text)) and match.start() else text
    text = " ".join(text.split())
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", text)
    return " ".join(sentences[:2])[:300] or type(exc).__name__


def _write_log(model: Model, strategy: str, text: str, exc: Exception) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"deploy-export-{model.slug}-{strategy}-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(f"{text}\n\n{exc}\n")
    return Path(log.name)
