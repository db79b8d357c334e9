"""Light augmentation: small random changes of size and position, the same of an image and of what it shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MAX_ROTATION, MAX_SCALE, MAX_SHIFT = 0.15, 0.1, 0.05
"""Rotation in radians, relative change of size, and shift as a share of the side."""
LEFT = 0.4
"""A box of which a smaller share remains in the image is dropped."""


def small_turns(count: int) -> torch.Tensor:
    """Draw a small rotation, change of size and shift for each of some images; see `warp`."""
    angle, size = _uniform(count, MAX_ROTATION), 1 + _uniform(count, MAX_SCALE)
    cosine, sine = size * angle.cos(), size * angle.sin()
    # affine_grid counts in half sides
    rows = (cosine, -sine, _uniform(count, 2 * MAX_SHIFT), sine, cosine, _uniform(count, 2 * MAX_SHIFT))
    return torch.stack(rows, 1).view(-1, 2, 3)


def small_moves(count: int) -> torch.Tensor:
    """Draw a small change of size and shift, and for half of the images a reflection; boxes stay upright."""
    size = 1 + _uniform(count, MAX_SCALE)
    mirrored = torch.where(torch.rand(count) < 0.5, -size, size)
    none = torch.zeros(count)
    rows = (mirrored, none, _uniform(count, 2 * MAX_SHIFT), none, size, _uniform(count, 2 * MAX_SHIFT))
    return torch.stack(rows, 1).view(-1, 2, 3)


def _uniform(count: int, limit: float) -> torch.Tensor:
    return (torch.rand(count) * 2 - 1) * limit


def warp(images: torch.Tensor, moves: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Move images [n, c, h, w]; the border is repeated beyond the edges.

    ``moves`` [n, 2, 3] gives for every position of the result its place in the image, in half sides from the center.
    """
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def warp_boxes(
    boxes: torch.Tensor, labels: torch.Tensor, move: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the boxes [k, 4] of one image by one of `small_moves`; return those that remain, clipped, and their labels.

    ``size`` is the height and width of the image in pixels.
    """
    half = torch.tensor(size[::-1], dtype=boxes.dtype) / 2
    scale, shift = torch.stack([move[0, 0], move[1, 1]]), move[:, 2]
    corners = ((boxes.view(-1, 2, 2) / half - 1 - shift) / scale + 1) * half
    low, high = corners.amin(dim=1), corners.amax(dim=1)
    zero = torch.zeros(2)
    inner = torch.cat([low.clamp(zero, 2 * half), high.clamp(zero, 2 * half)], dim=1)
    left = (inner[:, 2:] - inner[:, :2]).prod(dim=1) >= LEFT * (high - low).prod(dim=1)
    return inner[left], labels[left]
