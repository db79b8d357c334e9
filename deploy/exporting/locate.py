"""``deploy check --locate``: collect the model's operators and the graph's tensors for `deploy.parity.locate`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.errors import DeployError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds
from deploy.exporting.domains import find_domains
from deploy.exporting.opened_file import match_inputs
from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.node import OnnxNode
from deploy.onnx_graph.view import BATCH
from deploy.parity.locate import GraphStep, Location, OperatorRecord, first_difference
from deploy.parity.probes import make_probe
from deploy.support import onnx_file
from deploy.support.onnx_modules import scope

_BY_NAME = 1e-4
"""Distance of two tensors of float32, relative to their magnitude, that is not rounding."""


def locate(model: Model, path: Path, *, precision: str, seed: int) -> Location:
    """Find the first tensor of an ONNX file that differs from the model, on one probe."""
    with IsolatedRunner("onnxruntime", "deploy.backends.onnxruntime.stepwise") as stepwise:
        stepwise.open(path)
        rename, inputs, _ = match_inputs(model, stepwise.inputs)
        probe = make_probe(inputs, {**model.sizes, "batch": 2}, seed=seed, domains=find_domains(model, inputs)[0])
        stepwise.submit({rename[name]: value for name, value in probe.feeds.items()})
        records = _records(model, probe.feeds, precision)
        fetched = stepwise.result()
    graph = onnx_file.load(path).graph
    made_by = {name: tuple(node.input) for node in graph.node for name in node.output}
    computed = _from_inputs(graph)
    steps = [
        GraphStep(
            tensor=name,
            node=node.name,
            operator=node.op_type,
            scope=scope(node),
            shape=tuple(int(size) for size in fetched[f"{name}:shape"]),
            sketch=fetched[name],
        )
        for node in graph.node
        for name in node.output
        if f"{name}:shape" in fetched and name in computed
    ]
    return first_difference(steps, made_by, records, precision)


def _from_inputs(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that depend on the inputs of the graph; the others are computed from weights alone."""
    stored = {tensor.name for tensor in graph.initializer}
    known = {value.name for value in graph.input if value.name not in stored}
    for node in graph.node:
        if known.intersection(node.input):
            known.update(node.output)
    return known


def _records(model: Model, feeds: Feeds, precision: str) -> list[OperatorRecord]:
    reference = PyTorchRunner(model, "fp64").trace(feeds)
    baseline = PyTorchRunner(model, precision).trace(feeds)
    return [
        OperatorRecord(module=wide.module, shape=wide.shape, reference=wide.sketch, baseline=own.sketch)
        for wide, own in zip(reference, baseline, strict=False)
        if wide.shape == own.shape
    ]


def locate_by_name(model: Model, path: Path) -> Location:
    """Find the first tensor of an edited ONNX file that differs from the one of this name in the original.

    The original runs in blocks of samples, so its tensors are joined before they are compared.
    """
    original: Any = model.module
    edited = OnnxModule(onnx_file.load(path), path.parent)
    samples = 2 * original.view.block + 1
    sizes = {**model.sizes, BATCH: samples}
    probe = make_probe(model.inputs, sizes, seed=0, domains=find_domains(model, model.inputs)[0])
    values = [torch.from_numpy(np.asarray(probe.feeds[spec.name], order="C")) for spec in model.inputs]
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    computed: list[tuple[OnnxNode, str, torch.Tensor]] = []
    running: list[OnnxNode] = []
    for module, keep in (
        (original, lambda _, name, value: parts[name].append(value)),
        (edited, lambda node, name, value: computed.append((node, name, value))),
    ):
        _watch(module, running, keep)
        try:
            with torch.inference_mode():
                module(*values)
        except (DeployError, RuntimeError, ValueError, IndexError, TypeError):
            if module is original:
                raise
            return _location(running[-1], running[-1].outputs[0], None, computed)
    for node, name, value in computed:
        noise = _noise(parts[name], value) if name in parts else 0.0
        if noise > _BY_NAME:
            return _location(node, name, noise, computed)
    return _location(None, "", None, computed)


def _watch(
    module: torch.nn.Module, running: list[OnnxNode], keep: Callable[[OnnxNode, str, torch.Tensor], None]
) -> None:
    """Note the node that runs, and pass on the float tensors that nodes compute."""

    def before(step: Step, _: Any) -> None:
        running.append(step.node)

    def after(step: Step, _: Any, results: Sequence[Any]) -> None:
        for name, value in zip(step.node.outputs, results, strict=False):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                keep(step.node, name, value)

    for step in module.modules():
        if isinstance(step, Step):
            step.register_forward_pre_hook(before)
            step.register_forward_hook(after)


def _noise(parts: Sequence[torch.Tensor], value: torch.Tensor) -> float:
    """Return the distance of a tensor from the joined parts, relative to these; infinite if the shapes do not fit.

    The order of values is not compared, since the samples need not be in front of what they are joined with.
    """
    axes = [
        axis for axis, size in enumerate(parts[0].shape) if value.ndim == parts[0].ndim and size != value.shape[axis]
    ]
    expected = parts[0]
    if len(axes) == 1:
        joined = torch.cat(list(parts), dim=axes[0])
        expected = joined.narrow(axes[0], 0, min(value.shape[axes[0]], joined.shape[axes[0]]))
    if expected.shape != value.shape:
        return float("inf")
    found, wanted = value.double().flatten(), expected.double().flatten()
    scale = wanted.norm().item()
    gap = min((found - wanted).norm().item(), (found.sort().values - wanted.sort().values).norm().item())
    return gap / scale if scale else (float("inf") if gap else 0.0)


def _location(
    node: OnnxNode | None, tensor: str, noise: float | None, computed: Sequence[tuple[OnnxNode, str, Any]]
) -> Location:
    names = [name for _, name, _ in computed]
    agreed = names.index(tensor) if tensor in names else len(names)
    return Location(
        tensor=tensor,
        node=node.name if node else "",
        operator=node.operator if node else "",
        noise=noise,
        own=None if noise is None else 0.0,
        after=names[agreed - 1] if agreed else "",
        agreed=agreed,
        compared=len(names),
    )
