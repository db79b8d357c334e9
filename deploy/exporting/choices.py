"""Look behind the discrete choices of a model: in its ONNX file, and in its runs in PyTorch."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from deploy.backends.torch.perturbed import OtherRoundings, PerturbedRunner
from deploy.backends.torch.reference import OperatorCall, PyTorchRunner, to_array
from deploy.core.errors import BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.exporting.graph_choices import ChoiceNode, choice_of, survey
from deploy.parity.choices import (
    COMPARISONS,
    STEPS,
    Choice,
    Settled,
    differing,
    explained,
    in_order,
    largest,
    otherwise,
    pairs,
    tolerance,
    unexplained,
)
from deploy.parity.groups import policy
from deploy.parity.probes import Probe
from deploy.support import onnx_file

Array = NDArray[Any]

MAX_BYTES = 2**30
"""Choices of larger files are not looked behind: it takes a second copy of the file."""

KEPT_BYTES = 2**29
"""Bytes of results that a `ChoosingRunner` keeps for runs on the same inputs."""

ROUNDS = 3
"""How often choices are paired again after the model was run with those of the file, which changes later ones."""


class ChoosingRunner(Runner):
    """Runs a model and keeps its choices; ``follow`` makes the choices of another run instead of its own.

    ``roundings`` are added to those of the run. A run on inputs of the same values as an earlier one returns its
    results, if they do not take more than `KEPT_BYTES` together.

    Attributes:
        feeds: the feeds of the last run.
        choices: the choices of the last run, as the model would make them.
        diverged: whether the last run made other kinds of choices than those to follow, or could not follow them; then
            its outputs are those of the model's own choices.
        chose: whether any run has made a choice.
    """

    def __init__(self, model: Model, precision: str, roundings: OtherRoundings | None = None) -> None:
        self._inner = PyTorchRunner(model, precision, observe=self._observe)
        self._roundings = roundings
        self.inputs, self.outputs = self._inner.inputs, self._inner.outputs
        self.feeds: Feeds = {}
        self.choices: list[Choice] = []
        self.diverged = False
        self.chose = False
        self._follow: Sequence[Choice | None] = ()
        self._kept: dict[bytes, tuple[Fetches, list[Choice]]] = {}
        self._kept_bytes = 0

    @property
    def read(self) -> set[str]:
        """Names of the parameters and buffers that runs have read; see `PyTorchRunner`."""
        return self._inner.read

    def run(self, feeds: Feeds) -> Fetches:
        """Run once, or return what the run on these values returned; see `Runner.run`."""
        key = _digest(feeds)
        if key in self._kept:
            outputs, choices = self._kept[key]
            self.feeds, self.choices, self.diverged = feeds, choices, False
            return outputs
        outputs = self.follow(feeds, ())
        size = sum(value.nbytes for value in outputs.values()) + sum(item.nbytes for item in self.choices)
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[key] = outputs, self.choices
            self._kept_bytes += size
        return outputs

    def follow(self, feeds: Feeds, choices: Sequence[Choice | None]) -> Fetches:
        """Run once with the results of ``choices``, in order; None where the model chooses."""
        self.feeds, self.choices, self.diverged, self._follow = feeds, [], False, choices
        if self._roundings is not None:
            self._roundings.begin()
        try:
            return self._inner.run(feeds)
        except BackendError:
            if not choices:
                raise
        outputs = self.follow(feeds, ())  # the model refuses what the choices lead to
        self.diverged = True
        return outputs

    def _observe(self, call: OperatorCall) -> None:
        if self._roundings is not None:
            self._roundings.add(call)
        choice = _choice(call)
        if choice is None:
            return
        index = len(self.choices)
        self.choices.append(choice)
        self.chose = True
        forced = self._follow[index] if index < len(self._follow) else None
        if forced is None:
            return
        if forced.kind != choice.kind or (forced.kind != "boxes" and forced.result.shape != choice.result.shape):
            self.diverged = True
        elif differing(forced, choice):
            _force(call, choice, forced.result)


def _digest(feeds: Feeds) -> bytes:
    digest = hashlib.sha256()
    for name, value in feeds.items():
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).data.cast("B") if value.size else b"")
    return digest.digest()


def _choice(call: OperatorCall) -> Choice | None:
    """Return the choice that an operator makes, from its operands and its result; None if it makes none."""
    operands, result, name = call.operands, call.result, call.operator
    first = operands[0] if operands else None
    if name == "nms":
        boxes, scores, threshold = operands
        return Choice(
            kind="boxes", scores=_wide(scores), result=_indices(result), boxes=_wide(boxes), threshold=float(threshold)
        )
    if name in COMPARISONS:
        return _comparison(operands, result, name)
    if not isinstance(first, torch.Tensor) or not first.ndim:
        return None
    if name in ("topk", "sort"):
        return _order(name, operands, _indices(result[1]))
    if not first.is_floating_point():
        return None
    sign = -1.0 if name in ("argmin", "min") else 1.0
    if name in ("argmax", "argmin"):
        if len(operands) < 2 or operands[1] is None:
            return Choice(kind="largest", scores=sign * _wide(first).reshape(-1), result=_indices(result).reshape(1))
        return largest(sign * _wide(first), _indices(result), int(operands[1]))
    if name in ("max", "min") and isinstance(result, tuple):
        return largest(sign * _wide(first), _indices(result[1]), int(operands[1]))
    if name == "_to_copy" and result.dtype is torch.bool:
        return Choice(kind="comparison", rule="ne", scores=_wide(first), result=np.array(result.numpy()))
    if name == "_to_copy" and not result.dtype.is_floating_point and not result.dtype.is_complex:
        return Choice(kind="step", rule="trunc", scores=_wide(first), result=_wide(result))
    if name in STEPS and len(operands) == 1:
        return Choice(kind="step", rule=name, scores=_wide(first), result=_wide(result))
    return None


def _comparison(operands: Sequence[Any], result: torch.Tensor, rule: str) -> Choice | None:
    floats = (item.is_floating_point() if isinstance(item, torch.Tensor) else type(item) is float for item in operands)
    if not any(floats) or any(type(item) is float and np.isinf(item) for item in operands):
        return None  # rounding does not change which values are finite
    left, right = (_wide(item) if isinstance(item, torch.Tensor) else np.float64(item) for item in operands[:2])
    with np.errstate(invalid="ignore"):
        gap = np.asarray(left - right)
    return Choice(kind="comparison", rule=rule, scores=gap, result=np.array(result.numpy()))


def _order(name: str, operands: Sequence[Any], result: Array) -> Choice:
    """Return the order that ``topk`` or ``sort`` found."""
    scores, stable, ordered = _wide(operands[0]), False, True
    if name == "topk":
        _, _, axis, largest, ordered = operands
    else:
        *flags, axis, descending = operands[1:]
        stable, largest = bool(flags and flags[0]), descending
    return Choice(
        kind="order",
        scores=scores if largest else -scores,
        result=result,
        axis=axis % scores.ndim,
        ordered=ordered,
        whole=not operands[0].is_floating_point(),
        stable=stable,
    )


def _force(call: OperatorCall, choice: Choice, result: Array) -> None:
    """Replace the result of an operator."""
    if choice.kind == "boxes":
        call.result.set_(torch.from_numpy(np.array(result, np.int64)))
        return
    wanted = torch.from_numpy(np.array(result))
    if choice.kind in ("comparison", "step") or not isinstance(call.result, tuple):
        call.result.copy_(wanted.reshape(call.result.shape))
        return
    values, indices = call.result
    axis = choice.axis
    values.copy_(call.operands[0].gather(axis, wanted).reshape(values.shape))
    indices.copy_(wanted.reshape(indices.shape))


def _wide(value: torch.Tensor) -> Array:
    return to_array(value).astype(np.float64)


def _indices(value: torch.Tensor) -> Array:
    return np.array(value.detach().numpy(), np.int64)


class ChoiceJudge:
    """Compares the choices of an ONNX file with those of its model; a context manager.

    ``graph`` was read from ``path``. ``reference`` runs the model in float64, ``baseline`` as PyTorch's own run. The
    file is opened a second time, with what it chooses by as additional outputs, if it makes choices that are known from
    the model.
    """

    def __init__(
        self,
        model: Model,
        graph: onnx.ModelProto,
        path: Path,
        backend: str,
        rename: Mapping[str, str],
        options: Mapping[str, Any],
        runner: str = "",
        *,
        reference: ChoosingRunner,
        baseline: PyTorchRunner,
    ) -> None:
        self._graph = graph
        self._path, self._backend, self._rename, self._options = path, backend, rename, dict(options)
        self._precision, self._runner = baseline.precision, runner
        self._nodes, self._fixed, self._hidden = survey(self._graph)
        read = {name for node in self._nodes for name in node.inputs}
        self._stored = {
            item.name: onnx_file.array(item, path) for item in self._graph.graph.initializer if item.name in read
        }
        self._outputs = [value.name for value in self._graph.graph.output]
        self.reference = reference
        roundings = baseline.roundings if isinstance(baseline, PerturbedRunner) else None
        self._own = ChoosingRunner(model, baseline.precision, roundings)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copies: dict[bool, IsolatedRunner] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._copies.values():
            runner.close()
        if self._folder is not None:
            self._folder.cleanup()

    def settle(self, probe: Probe, expected: Fetches, own: Fetches, outputs: Fetches) -> Settled:
        """Return the outputs of the model with the file's choices; see `deploy.parity.choices.Chooser`."""
        names = dict(zip(self._outputs, outputs, strict=False))
        fixed = frozenset(names[name] for name in self._fixed if name in names)
        silent = not self._nodes and not self.reference.chose
        if self.reference.feeds is not probe.feeds and not silent:
            expected = self.reference.run(probe.feeds)
        model = [] if silent else self.reference.choices
        if not self._nodes:
            missing = any(item.kind not in ("comparison", "step") for item in model)
            equal = frozenset() if missing or self._hidden else frozenset(expected)
            if self._hidden and any(item.kind in ("largest", "step") for item in model):
                self._own.follow(probe.feeds, model)
            other, ties = self._other(probe, [None] * len(model))
            return Settled(
                expected=expected,
                own=own,
                equal=equal,
                known=frozenset() if missing else fixed,
                selects=_selects(model),
                other=other,
                ties=ties,
            )
        followed = self._own.follow(probe.feeds, model)
        if not _as_finite(followed, own):  # a choice guards what another one would compute
            return Settled(expected=expected, own=own, selects=_selects(model))
        own = followed
        kept, given, elsewhere = self._given(probe.feeds, outputs, names)
        natural, own_natural = model, self._own.choices
        if self._own.diverged or len(own_natural) != len(natural):
            return Settled(expected=expected, own=own, selects=_selects(model))
        group = probe.groups[0] if len(set(probe.groups)) == 1 else "unit"
        limits = _limits(natural, own_natural, self._precision, group)
        own_flips = sum(differing(one, two) for one, two in zip(natural, own_natural, strict=True))
        paired, chosen = _paired(natural, given, limits)
        forced: list[Choice | None] = []
        unforced = Settled(expected=expected, own=own, selects=_selects(model))
        for _ in range(ROUNDS):
            if not _flips(forced or self.reference.choices, chosen):
                break
            expected, forced = self.reference.follow(probe.feeds, chosen), chosen
            if not _as_finite(expected, unforced.expected):
                return unforced
            if self.reference.diverged or len(self.reference.choices) != len(chosen):
                return Settled(expected=expected, own=own, selects=_selects(model))
            paired, chosen = _paired(self.reference.choices, given, limits)
        flips = _flips(self.reference.choices, chosen)
        if forced:
            made = [two or one for one, two in zip(self.reference.choices, forced, strict=True)]
            own = self._own.follow(probe.feeds, made)
            if self._own.diverged:
                return Settled(expected=expected, own=own, selects=_selects(model))
        scores: dict[str, tuple[Array, Array, Array]] = {}
        faults: dict[str, str] = {}
        unpaired, names_used = set[str](), set[str]()
        known: set[str] = set()
        for node, (index, item) in zip(kept, paired, strict=True):
            below = [names[name] for name in node.below if name in names]
            if index < 0:
                unpaired.update(below)
                continue
            known.update(below)
            name = f"{below[0] if below else 'graph'} ← {node.operator} input"
            while name in names_used:
                name += "'"
            names_used.add(name)
            reference, ours = self.reference.choices[index], self._own.choices[index]
            if not elsewhere.intersection(node.above):
                scores[name] = (reference.scores, ours.scores, item.scores)
            wrong = unexplained(reference, ours, item, self._precision, group)
            if wrong:
                faults[name] = (
                    f"{wrong} of {item.result.size} choices of the file are others than in float64, "
                    f"where the scores are not within rounding of a tie"
                )
        lost = any(
            two is None and one.kind not in ("comparison", "step") for one, two in zip(natural, chosen, strict=True)
        )
        everything = frozenset(expected)
        other, ties = self._other(probe, chosen)
        return Settled(
            expected=expected,
            own=own,
            scores=scores,
            faults=faults,
            equal=frozenset() if lost or self._hidden else everything - unpaired,
            known=frozenset(known - unpaired) | (frozenset() if lost else fixed),
            decisions=sum(item.result.size for item in chosen if item is not None),
            own_flips=own_flips,
            flips=flips,
            selects=_selects([one for one, two in zip(natural, chosen, strict=True) if two is None]),
            other=other,
            ties=ties,
        )

    def _other(self, probe: Probe, chosen: Sequence[Choice | None]) -> tuple[Fetches | None, int]:
        """Run the model with the other results in near ties of choices that cannot be read from the file.

        Of a detector these are the choices after its last selection of boxes: others would change which boxes there
        are, so that no row had its partner.

        Args:
            probe: the last one that the model was run on.
            chosen: for every choice of the model that of the file, or None.

        Returns:
            The outputs, None if there are no such ties, and the number of ties.
        """
        natural, own = self.reference.choices, self._own.choices
        if not self._hidden or not len(natural) == len(own) == len(chosen):
            return None, 0
        group = next((item for item in probe.groups if not policy(item).lenient), probe.groups[0])
        forced: list[Choice | None] = list(chosen)
        ties, start = 0, 1 + max((index for index, item in enumerate(natural) if item.kind == "boxes"), default=-1)
        for index, (one, two) in list(enumerate(zip(natural, own, strict=True)))[start:]:
            if chosen[index] is None and one.kind == two.kind and one.scores.shape == two.scores.shape:
                other, count = otherwise(one, two, self._precision, group)
                if count:
                    forced[index], ties = other, ties + count
        if not ties:
            return None, 0
        outputs = self.reference.follow(probe.feeds, forced)
        return (None, 0) if self.reference.diverged else (outputs, ties)

    def _given(
        self, feeds: Feeds, outputs: Fetches, names: Mapping[str, str]
    ) -> tuple[list[ChoiceNode], list[Choice], set[str]]:
        """Return the choices that the file makes.

        Runtimes fuse operators unless what is between them is an output, so what the file chooses by is read from one
        copy, and where that differs from the file in any bit, what it chooses from another.

        Returns:
            The nodes, their choices, and the results that differ between the copies.
        """
        named = {self._rename.get(name, name): value for name, value in feeds.items()}
        fetched = self._copy(True).run(named)
        made = fetched
        if any(not np.array_equal(fetched[file], outputs[name]) for file, name in names.items()):
            made = self._copy(False).run(named)
        results = {node.result: self._as_output(made[node.result], made, outputs, names) for node in self._nodes}
        elsewhere = {name for name, value in results.items() if not np.array_equal(value, fetched[name])}
        kept, choices = [], []
        for node in self._nodes:
            choice = choice_of(node, {**fetched, **results}, self._stored)
            if choice is not None:
                kept.append(node)
                choices.append(choice)
        return kept, choices, elsewhere

    def _as_output(self, result: Array, made: Fetches, outputs: Fetches, names: Mapping[str, str]) -> Array:
        """Return what the file itself chose where an output is the choice."""
        for file_name, name in names.items():
            judged, copied = outputs[name], made[file_name]
            same = result.dtype.kind in "iub" and judged.dtype.kind in "iub" and result.size == judged.size
            if same and np.array_equal(result.reshape(-1), copied.reshape(-1)):
                return judged.reshape(result.shape).astype(result.dtype)
        return result

    def _copy(self, scores: bool) -> IsolatedRunner:
        """Return a copy of the file with the results of its choices as more outputs, and also the scores."""
        if scores in self._copies:
            return self._copies[scores]
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="deploy-choices-")
            onnx_file.copy_external_files(self._graph, self._path, Path(self._folder.name))
        copy = onnx.ModelProto()
        copy.CopyFrom(self._graph)
        wanted = dict.fromkeys(name for node in self._nodes for name in (node.result, *(node.inputs if scores else ())))
        for name in wanted:
            if name not in self._outputs and name not in self._stored:
                copy.graph.output.append(onnx.ValueInfoProto(name=name))
        path = Path(self._folder.name) / f"{'scores' if scores else 'choices'}.onnx"
        path.write_bytes(copy.SerializeToString())
        runner = self._copies[scores] = IsolatedRunner(self._backend, self._runner or None)
        runner.open(path, **self._options)
        return runner


