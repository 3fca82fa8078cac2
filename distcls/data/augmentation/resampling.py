"""Parts of images made as large as the model wants them: on a CPU image by image, on a GPU a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def crop_and_resize(pixels: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Each image's box of top, left, height and width, (m, 4), as large as `size`: uint8 (m, size, size, 3).

    Bilinear, with antialiasing where a box is larger than `size`.
    """
    if pixels.device.type != "cpu":
        return _resample(pixels, boxes, size)
    crops = [
        pixels[i : i + 1, top : top + height, left : left + width]
        for i, (top, left, height, width) in enumerate(boxes.tolist())
    ]
    return torch.cat([resize(crop, size) for crop in crops])


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (n, H, W, 3) on a CPU to (n, size, size, 3): torch's own kernel, which takes half of Pillow's time."""
    images = pixels.permute(0, 3, 1, 2)
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _resample(pixels: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """The same for a whole batch, as two products with matrices of weights: rows first, then columns.

    On a GPU, because a kernel for each image would take longer than the training; on a CPU it would take ten times
    as long as `resize`.
    """
    n, height, width, channels = pixels.shape
    down = _weights(boxes[:, 0], boxes[:, 2], height, size)
    right = _weights(boxes[:, 1], boxes[:, 3], width, size)
    rows = torch.bmm(down, pixels.reshape(n, height, width * channels).to(down.dtype))
    columns = rows.view(n, size, width, channels).transpose(1, 2).reshape(n, width, size * channels)
    images = torch.bmm(right, columns).view(n, size, size, channels).transpose(1, 2)
    return images.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _weights(starts: torch.Tensor, lengths: torch.Tensor, size_in: int, size_out: int) -> torch.Tensor:
    """What each of size_in pixels gives to each of size_out, (n, size_out, size_in): a triangle around its centre.

    The triangle is as wide as two pixels, of the larger kind: that is the antialiasing, as in Pillow.
    """
    places = torch.arange(size_in, device=starts.device, dtype=torch.float32)
    starts, lengths = starts[:, None, None].float(), lengths[:, None, None].float()
    scale = lengths / size_out
    centres = starts + (torch.arange(size_out, device=starts.device)[:, None] + 0.5) * scale - 0.5
    triangle = (1 - (places - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    inside = (places >= starts) & (places < starts + lengths)
    weights = triangle * inside
    return weights / weights.sum(2, keepdim=True)
