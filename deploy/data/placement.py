"""Where the pixels of a picture are in the input of a model, so that boxes and masks can be moved between the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deploy.core.model import Preprocessing
from deploy.data.preprocess import placed, resized
from deploy.data.truth import IGNORED


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A picture in the input of a model: position in the input = position in the picture x ``scale`` + ``offset``.

    Attributes:
        scale: of x and y.
        offset: of x and y in pixels of the input; negative where the picture is cropped.
        size: height and width of the picture in pixels.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], preprocessing: Preprocessing) -> Placement:
        """Return the placement of a picture of some height and width."""
        height, width = resized(size, preprocessing)
        top, left = placed((height, width), preprocessing.crop)
        return cls(scale=(width / size[1], height / size[0]), offset=(left, top), size=size)

    def into_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes [k, 4] of the picture in pixels of the input."""
        moved: NDArray[np.float32] = (boxes * np.tile(self.scale, 2) + np.tile(self.offset, 2)).astype(np.float32)
        return moved

    def into_picture(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes [k, 4] of the input in pixels of the picture, clipped to it."""
        height, width = self.size
        moved = (boxes - np.tile(self.offset, 2)) / np.tile(self.scale, 2)
        clipped: NDArray[np.float32] = np.clip(moved, 0, [width, height, width, height]).astype(np.float32)
        return clipped

    def mask_in_picture(self, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a mask [height, width] of the input in the size of the picture, bilinearly; 0 where it is cut off."""
        import torch

        axes = []
        for length, size, scale, offset in zip(mask.shape, self.size, self.scale[::-1], self.offset[::-1], strict=True):
            positions = (torch.arange(size, dtype=torch.float64) + 0.5) * scale + offset
            axes.append((2 * positions / length - 1).float())
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        source = torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None]
        grid = torch.stack([columns, rows], dim=-1)[None]
        moved = torch.nn.functional.grid_sample(source, grid, "bilinear", "zeros", align_corners=False)
        result: NDArray[np.float32] = moved[0, 0].numpy()
        return result


def prepare_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop the classes of pixels [h, w] as the image is, without mixing classes; outside is `IGNORED`."""
    size = resized((pixels.shape[0], pixels.shape[1]), preprocessing)
    scaled = (
        pixels
        if size == pixels.shape
        else np.asarray(Pillow.fromarray(pixels).resize(size[::-1], Pillow.Resampling.NEAREST))
    )
    top, left = placed(size, preprocessing.crop)
    result = np.full(preprocessing.crop, IGNORED, np.uint8)
    height, width = preprocessing.crop
    rows = slice(max(0, top), min(height, top + size[0]))
    columns = slice(max(0, left), min(width, left + size[1]))
    result[rows, columns] = scaled[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return result
