"""Operators that are one node or loop of an ONNX graph, and not in PyTorch: greedy suppression, and a quotient.

`exporters.translations` translates them.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


@torch.library.custom_op("deploy::greedy", mutates_args=())
def greedy(over: Tensor, valid: Tensor) -> Tensor:
    """Return which items are kept if each valid one, in order, removes all that it overlaps.

    An item is kept if it is valid and no kept item overlaps it. From "all are kept", this rule is repeated until
    nothing changes. Overlaps lead from lower to higher indices only, so after r rounds all items are final that end a
    chain of at most r overlaps: the loop ends after at most k + 1 rounds, in the only fixed point there is, which is
    the result of the greedy algorithm.

    Args:
        over: bool [n, k, k]; whether item i removes item j, for i < j; False for others.
        valid: bool [n, k].

    Returns:
        bool [n, k].
    """
    removes = over.float()
    kept = valid.clone()
    while True:
        removed = torch.matmul(kept.float().unsqueeze(1), removes).squeeze(1) > 0
        after = valid & ~removed
        if torch.equal(after, kept):
            return after
        kept = after


@greedy.register_fake
def _(over: Tensor, valid: Tensor) -> Tensor:
    return torch.empty_like(valid)


@torch.library.custom_op("deploy::quotient", mutates_args=())
def quotient(x: Tensor, divisor: int) -> Tensor:
    """Return integers [*] divided by a number, rounded down; none is negative. PyTorch exports a division of floats."""
    return x // divisor


@quotient.register_fake
def _(x: Tensor, divisor: int) -> Tensor:
    return torch.empty_like(x)