def _as_finite(outputs: Fetches, others: Fetches) -> bool:
    """Return whether values are finite wherever those of other outputs of the same shapes are."""
    return all(
        value.dtype.kind not in "fc"
        or value.shape != others[name].shape
        or bool(np.isfinite(value[np.isfinite(others[name])]).all())
        for name, value in outputs.items()
    )


def _selects(choices: Sequence[Choice]) -> bool:
    return any(item.kind == "boxes" for item in choices)


def _limits(model: Sequence[Choice], own: Sequence[Choice], precision: str, group: str) -> list[float]:
    """Return what rounding can move the scores of each choice of the model by."""
    return [
        tolerance(one, two, precision, group) if one.scores.shape == two.scores.shape else 0.0
        for one, two in zip(model, own, strict=True)
    ]


def _paired(
    model: Sequence[Choice], graph: Sequence[Choice], limits: Sequence[float]
) -> tuple[list[tuple[int, Choice]], list[Choice | None]]:
    """Return the pairs of `pairs`, and for every choice of the model that of the graph, or None.

    Boxes that are selected inside of a branch of the graph may be in another order, or others, in all that follows, so
    later choices have no pair. Of steps whose rows can be told apart, those results of the graph are taken that
    rounding explains: ``limits`` are what it can move the scores by.
    """
    paired = pairs(model, graph)
    known = {index for index, _ in paired}
    end = min((index for index, item in enumerate(model) if item.kind == "boxes" and index not in known), default=None)
    chosen: list[Choice | None] = [None] * len(model)
    if end is not None:
        last = max(index for index, item in enumerate(model) if item.kind == "boxes")
        rows = in_order([(model[index], item) if index > last else None for index, item in paired])
        for (index, _), ordered in zip(paired, rows, strict=True):
            if ordered is not None:
                chosen[index] = explained(model[index], ordered, limits[index])
        paired = [(index if index < end else -1, item) for index, item in paired]
    for index, item in paired:
        if index >= 0:
            chosen[index] = item
    return paired, chosen


def _flips(before: Sequence[Choice | None], after: Sequence[Choice | None]) -> int:
    """Return the number of elements that are chosen otherwise; a choice that is not known before counts as one."""
    return sum(differing(one, two) if one else 1 for one, two in zip(before, after, strict=True) if two is not None)
