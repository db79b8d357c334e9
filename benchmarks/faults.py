"""Fault injection: which comparison detects that an export is wrong?

    python -m benchmarks.faults [--only PATTERN] [--faults 21]

Exports twelve architectures and injects faults into each graph, one at a time, at seeded random places: dropped
activations; scaled, FP16-rounded, permuted, zeroed, swapped and flipped weights; dropped and scaled biases; dropped
residuals; swapped concatenations; shifted paddings; other pooling. A fault that changes no output bit is discarded and
drawn again. Compares the verdict of `deploy check` with three common comparisons of ONNX Runtime against PyTorch in
float32, on the samples of ordinary amplitude of the same probes (which also decide the verdict):
``allclose(1e-3, 1e-5)``, ``allclose(1e-5, 1e-5)`` (relative, absolute) and equality to three decimals. Writes
results/faults.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.common import load, write
from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.parity.compare import CachedRunner, compare
from deploy.parity.probes import Probe, make_probes

ARCHITECTURES = (
    "zoo/lenet5", "alexnet", "zoo/vgg11_small", "zoo/nin", "googlenet", "inception_v3", "resnet18", "densenet121",
    "mobilenet_v2", "squeezenet1_1", "efficientnet_b0", "shufflenet_v2_x1_0",
)  # fmt: skip
Graph = onnx.GraphProto
Rng = np.random.Generator
Array = NDArray[Any]


class Recorded:
    """A candidate with recorded outputs."""

    def __init__(self, outputs: list[Fetches]) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._left = iter(outputs)

    def submit(self, feeds: Feeds) -> None:
        """Do nothing."""

    def result(self) -> Fetches:
        """Return the next recorded output."""
        return next(self._left)


def _pick(rng: Rng, items: list[Any]) -> Any:
    return items[int(rng.integers(len(items)))] if items else None


def _weight(graph: Graph, rng: Rng) -> tuple[onnx.TensorProto | None, Array]:
    read = {name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") for name in node.input}
    tensors = [tensor for tensor in graph.initializer if len(tensor.dims) >= 2 and tensor.name in read]
    chosen = _pick(rng, tensors)
    return chosen, onnx.numpy_helper.to_array(chosen).copy() if chosen else np.empty(0)


def _rewrite(change: Callable[[Array, Rng], Array]) -> Callable[[Graph, Rng], bool]:
    def fault(graph: Graph, rng: Rng) -> bool:
        tensor, value = _weight(graph, rng)
        if tensor is None:
            return False
        tensor.CopyFrom(onnx.numpy_helper.from_array(change(value, rng).astype(value.dtype), tensor.name))
        return True

    return fault


def _zero_channel(value: Array, rng: Rng) -> Array:
    value[rng.integers(len(value))] = 0
    return value


def _swap_channels(value: Array, rng: Rng) -> Array:
    left, right = rng.choice(len(value), 2, replace=False)
    value[[left, right]] = value[[right, left]]
    return value


def _scale_channel(value: Array, rng: Rng) -> Array:
    value[rng.integers(len(value))] *= 1.05
    return value


def _nodes(graph: Graph, *kinds: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type in kinds]


def _become_identity(node: onnx.NodeProto, keep: int = 0) -> None:
    kept = node.input[keep]
    del node.input[:], node.attribute[:]
    node.op_type = "Identity"
    node.input.append(kept)


def _drop_activation(graph: Graph, rng: Rng) -> bool:
    node = _pick(rng, _nodes(graph, "Relu", "Clip", "HardSwish", "HardSigmoid"))
    if node is not None:
        _become_identity(node)
    return node is not None


def _drop_residual(graph: Graph, rng: Rng) -> bool:
    stored = {tensor.name for tensor in graph.initializer}
    node = _pick(rng, [item for item in _nodes(graph, "Add") if not stored.intersection(item.input)])
    if node is not None:
        _become_identity(node, int(rng.integers(2)))
    return node is not None


def _swap_concat(graph: Graph, rng: Rng) -> bool:
    node = _pick(rng, [item for item in _nodes(graph, "Concat") if len(item.input) > 1])
    if node is None:
        return False
    names = list(node.input)
    names[0], names[1] = names[1], names[0]
    del node.input[:]
    node.input.extend(names)
    return True


def _shift_padding(graph: Graph, rng: Rng) -> bool:
    pads = [item for node in _nodes(graph, "Conv", "MaxPool", "AveragePool") for item in node.attribute]
    chosen = _pick(rng, [item for item in pads if item.name == "pads" and len(item.ints) == 4 and item.ints[0] > 0])
    if chosen is None:
        return False
    chosen.ints[0], chosen.ints[2] = chosen.ints[0] - 1, chosen.ints[2] + 1
    return True


def _other_pool(graph: Graph, rng: Rng) -> bool:
    node = _pick(rng, _nodes(graph, "MaxPool"))
    if node is None:
        return False
    keep = [
        item for item in node.attribute if item.name in ("kernel_shape", "strides", "pads", "ceil_mode", "auto_pad")
    ]
    del node.attribute[:]
    node.attribute.extend(keep)
    node.op_type = "AveragePool"
    return True


def _bias(change: Callable[[Array, Rng], Array]) -> Callable[[Graph, Rng], bool]:
    def fault(graph: Graph, rng: Rng) -> bool:
        names = {node.input[2] for node in _nodes(graph, "Conv", "Gemm") if len(node.input) > 2}
        tensor = _pick(rng, [item for item in graph.initializer if item.name in names])
        if tensor is None:
            return False
        value = onnx.numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(onnx.numpy_helper.from_array(change(value, rng).astype(value.dtype), tensor.name))
        return True

    return fault


FAULTS: dict[str, Callable[[Graph, Rng], bool]] = {
    "activation dropped": _drop_activation,
    "weight scaled by 1.001": _rewrite(lambda value, rng: value * np.float32(1.001)),
    "weight rounded to half": _rewrite(lambda value, rng: value.astype(np.float16)),
    "channel zeroed": _rewrite(_zero_channel),
    "channels swapped": _rewrite(_swap_channels),
    "residual dropped": _drop_residual,
    "concatenation swapped": _swap_concat,
    "padding shifted": _shift_padding,
    "bias dropped": _bias(lambda value, rng: value * 0),
    "bias scaled by 1.01": _bias(lambda value, rng: value * np.float32(1.01)),
    "max-pool made average": _other_pool,
    "weight of another training": _rewrite(lambda value, rng: rng.permutation(value.reshape(-1)).reshape(value.shape)),
    "kernel flipped": _rewrite(lambda value, rng: np.flip(value, -1)),
    "one channel scaled by 1.05": _rewrite(_scale_channel),
}


def _common_comparisons(baseline: Runner, outputs: list[Fetches], probes: list[Probe]) -> dict[str, bool]:
    caught = {"allclose(1e-3, 1e-5)": False, "allclose(1e-5, 1e-5)": False, "3 decimals": False}
    for probe, given in zip(probes, outputs, strict=True):
        ordinary = [index for index, group in enumerate(probe.groups) if group == "unit"]
        expected = baseline.run(probe.feeds)
        for name in expected:
            reference, output = expected[name][ordinary], given[name][ordinary]
            caught["allclose(1e-3, 1e-5)"] |= not np.allclose(output, reference, rtol=1e-3, atol=1e-5)
            caught["allclose(1e-5, 1e-5)"] |= not np.allclose(output, reference, rtol=1e-5, atol=1e-5)
            caught["3 decimals"] |= bool((np.abs(output - reference) >= 1.5e-3).any())
    return caught


class _Architecture:
    """An exported architecture with its references and its correct outputs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.request = ModelRequest(name=name, weights="none")
        self.model: Model = resolve(self.request)
        self.path = export_model(self.request, artifacts=folder).artifact.path
        inputs = [spec.bind({key: size for key, size in self.model.sizes.items() if key != "batch"})
                  for spec in self.model.inputs]  # fmt: skip
        self.probes = make_probes(inputs, self.model.sizes)
        self.reference = CachedRunner(PyTorchRunner(self.model, "fp64"))
        self.baseline = CachedRunner(PyTorchRunner(self.model, "fp32"))
        self.candidate = IsolatedRunner("onnxruntime")
        self.clean = self.outputs(self.path)

    def outputs(self, path: Path) -> list[Fetches]:
        self.candidate.open(path)
        return [self.candidate.run(probe.feeds) for probe in self.probes]

    def judge(self, path: Path) -> tuple[str, str, dict[str, bool], bool]:
        """Return the verdict, its first reason, what common comparisons detect, and whether an output bit changed."""
        outputs = self.outputs(path)
        report = compare(self.reference, self.baseline, Recorded(outputs), self.probes)
        changed = any(
            not np.array_equal(new[name], old[name])
            for new, old in zip(outputs, self.clean, strict=True)
            for name in old
        )
        usual = _common_comparisons(self.baseline, outputs, self.probes)
        worst = report.worst()
        why = report.reasons[0] if report.reasons else f"margin {worst.margin:.2f}" if worst else ""
        return report.verdict, why, usual, changed


