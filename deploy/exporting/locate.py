"""``deploy check --locate``: collect the model's operators and the graph's tensors for `deploy.parity.locate`."""

from __future__ import annotations

from pathlib import Path

import onnx

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds
from deploy.exporting.domains import find_domains
from deploy.exporting.prove import match_inputs
from deploy.parity.locate import GraphStep, Location, OperatorRecord, first_difference
from deploy.parity.probes import make_probe
from deploy.support import onnx_file
from deploy.support.onnx_decisions import scope


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
