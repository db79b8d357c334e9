"""Compare what is in front of a model's final sigmoid, where its results are too close to 0 or 1 to be compared."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from deploy.backends.torch.perturbed import AlteredRunner
from deploy.backends.torch.reference import OperatorCall, PyTorchRunner, ScaledRunner
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import HALVES
from deploy.core.runner import Runner
from deploy.exporting.choices import MAX_BYTES, ChoosingRunner
from deploy.exporting.comparison import Comparison, JudgedFile
from deploy.exporting.opened_file import OpenedFile
from deploy.exporting.original import original_path
from deploy.parity.groups import policy
from deploy.parity.probes import Probe
from deploy.parity.verdict import OutputParity, ParityReport, combine
from deploy.support import onnx_file

Array = NDArray[Any]

_MOVING = (
    "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that move values and do not change them."""

_MOVED_ALL = ("Concat",)
"""Those of them that move the values of all their inputs; others move those of the first."""

SAME = 1e-12
"""Relative difference of two float64 results of one sigmoid: its loop over strided values rounds otherwise."""


def before_final_sigmoid(comparison: Comparison, found: JudgedFile) -> JudgedFile:
    """Judge outputs that rounding decides by the values that their final sigmoids are computed from.

    A score of 1e-7 is below the rounding of a sigmoid, while the value that it is computed from is not. So both the
    file and the model are run without their final sigmoids, and the outputs that said nothing, or nothing in some
    channels, are judged by this. It needs a sigmoid of the file, and one of the model at the same elements, whose
    results reach the outputs unchanged; otherwise ``found`` is returned.
    """
    unclear = {item.output for item in found.report.outputs if policy(item.group).decides and _says_little(item)}
    file = comparison.file
    supported = comparison.precision not in HALVES and file.path.suffix == ".onnx" and file.size <= MAX_BYTES
    if found.report.verdict == "fail" or not unclear or not found.ran or not supported:
        return found
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploy-sigmoid-")))
        path = write_without(file.graph, file.path, folder / "file.onnx")
        removed = RemovedSigmoids.of(comparison, found.ran[0]) if path else None
        if path is None or removed is None:
            return found
        candidate = stack.enter_context(contextlib.closing(IsolatedRunner(file.candidate.backend.name)))
        opened = OpenedFile.open(path, candidate, comparison.model, comparison.precision, file.settings.device)
        if not removed.match(comparison, opened, found.ran[0]):
            return found
        before = _comparison(comparison, opened, removed, folder / "original" / "file.onnx").judge().report
    chose = isinstance(found.reference, ChoosingRunner) and found.reference.chose
    return dataclasses.replace(found, report=_combined(found.report, before, unclear & removed.outputs, chose))


def _says_little(item: OutputParity) -> bool:
    return item.verdict == "inconclusive" or item.invariant or bool(item.undecided)


def _comparison(whole: Comparison, opened: OpenedFile, removed: RemovedSigmoids, place: Path) -> Comparison:
    """Return the comparison without final sigmoids; ``place`` is where that copy of the reference is written to."""
    reference, baseline = removed.runners(whole)
    path = original_path(whole.model)
    return dataclasses.replace(
        whole,
        file=opened,
        reference=reference,
        baseline=baseline,
        look_behind=False,
        alterations=(removed,),
        original=write_without(onnx_file.load(path), path, place) if path else None,
    )


def _combined(report: ParityReport, before: ParityReport, outputs: set[str], chose: bool) -> ParityReport:
    """Replace what was said of ``outputs`` by what was found before their sigmoids.

    Where the model makes choices, which that comparison does not follow, only a pass counts.
    """
    rows = [item for item in before.outputs if item.output in outputs]
    failed = any(item.verdict == "fail" for item in rows)
    unclear = any(item.verdict == "inconclusive" for item in rows if policy(item.group).decides)
    if not rows or unclear or (failed and chose):
        return report
    kept = [item for item in report.outputs if item.output not in outputs]
    renamed = [dataclasses.replace(item, output=f"{item.output} ← Sigmoid input") for item in rows]
    judged: list[OutputParity] = [*kept, *renamed]
    verdict, reasons = combine(judged, ())
    others = [item for item in report.reasons if item not in combine(report.outputs, ())[1]]  # of no single output
    if others:
        verdict, reasons = "fail" if verdict == "fail" else "inconclusive", (*reasons, *others)
    named = ", ".join(sorted(outputs))
    note = f"{named}: too close to 0 or 1 to be compared, so the values before the final sigmoid were"
    left_out = tuple(f"{name}: rounding decides" for name in outputs)
    notes = (*(item for item in report.notes if not item.startswith(left_out)), note)
    return dataclasses.replace(report, verdict=verdict, reasons=reasons, outputs=tuple(judged), notes=notes)


def write_without(graph: onnx.ModelProto, path: Path, place: Path) -> Path | None:
    """Write a copy of a graph without its final sigmoids, and return ``place``; None if it has none.

    A sigmoid is final if its results reach outputs, and all that reads them moves them without a change.

    Args:
        graph: the graph, without external data.
        path: where it was read from.
        place: the new file, in a folder of its own, which gets the external data, too.
    """
    final = _final(graph)
    if not final:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for index in final:
        copy.graph.node[index].op_type = "Identity"
    place.parent.mkdir(exist_ok=True)
    onnx_file.copy_external_files(graph, path, place.parent)
    place.write_bytes(copy.SerializeToString())
    return place


