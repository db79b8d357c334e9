"""Windows that slide over an input: kernels, strides, dilations and padding of convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from deploy.onnx_graph.node import OnnxNode


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Positions of a kernel over an input, one number for each spatial axis.

    Attributes:
        sizes: of the input.
        begin, end: elements of padding; ``auto_pad`` is resolved.
    """

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """Elements from the first to the last one under the kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether the padding is equal at both ends."""
        return self.begin == self.end and min(self.begin, default=0) >= 0

    @property
    def native(self) -> bool:
        """Whether the pooling functions of PyTorch accept the padding."""
        return self.symmetric and all(2 * pad <= k for pad, k in zip(self.begin, self.kernel, strict=True))

    @property
    def padding(self) -> list[int]:
        """The padding as `torch.nn.functional.pad` expects it: the last axis first."""
        return both_ends(self.begin, self.end)

    def padded(self, x: torch.Tensor, value: float = 0.0) -> torch.Tensor:
        """Return the input with its padding."""
        return functional.pad(x, self.padding, value=value) if any(self.padding) else x

    def rounded_up(self) -> Windows:
        """Return the windows with the padding at the end that the last one needs under ``ceil_mode``.

        The last window starts inside the input or its padding at the beginning.
        """
        ends = []
        for size, span, stride, begin, end in zip(
            self.sizes, self.spans, self.strides, self.begin, self.end, strict=True
        ):
            count = -((span - size - begin - end) // stride) + 1
            if (count - 1) * stride >= size + begin:
                count -= 1
            exact = (size + begin + end - span) // stride + 1 == count
            ends.append(end if exact else (count - 1) * stride + span - size - begin)
        return replace(self, end=tuple(ends))


def windows(node: OnnxNode, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Return the windows of a node; ``sizes`` and ``kernel`` are those of the spatial axes."""
    ones = (1,) * len(sizes)
    pads = tuple(node.get("pads") or (0,) * (2 * len(sizes)))
    plain = Windows(
        sizes=tuple(sizes),
        kernel=tuple(kernel),
        strides=tuple(node.get("strides") or ones),
        dilations=tuple(node.get("dilations") or ones),
        begin=pads[: len(sizes)],
        end=pads[len(sizes) :],
    )
    policy = node.get("auto_pad", "NOTSET")
    if policy == "NOTSET":
        return plain
    if policy == "VALID":
        return replace(plain, begin=(0,) * len(sizes), end=(0,) * len(sizes))
    totals = [
        max((-(-size // stride) - 1) * stride + span - size, 0)
        for size, stride, span in zip(sizes, plain.strides, plain.spans, strict=True)
    ]
    begin, end = halves(totals, upper=policy == "SAME_UPPER")
    return replace(plain, begin=begin, end=end)


def halves(totals: Sequence[int], *, upper: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide amounts of padding between the two ends; the odd element is at the end if ``upper``."""
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    return (small, large) if upper else (large, small)


def both_ends(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return padding in the order of `torch.nn.functional.pad`."""
    pairs = zip(reversed(begin), reversed(end), strict=True)
    return [amount for pair in pairs for amount in pair]
