"""From pictures of any size, as bytes, to the input of a model, and boxes back: as part of a graph."""

from __future__ import annotations

import torch

from deploy.core.errors import UsageError
from deploy.core.model import Preprocessing
from deploy.tasks.operators import quotient

Tensor = torch.Tensor

_LUMINANCE = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Pillow's weights of red, green and blue in gray."""


class Pictures(torch.nn.Module):
    """Pictures resized as `deploy.data.preprocess.prepare` does it, without its rounding to bytes after each axis.

    A value differs by at most one gray level from that of Pillow.

    Args:
        recipe: stretches pictures, or puts them in a box (``letterbox``); the interpolation is ``bilinear``.

    Raises:
        UsageError: the recipe crops pictures, or has another interpolation.
    """

    def __init__(self, recipe: Preprocessing) -> None:
        super().__init__()
        if recipe.resize is not None or recipe.interpolation != "bilinear":
            raise UsageError(
                "preprocessing in the graph stretches pictures or puts them in a box, with bilinear interpolation; "
                f"this one has resize={recipe.resize}, interpolation={recipe.interpolation}.",
                "change it: --preprocess resize=none --preprocess interpolation=bilinear",
            )
        self.recipe = recipe

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prepare pictures.

        Args:
            pictures: uint8 [n, height, width, 3], red, green and blue.

        Returns:
            Input of the model [n, channels, *crop]; then of x, y, x, y, float [4], the offset in the input and the
            pixels of the picture for one pixel of the input.
        """
        recipe = self.recipe
        own = [torch.scalar_tensor(side, dtype=torch.int64) for side in pictures.shape[1:3]]
        sizes, starts = self._place(*own)
        planes = pictures.float().permute(0, 3, 1, 2)  # TensorRT casts bytes, and does not move them
        if len(recipe.mean) == 1:
            planes = (planes * planes.new_tensor(_LUMINANCE).reshape(3, 1, 1)).sum(1, keepdim=True)
        pixels = [torch.arange(side).float() for side in pictures.shape[1:3]]
        rows, columns = (
            _weights(pixel, side, size, start, wanted)
            for pixel, side, size, start, wanted in zip(pixels, own, sizes, starts, recipe.crop, strict=True)
        )
        resized = torch.matmul(rows, torch.matmul(planes, columns.mT))
        if recipe.letterbox is not None:
            resized = resized + recipe.letterbox * (1 - rows.sum(1).unsqueeze(1) * columns.sum(1))
        mean, std = (planes.new_tensor(values).reshape(-1, 1, 1) for values in (recipe.mean, recipe.std))
        (height, width), (top, left) = sizes, starts
        offset = torch.stack([left, top, left, top]).float()
        scale = torch.stack([own[1], own[0]]).float() / torch.stack([width, height]).float()
        return (resized / 255 - mean) / std, offset, torch.cat([scale, scale])

    def _place(self, height: Tensor, width: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the height and width that a picture gets, and the rows above and columns before it; integers."""
        tall, wide = (torch.scalar_tensor(side, dtype=torch.int64) for side in self.recipe.crop)
        if self.recipe.letterbox is None:
            return [tall, wide], [torch.zeros_like(tall), torch.zeros_like(wide)]
        sizes = [
            torch.minimum(side, _rounded(own * other, of_other)).clamp(min=1)
            for side, own, other, of_other in ((tall, height, wide, width), (wide, width, tall, height))
        ]
        return sizes, [quotient(side - size, 2) for side, size in zip((tall, wide), sizes, strict=True)]


def _rounded(product: Tensor, divisor: Tensor) -> Tensor:
    """Divide integers and round half up; exact."""
    return torch.div(2 * product + divisor, 2 * divisor, rounding_mode="floor")


def _weights(pixel: Tensor, own: Tensor, size: Tensor, start: Tensor, wanted: int) -> Tensor:
    """Return how much every pixel of an axis counts in every pixel of the input, [wanted, own]; 0 outside the picture.

    Source: Pillow, ``src/libImaging/Resample.c``.
    """
    scale = own.float() / size.float()
    stretch = scale.clamp(min=1.0)
    position = torch.arange(wanted) - start
    center = (position.float().unsqueeze(1) + 0.5) * scale
    weights = (1 - ((pixel + 0.5 - center) / stretch).abs()).clamp(min=0.0)
    inside = ((position >= 0) & (position < size)).unsqueeze(1)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.where(inside, weights, 0.0)