def _final(model: onnx.ModelProto) -> list[int]:
    """Return the positions of the final sigmoids among the nodes of a graph."""
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(onnx_file.names_read(node)):
            readers.setdefault(name, []).append(node)
    outputs = {item.name for item in graph.output}
    known: dict[str, bool] = {}

    def ends(name: str) -> bool:
        if name not in known:
            known[name] = False  # of a graph with a circle
            known[name] = (name in outputs or name in readers) and all(
                _moves(node, name) and all(map(ends, node.output)) for node in readers.get(name, ())
            )
        return known[name]

    return [
        index
        for index, node in enumerate(graph.node)
        if node.op_type == "Sigmoid" and node.domain in onnx_file.STANDARD and ends(node.output[0])
    ]


def _moves(node: onnx.NodeProto, name: str) -> bool:
    """Return whether a node moves the values of a tensor without a change."""
    if node.domain not in onnx_file.STANDARD or node.op_type not in _MOVING:
        return False
    return node.op_type in _MOVED_ALL or name not in node.input[1:]


@dataclasses.dataclass(slots=True)
class RemovedSigmoids:
    """Runs of a model without its final sigmoids; see `deploy.backends.torch.perturbed.Alteration`.

    Attributes:
        removed: which of the sigmoids of a run, counted from 0, have their operand as result.
        outputs: the outputs whose elements are then other ones.
        changed: for these outputs, which elements are, on the probe that the sigmoids were found by.
        names: of all outputs of the model.
    """

    removed: frozenset[int]
    names: tuple[str, ...] = ()
    changed: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    _seen: int = 0

    @classmethod
    def of(cls, comparison: Comparison, probe: Probe) -> RemovedSigmoids | None:
        """Find the final sigmoids of a model; None if there are none.

        Those are tried whose results are all among the values of an output. The run without them must have the operand
        of a sigmoid in place of its result in some elements, and the same values in all others.
        """
        results = _Results()
        natural = AlteredRunner(comparison.model, "fp64", (results,)).run(probe.feeds)
        floats = {name: value for name, value in natural.items() if value.dtype == np.float64}
        final = frozenset(
            index
            for index, result in enumerate(results.found)
            if any(result.size <= value.size and np.isin(result, value).all() for value in floats.values())
        )
        if not final:
            return None
        without = AlteredRunner(comparison.model, "fp64", (cls(final),)).run(probe.feeds)
        changed = {}
        for name, value in natural.items():
            other = without[name]
            if other.shape != value.shape or other.dtype != value.dtype:
                return None
            mask = (other != value) & ~((other != other) & (value != value))
            if value.dtype.kind != "f":
                if mask.any():
                    return None
                continue
            if not np.allclose(torch.from_numpy(other[mask]).sigmoid().numpy(), value[mask], rtol=SAME, atol=0.0):
                return None
            if mask.any():
                changed[name] = mask
        return cls(final, tuple(natural), changed) if changed else None

    @property
    def outputs(self) -> set[str]:
        """Names of the outputs that are changed."""
        return set(self.changed)

    def begin(self) -> None:
        """Start a run."""
        self._seen = 0

    def add(self, call: OperatorCall) -> None:
        """Replace the result of a final sigmoid by its operand."""
        if call.operator != "sigmoid":
            return
        if self._seen in self.removed:
            call.result.copy_(call.operands[0])
        self._seen += 1

    def runners(self, comparison: Comparison) -> tuple[PyTorchRunner, Runner]:
        """Return the float64 run and PyTorch's own run without the sigmoids."""
        reference = AlteredRunner(comparison.model, "fp64", (self,))
        own = AlteredRunner(comparison.model, "fp32", (self,))
        return reference, ScaledRunner(reference, own) if comparison.precision == "fp64" else own

    def match(self, comparison: Comparison, opened: OpenedFile, probe: Probe) -> bool:
        """Return whether the file without its final sigmoids has other values at the same elements as the model."""
        named = {opened.rename.get(name, name): value for name, value in probe.feeds.items()}
        with_, without = comparison.file.candidate.run(named), opened.candidate.run(named)
        names = list(with_) if set(with_) == set(self.names) else list(self.names)
        masks = {
            name: with_[own] != without[own]
            for name, own in zip(names, with_, strict=False)
            if with_[own].shape == without[own].shape
        }
        return all(
            name in masks and masks[name].shape == mask.shape and bool((masks[name] == mask).all())
            for name, mask in self.changed.items()
        ) and not any(mask.any() for name, mask in masks.items() if name not in self.changed)


@dataclasses.dataclass(slots=True)
class _Results:
    """Keeps the results of all sigmoids of a run."""

    found: list[Array] = dataclasses.field(default_factory=list)

    def begin(self) -> None:
        self.found.clear()

    def add(self, call: OperatorCall) -> None:
        if call.operator == "sigmoid":
            self.found.append(np.array(call.result.detach().numpy()))
