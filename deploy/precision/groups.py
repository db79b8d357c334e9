"""Groups of the positions of values: disjoint sets, and what they reach."""

from __future__ import annotations

import torch

from deploy.precision.ranges import INFINITE

FIXED = 0
"""Group of all positions that cannot be scaled."""

ZERO = -1
"""Stands for a position that holds 0 and so fits every group."""

Groups = torch.Tensor
"""Of each position of a value, the group that it belongs to; int64."""


class Peaks:
    """The largest magnitudes seen at the positions of each group."""

    def __init__(self) -> None:
        self.sizes = torch.zeros(1)

    def see(self, groups: Groups, value: torch.Tensor) -> None:
        """Note the magnitudes of a value of the shape of its groups; stand-ins for infinity do not count."""
        sizes = value.detach().abs().to(torch.float32)
        sizes = torch.where(sizes < INFINITE, sizes, 0.0)
        for axis in range(groups.dim()):
            if groups.stride(axis) == 0 and groups.shape[axis] > 1:
                groups, sizes = groups.narrow(axis, 0, 1), sizes.amax(axis, keepdim=True)
        where = groups.clamp(min=FIXED).reshape(-1)
        known, self.sizes = self.sizes, torch.zeros(max(int(where.max()) + 1, len(self.sizes)))
        self.sizes[: len(known)] = known
        self.sizes.scatter_reduce_(0, where, sizes.reshape(-1), "amax")


class Sets:
    """Disjoint sets of groups; `FIXED` stays the name of its own."""

    def __init__(self) -> None:
        self._parents = [FIXED]

    def add(self) -> int:
        """Return a new group."""
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def root(self, group: int) -> int:
        """Return the group that stands for all that are joined with this one."""
        while self._parents[group] != group:
            self._parents[group] = self._parents[self._parents[group]]
            group = self._parents[group]
        return group

    def roots(self) -> torch.Tensor:
        """Return the root of each group; the last element is that of `ZERO`."""
        return torch.tensor([*map(self.root, range(len(self._parents))), ZERO])

    def join(self, one: Groups, other: Groups | None) -> None:
        """Make one group of the two at each position; with None, fix all of them."""
        pairs = _pairs(one, torch.zeros((), dtype=torch.int64) if other is None else other)
        for left, right in pairs:
            if ZERO in (left, right):
                continue
            low, high = sorted((self.root(left), self.root(right)))
            self._parents[high] = low


def _pairs(one: Groups, other: Groups) -> list[tuple[int, int]]:
    """Return the different pairs of groups at the positions of two values, which are broadcast."""
    both = list(torch.broadcast_tensors(one, other))  # type: ignore[no-untyped-call]
    for axis in range(both[0].dim()):
        if both[0].shape[axis] > 1 and all(item.stride(axis) == 0 for item in both):
            both = [item.narrow(axis, 0, 1) for item in both]
    different = both[0] != both[1]
    left, right = (item[different] - ZERO for item in both)
    count = 1 << 31
    pairs = torch.unique(left * count + right)
    return [(pair // count + ZERO, pair % count + ZERO) for pair in pairs.tolist()]


def compact(groups: Groups) -> Groups:
    """Return the same groups, with axes along which they do not change as views of one position."""
    shape = groups.shape
    for axis in range(groups.dim()):
        first = groups.narrow(axis, 0, 1)
        if groups.shape[axis] > 1 and bool((groups == first).all()):
            groups = first
    return groups.expand(shape)