def _study(name: str, count: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        architecture = _Architecture(name, Path(scratch))
        verdict, why, usual, _ = architecture.judge(architecture.path)
        rows: list[dict[str, Any]] = []
        for kind, graph in _faulty_graphs(architecture.path, rng):
            path = Path(scratch) / "fault.onnx"
            onnx.save(graph, str(path))
            try:
                faulty, reason, others, changed = architecture.judge(path)
            except Exception as exc:  # the runtime rejects the graph, so the fault is detected in any case
                rows.append({"fault": kind, "refused": str(exc)[:200]})
                continue
            if changed:
                rows.append({"fault": kind, "verdict": faulty, "reason": reason, "usual": others})
            if len([row for row in rows if "verdict" in row]) >= count:
                break
        architecture.candidate.close()
    return {"clean": {"verdict": verdict, "reason": why, "usual": usual}, "faults": rows}


def _faulty_graphs(path: Path, rng: Rng) -> Iterator[tuple[str, onnx.ModelProto]]:
    for _ in range(20):
        for kind, inject in FAULTS.items():
            model = onnx.load(str(path))
            if inject(model.graph, rng):
                yield kind, model


def main() -> None:
    """Measure every architecture without a result, then print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--faults", type=int, default=21, help="Number of faults per architecture.")
    arguments = parser.parse_args()
    studies: dict[str, Any] = load("faults").get("architectures", {})
    for index, name in enumerate(ARCHITECTURES):
        if fnmatch.fnmatch(name, arguments.only) and name not in studies:
            studies[name] = _study(name, arguments.faults, index)
            write("faults", {"summary": _summary(studies), "architectures": studies})
            print(name, _summary({name: studies[name]}), flush=True)
    print(_summary(studies))


def _summary(studies: dict[str, Any]) -> dict[str, Any]:
    rows = [row for study in studies.values() for row in study["faults"] if "verdict" in row]
    methods = list(rows[0]["usual"]) if rows else []
    clean = [study["clean"] for study in studies.values()]
    missed = Counter(row["fault"] for row in rows if row["verdict"] != "fail")
    return {
        "architectures": len(studies),
        "faults": len(rows),
        "caught": {
            "deploy": sum(row["verdict"] == "fail" for row in rows),
            **{method: sum(row["usual"][method] for row in rows) for method in methods},
        },
        "false_alarms": {
            "deploy": sum(item["verdict"] == "fail" for item in clean),
            **{method: sum(item["usual"][method] for item in clean) for method in methods},
        },
        "missed_kinds": dict(missed),
    }


if __name__ == "__main__":
    main()
