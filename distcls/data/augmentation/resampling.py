"""Crops images and resizes them to the size of the model: one by one on a CPU, a whole batch at once on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def triangle(distance: torch.Tensor) -> torch.Tensor:
    """Return Pillow's weights for bilinear interpolation, of pixels at these distances from an output pixel."""
    return (1 - distance).clamp(min=0)


def cubic(distance: torch.Tensor) -> torch.Tensor:
    """Return Pillow's weights for bicubic interpolation."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    away = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, away, 0.0))


KERNELS = {"bilinear": triangle, "bicubic": cubic}
"""By data.interpolation. Random crops use the filter of evaluation: of images that are enlarged, another one shows
other textures, and a network that learned those errs on the right ones."""


def crop_and_resize(pixels: torch.Tensor, boxes: torch.Tensor, size: int, interpolation: str) -> torch.Tensor:
    """Crop each image to its box and resize it: uint8 (m, size, size, 3). boxes: (m, 4) top, left, height and width.

    interpolation: a key of KERNELS, with antialiasing if a box is larger than `size`.
    """
    if pixels.device.type != "cpu":
        return _resample(pixels, boxes, size, interpolation)
    crops = [
        pixels[i : i + 1, top : top + height, left : left + width]
        for i, (top, left, height, width) in enumerate(boxes.tolist())
    ]
    return torch.cat([resize(crop, size, interpolation) for crop in crops])


def resize(pixels: torch.Tensor, size: int, interpolation: str) -> torch.Tensor:
    """Resize uint8 (n, H, W, 3) on a CPU to (n, size, size, 3), with torch's kernel: it takes half of Pillow's time."""
    images = pixels.permute(0, 3, 1, 2)
    return F.interpolate(images, (size, size), mode=interpolation, antialias=True).permute(0, 2, 3, 1)


def _resample(pixels: torch.Tensor, boxes: torch.Tensor, size: int, interpolation: str) -> torch.Tensor:
    """Crop and resize a whole batch by two products with weight matrices: columns first, then rows, as Pillow does.

    Between the two, pixels become whole numbers from 0 to 255, as in Pillow. For GPUs, where one kernel per image would
    take longer than training. On a CPU it takes ten times as long as `resize`.
    """
    n, height, width, channels = pixels.shape
    kernel = KERNELS[interpolation]
    right = _weights(boxes[:, 1], boxes[:, 3], width, size, kernel)
    down = _weights(boxes[:, 0], boxes[:, 2], height, size, kernel)
    by_column = pixels.transpose(1, 2).reshape(n, width, height * channels).to(right.dtype)
    columns = torch.bmm(right, by_column).round_().clamp_(0, 255)
    by_row = columns.view(n, size, height, channels).transpose(1, 2).reshape(n, height, size * channels)
    images = torch.bmm(down, by_row).view(n, size, size, channels)
    return images.round_().clamp_(0, 255).to(torch.uint8)


def _weights(
    starts: torch.Tensor,
    lengths: torch.Tensor,
    size_in: int,
    size_out: int,
    kernel: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the weight of each input pixel in each output pixel, (n, size_out, size_in): a kernel around its center.

    Its unit is a pixel, of the input or of the output, whichever is larger: this antialiases, as in Pillow.
    """
    places = torch.arange(size_in, device=starts.device, dtype=torch.float32)
    starts, lengths = starts[:, None, None].float(), lengths[:, None, None].float()
    scale = lengths / size_out
    centers = starts + (torch.arange(size_out, device=starts.device)[:, None] + 0.5) * scale - 0.5
    inside = (places >= starts) & (places < starts + lengths)
    weights = kernel((places - centers).abs() / scale.clamp(min=1)) * inside
    return weights / weights.sum(2, keepdim=True)
