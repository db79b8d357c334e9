"""Sizes of the dynamic dimensions that a parity check runs at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, product
from math import prod

from deploy.core.tensors import SizeRange, TensorSpec, size_ranges

BATCH = "batch"
"""The symbol that counts samples."""

MAX_GROWTH = 4.0
"""By what factor the product of all dynamic dimensions may exceed the traced one."""

MAX_GRID = 64
"""Maximum number of combinations that the level ``thorough`` adds."""

MAX_SEQUENCE_RANK = 3
"""Inputs of more dimensions are pictures, not sequences."""


def size_steps(traced: int, allowed: SizeRange, *, sequence: bool) -> list[int]:
    """Return the sizes of one dimension to run, other than the traced one, the most telling first.

    These are the next size, about half of it (odd), the previous size, 1.5 times and twice, the next but two, and the
    ends of the range; for a sequence also 1 and 2.
    """
    step = allowed.multiple
    half = traced // (2 * step) * step
    wanted = [
        traced + step,
        half if half // step % 2 else half - step,
        traced - step,
        traced * 3 // (2 * step) * step,
        2 * traced,
        traced + 3 * step,
    ]
    if sequence:
        wanted += [1, 2]
    wanted += _ends(allowed)
    return [size for size in dict.fromkeys(wanted) if size > 0 and size != traced and allowed.allows(size)]


def _ends(allowed: SizeRange) -> list[int]:
    ends = [allowed.min] if allowed.min > 1 else []
    return [*ends, allowed.max // allowed.multiple * allowed.multiple] if allowed.max else ends


def other_sizes(
    inputs: Sequence[TensorSpec], traced: Mapping[str, int], moving: Sequence[str], level: str
) -> list[dict[str, int]]:
    """Return combinations of sizes of the dimensions ``moving`` at which every one of them differs from the traced one.

    Each dimension takes every size of `size_steps`. Several dimensions take different ones at a time, so that they move
    apart, and each one also moves alone, by one and to the ends of its range.
    """
    ranges = size_ranges(inputs)
    steps = {dim: size_steps(traced[dim], ranges[dim], sequence=_is_sequence(dim, inputs)) for dim in moving}
    base = {dim: traced[dim] for dim in moving}
    combinations = [{**base, dim: sizes[0]} for dim, sizes in steps.items() if sizes]
    combinations += [{**base, dim: size} for dim in steps for size in _ends(ranges[dim]) if ranges[dim].allows(size)]
    alone = len(combinations)
    rounds = max((len(sizes) for sizes in steps.values()), default=0)
    for turn in range(rounds):
        row = {
            dim: sizes[(turn + 2 * place) % len(sizes)] if sizes else base[dim]
            for place, (dim, sizes) in enumerate(steps.items())
        }
        combinations.append(row)
    if level == "thorough":
        grid = product(*([base[dim], *sizes[:4]] for dim, sizes in steps.items()))
        combinations += [dict(zip(steps, sizes, strict=True)) for sizes in islice(grid, MAX_GRID)]
    elif level == "quick":
        combinations = combinations[:alone]
    unique = {tuple(row.items()): row for row in combinations if row != base}
    return [row for row in unique.values() if _growth(inputs, {**traced, **row}, traced) <= MAX_GROWTH]


def _growth(inputs: Sequence[TensorSpec], sizes: Mapping[str, int], traced: Mapping[str, int]) -> float:
    def elements(at: Mapping[str, int]) -> int:
        return max((prod(at[dim] if isinstance(dim, str) else dim for dim in spec.shape) for spec in inputs), default=1)

    return elements(sizes) / max(elements(traced), 1)


def _is_sequence(dim: str, inputs: Sequence[TensorSpec]) -> bool:
    """Return whether a dimension counts steps: the only one of an input that can move, beside that of samples."""
    return any(set(spec.symbols) - {BATCH} == {dim} and len(spec.shape) <= MAX_SEQUENCE_RANK for spec in inputs)
