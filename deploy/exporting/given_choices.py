"""A graph whose discrete choices are given as inputs, so that rounding changes its values and not its choices.

Two candidates with nearly equal scores change places under the smallest noise, and every value computed from them
changes with them. With the order given, a graph is a continuous function, and how much noise half precision adds can be
measured value by value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from calibration.graph import ORDERS, attribute, decoding, orders
from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.model import Model, Weights
from deploy.core.runner import Fetches
from deploy.exporting.graph_choices import survey
from deploy.onnx_graph.graph import OnnxModule
from deploy.parity.probes import Probe
from deploy.support import onnx_file


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenChoices:
    """A graph with its choices as inputs.

    Attributes:
        source: the graph that makes them.
        path: the graph that is given them. Its further outputs are the values that orders are chosen by.
        choices: their names and types.
        decided: nodes of the source that choose, and those around them that decode, see `calibration.graph.decoding`;
            by their first results.
    """

    source: Path
    path: Path
    choices: tuple[onnx.ValueInfoProto, ...]
    decided: frozenset[str]

    def model(self) -> Model:
        """Return the graph as a model; its inputs are those of the source, then the choices."""
        return _model(onnx_file.load(self.path), self.path)

    def probes(self, probes: Sequence[Probe]) -> list[Probe]:
        """Return probes with the choices that the graph makes in float64."""
        graph = onnx_file.load(self.source)
        del graph.graph.output[:]
        graph.graph.output.extend(self.choices)
        runner = PyTorchRunner(_model(graph, self.source), "fp64")
        return [_with(probe, runner.run(probe.feeds)) for probe in probes]


def give_choices(source: Path, path: Path) -> GivenChoices | None:
    """Write a float32 graph with its choices as inputs; None if it makes no order.

    Choices are given if they are orders, come after one, or are between the last layers and one. ``path`` is beside
    ``source``, whose external data it shares.
    """
    model = onnx_file.load(source)
    found, _, _ = survey(model)
    ordered = {name for node in orders(model) for name in node.output}
    if ordered.isdisjoint(item.result for item in found):
        return None
    decided = {onnx_file.first_result(node) for node in decoding(model)}
    given = [item for item in found if item.result in ordered | decided or item.above & ordered]
    makers = {name: node for node in model.graph.node for name in node.output}
    choices = tuple(helper.make_tensor_value_info(item.result, _type(makers[item.result]), None) for item in given)
    choosing = {onnx_file.first_result(makers[item.result]) for item in given}
    chosen_by = dict.fromkeys(name for item in given if item.result in ordered for name in item.inputs)
    _give(model.graph, choices, [name for name in chosen_by if name in makers])
    onnx.save(model, str(path))
    return GivenChoices(source=source, path=path, choices=choices, decided=frozenset(decided | choosing))


def _give(graph: onnx.GraphProto, choices: Sequence[onnx.ValueInfoProto], chosen_by: Sequence[str]) -> None:
    """Put inputs in the place of choices, and add the values that orders are chosen by to the outputs."""
    results = {value.name for value in choices}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if not results.intersection(node.output):
            kept.append(node)
        elif node.op_type == "TopK" and node.output[0]:
            inputs, outputs, axis = [node.input[0], node.output[1]], [node.output[0]], attribute(node, "axis", -1)
            kept.append(helper.make_node("GatherElements", inputs, outputs, name=node.name, axis=axis))
    taken = {value.name for value in graph.output} | results
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in chosen_by if name not in taken]
    outputs = [value for value in graph.output if value.name not in results]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.input.extend(choices)
    graph.output.extend([*outputs, *shown])


def _type(node: onnx.NodeProto) -> int:
    """Return the type of a choice in a float32 graph."""
    if node.op_type == "Cast":
        return int(attribute(node, "to"))
    if node.op_type in ORDERS:
        return int(TensorProto.INT64)
    return int(TensorProto.FLOAT if node.op_type in ("Floor", "Ceil", "Round", "Sign") else TensorProto.BOOL)


def _model(graph: onnx.ModelProto, path: Path) -> Model:
    inputs, _ = onnx_file.specs_of(graph, path)
    return Model(
        name=path.name,
        slug=path.stem,
        module=OnnxModule(graph, path.parent).eval(),
        inputs=inputs,
        sizes={},
        weights=Weights(source=path.name, trained=True),
    )


def _with(probe: Probe, choices: Fetches) -> Probe:
    single = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in choices.items()}
    return dataclasses.replace(probe, feeds={**probe.feeds, **single}, pool=None, members=())
