"""Measure what the probes of a parity check reach in a file, and search for probes that reach more."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from deploy.backends.torch.directed import search
from deploy.backends.torch.rounded import ROUNDED
from deploy.core.errors import BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.parity.coverage import MAX_NAMED, Coverage, Unreached
from deploy.parity.probes import Probe
from deploy.parity.weights import WeightMatches
from deploy.support.onnx_decisions import RANGES, GraphChoice, count_nodes, watched

if TYPE_CHECKING:
    import onnx

SEARCH_STEPS = {"quick": 0, "standard": 12, "thorough": 100, "data": 0}
"""Gradient steps of the search for probes that reach more sides."""

SEARCH_RANGE = 4.0
"""The search stays within the ordinary probes, or this many of their standard deviations."""

_STARTS = 3
"""Probes that the search looks at before it begins."""


def directed_probes(model: Model, probes: Sequence[Probe], steps: int) -> list[Probe]:
    """Search for probes that reach sides of the model's own choices which the given probes do not.

    They lie within the range of the ordinary probes, but rounding may count for more at such inputs (correct exports of
    MobileNet v3: 8 times PyTorch's own), so their noise alone does not decide.
    """
    ordinary = [probe for probe in probes if set(probe.groups) == {"unit"}] or list(probes)
    if not steps or not ordinary:
        return []
    floats = [spec for spec in model.inputs if spec.dtype.startswith("float")]
    ranges = {spec.name: spec.bounds or _range([probe.feeds[spec.name] for probe in ordinary]) for spec in floats}
    base = ordinary[0].sizes
    same = [probe for probe in ordinary if all(probe.sizes[name] == base[name] for name in base if name != "batch")]
    starts = sorted(same, key=lambda probe: probe.values)[:_STARTS]
    found = search(model, [probe.feeds for probe in starts], ranges, steps)
    sizes = starts[0].sizes
    return [
        Probe(
            label=f"directed probe {index}",
            groups=("directed",) * len(starts[0].groups),
            sizes={**sizes, **_batch(sizes, feeds)},
            feeds=feeds,
            samples=starts[0].samples,
        )
        for index, feeds in enumerate(found)
    ]


def _batch(sizes: Mapping[str, int], feeds: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    return {"batch": len(next(iter(feeds.values())))} if "batch" in sizes else {}


def _range(values: Sequence[NDArray[Any]]) -> tuple[float, float]:
    low = min(float(value.min(initial=-SEARCH_RANGE)) for value in values)
    return low, max(float(value.max(initial=SEARCH_RANGE)) for value in values)


def measure(
    graph: onnx.ModelProto,
    path: Path,
    candidate: IsolatedRunner,
    probes: Sequence[Probe],
    rename: Mapping[str, str],
    matches: WeightMatches,
    exercised: set[str],
    *,
    low_memory: bool,
    rounded: bool = False,
) -> Coverage:
    """Run the probes on a copy of an ONNX file that reports its choices, until every side is reached.

    Args:
        graph: the graph of the file; it is changed.
        path: the file.
        candidate: if it is of ONNX Runtime, it opens the copy in place of the file, which saves a process.
        probes: the probes of the parity check, with the model's input names.
        rename: the file's input name for each of the model's.
        matches: how the model's tensors were found in the graph.
        exercised: names of tensors on which the output depends at a probe.
        low_memory: open the copy with one copy of its weights.
        rounded: run the copy node by node in PyTorch, since ONNX Runtime does not run the file.

    Raises:
        BackendError: the copy cannot be opened.
    """
    nodes = count_nodes(graph.graph)
    _, choices = watched(graph)
    reached: list[frozenset[str]] = [frozenset()] * len(choices)
    if choices:
        with contextlib.ExitStack() as stack:
            runner = candidate
            if runner.backend.name != "onnxruntime":
                runner = stack.enter_context(IsolatedRunner("onnxruntime"))
            if rounded:
                runner.open(path, runner=ROUNDED, watch=True)
            else:
                runner.open(path, runner="deploy.backends.onnxruntime.watching", low_memory=low_memory)
            reached = _reached(choices, runner, probes, rename)
    missing = [
        Unreached(
            node=choice.node,
            operator=choice.operator,
            module=choice.module,
            kind=choice.kind,
            by=choice.by,
            side=side,
        )
        for sides, choice in zip(reached, choices, strict=True)
        for side in choice.sides
        if side not in sides
    ]
    sides = sum(len(choice.sides) for choice in choices)
    untouched = tuple(name for name in matches.listed if name not in exercised)
    return Coverage(
        weights={
            "identical": len(matches.identical),
            "folded": len(matches.folded),
            "computed": len(matches.computed),
            "exercised": len(matches.listed) - len(untouched),
            "untouched": len(untouched),
        },
        untouched=untouched,
        nodes=nodes,
        nodes_ran=nodes - _not_run(choices, reached),
        sides=sides,
        sides_reached=sides - len(missing),
        unreached=tuple(missing[:MAX_NAMED]),
        inputs=_input_ranges(probes),
        directed=sum(probe.label.startswith("directed") for probe in probes),
    )


def _reached(
    choices: Sequence[GraphChoice], runner: IsolatedRunner, probes: Sequence[Probe], rename: Mapping[str, str]
) -> list[frozenset[str]]:
    """Return the sides of each choice that the probes reach.

    A call of samples that were all run in other calls takes no other side of a choice that is made element by element.
    """
    reached: list[frozenset[str]] = [frozenset()] * len(choices)
    members: set[tuple[int, int]] = set()
    for probe in probes:
        left = [choice for choice, sides in zip(choices, reached, strict=True) if len(sides) < len(choice.sides)]
        if not left:
            break
        samples = {(id(probe.pool), member) for member in probe.members}
        calls = any(choice.kind in ("branch", "loop") or choice.by == "size" for choice in left)
        if samples and samples <= members and not calls:
            continue
        try:
            ranges = runner.run({rename[name]: value for name, value in probe.feeds.items()})[RANGES]
        except BackendError:  # the parity check reports a file that does not run
            if runner.dead:
                raise
            continue
        members |= samples
        reached = [
            before | choice.reached(*pair) for before, choice, pair in zip(reached, choices, ranges, strict=True)
        ]
    return reached


def _not_run(choices: Sequence[GraphChoice], reached: Sequence[frozenset[str]]) -> int:
    """Return the number of nodes in branches that were never taken; a branch in such a branch counts once."""
    count = 0
    for index, choice in enumerate(choices):
        if _ran(index, choices, reached):
            count += sum(
                nodes for nodes, side in zip(choice.nodes, choice.sides, strict=False) if side not in reached[index]
            )
    return count


def _ran(index: int, choices: Sequence[GraphChoice], reached: Sequence[frozenset[str]]) -> bool:
    inside = choices[index].inside
    if inside is None:
        return True
    outer, side = inside
    return choices[outer].sides[side] in reached[outer] and _ran(outer, choices, reached)


def _input_ranges(probes: Sequence[Probe]) -> dict[str, tuple[float, float]]:
    ranges: dict[str, tuple[float, float]] = {}
    for probe in probes:
        for name, value in probe.feeds.items():
            if value.size:
                low, high = ranges.get(name, (float(value.min()), float(value.max())))
                ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
    return ranges
