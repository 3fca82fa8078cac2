"""Resizes inside an exported file, which then takes one image of any size.

It computes what distcls computes with Pillow (data/decoding/decode.py). ONNX's Resize operator could not: it cuts at
whole pixels, and half a pixel changes a photograph by 3 levels of 255 on average. So each output row and column is a
sum of the rows and columns around it, with Pillow's weights: two matrix products.
"""

from __future__ import annotations

import torch
from PIL import ImageColor
from torch import nn

from distcls.data.augmentation.resampling import KERNELS
from distcls.data.decoding.decode import OVERSAMPLING, Decoding

DIVISORS = (2, 4, 8)
"""Reduced sizes at which distcls decodes large JPEGs, by averaging squares of this many pixels a side."""


class Resizing(nn.Module):
    """Turns an image, uint8 (H, W, 3), into images (1, S, S, 3), fitted as decode.fit does.

    It differs from Pillow in the last bit of some pixels; and for large images that are not JPEGs, because it averages
    squares of pixels first, as decoding a large JPEG does.
    """

    background: torch.Tensor

    def __init__(self, decoding: Decoding) -> None:
        super().__init__()
        self.decoding = decoding
        background = torch.tensor(ImageColor.getrgb(decoding.background)[:3], dtype=torch.float32)
        self.register_buffer("background", background, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width, _ = image.shape
        sides = torch.stack([torch.scalar_tensor(height), torch.scalar_tensor(width)])
        lengths, counts = self._box(sides)
        divisor = self._divisor(lengths)
        rows, is_row = self._weights(height, sides[0], lengths[0], counts[0], divisor)
        columns, is_column = self._weights(width, sides[1], lengths[1], counts[1], divisor)
        planes = image.permute(2, 0, 1).float()
        narrow = _levels(planes @ columns.T)  # Pillow resizes rows first, and rounds
        square = _levels(rows @ narrow).permute(1, 2, 0)
        framed = torch.where(is_row[:, None, None] & is_column[None, :, None], square, self.background)
        return framed.to(torch.uint8).unsqueeze(0)

    def _box(self, sides: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the height and width of the part that the model sees, and how many pixels each becomes: (2,), (2,)."""
        final = torch.full_like(sides, self.decoding.shape[0])
        if self.decoding.resize == "squish":
            return sides, final
        if self.decoding.resize == "pad":
            return sides, (sides * final / sides.max()).round().clamp(min=1)
        is_final = (sides == final).all()  # such images stay whole
        fraction = torch.where(is_final, 1.0, self.decoding.crop_fraction)
        return (sides.min() * fraction).expand(2), final

    def _divisor(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the side of the squares that are averaged first: 1, 2, 4 or 8, as for JPEGs."""
        most = lengths.min() / (OVERSAMPLING * self.decoding.shape[0])
        divisor = torch.ones_like(most)
        for candidate in DIVISORS:
            divisor = torch.where(most >= candidate, float(candidate), divisor)
        return divisor

    def _weights(
        self, num_pixels: int, side: torch.Tensor, length: torch.Tensor, count: torch.Tensor, divisor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight of each pixel of a row or column in each output pixel, (S, num_pixels).

        side: num_pixels. length: how much of it the model sees, centered. count: how many output pixels that becomes.
        Also returns which output pixels these are, bool (S,): the others are background.
        """
        size = self.decoding.shape[0]
        place = torch.arange(size) - torch.floor((size - count) / 2)
        scale = length / count
        center = (side - length) / 2 + (place + 0.5) * scale
        position = (torch.floor(torch.arange(num_pixels) / divisor) + 0.5) * divisor
        distance = (position[None, :] - center[:, None]).abs() / scale.clamp(min=1)
        weights = KERNELS[self.decoding.interpolation](distance)
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-6), (place >= 0) & (place < count)


def _levels(values: torch.Tensor) -> torch.Tensor:
    """Round to levels from 0 to 255."""
    return torch.floor(values + 0.5).clamp(0, 255)
