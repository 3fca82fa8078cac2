"""Random brightness, contrast, saturation and hue for a whole batch: one 3 × 3 matrix per image.

Brightness, contrast and saturation work as in torchvision. Hue rotates colors around the gray axis (in YIQ), which
preserves their brightness, where torchvision converts to HSV and back. All four are linear, so they become a single
multiplication, and colors are clipped only once, at the end.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from distcls.config.settings import AugmentConfig

LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""RGB to brightness and two color coordinates (NTSC's). Both are 0 for gray, so rows 2 and 3 sum to 0."""


def draw_colors(config: AugmentConfig, generator: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Draw the numbers of `size` images: "color" (size, 3, 3) multiplies pixels, "gray" (size,) the mean brightness.

    Each image takes four uniform numbers whichever settings are on, so that no setting changes another's draws.
    """
    draws = generator.uniform(-1, 1, (4, size))
    limits = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (
        np.maximum(1 + limit * draw, 0) for limit, draw in zip(limits, draws[:3], strict=True)
    )
    angle = 2 * np.pi * config.hue * draws[3]
    turned = np.zeros((size, 3, 3))
    turned[:, 0, 0] = 1
    turned[:, 1, 1] = turned[:, 2, 2] = saturation * np.cos(angle)
    turned[:, 2, 1] = saturation * np.sin(angle)
    turned[:, 1, 2] = -turned[:, 2, 1]
    color = (brightness * contrast)[:, None, None] * (np.linalg.inv(YIQ) @ turned @ YIQ)
    return {"color": color.astype(np.float32), "gray": (brightness * (1 - contrast)).astype(np.float32)}


def jitter(pixels: torch.Tensor, color: torch.Tensor, gray: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Recolor uint8 images (m, H, W, 3); the result is of `dtype`, from 0 to 255, not rounded.

    The mean brightness of an image is a sum of whole numbers, so the order of additions does not matter.
    """
    n, height, width, channels = pixels.shape
    flat = pixels.reshape(n, height * width, channels)
    mean = (flat.sum(1, dtype=torch.int64) * _luma(dtype, pixels.device)).sum(1) / (height * width)
    colored = flat.to(dtype) @ color.to(dtype).transpose(1, 2)
    colored += (gray.to(dtype) * mean)[:, None, None]
    return colored.clamp_(0, 255).view(n, height, width, channels)


@functools.cache
def _luma(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Cached: making it each time would copy three numbers to the device and wait for the copy."""
    return torch.tensor(LUMA, dtype=dtype, device=device)
