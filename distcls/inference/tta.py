"""Test-time augmentation: a classifier looks at several views of each image and averages their logits.

The level `shift` is that of cifar10-airbench (Keller Jordan, https://github.com/KellerJordan/cifar10-airbench): the
image and its mirror image count half, and both of them shifted along the diagonal, to either side, the other half.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

SHIFT = 1 / 32
"""Of an image's side: how far views are shifted. It is one pixel of CIFAR-10's images."""

ZOOM = 1 / 8
"""Of an image's side: how much the enlarged view leaves out, and how much the reduced one adds by reflection."""


def views(images: torch.Tensor, level: str) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield views of images (n, S, S, 3), uint8 or float from 0 to 255, each with its weight; weights add up to 1.

    level: none; flip, 2 views; shift, 6; scale, 10. Enlarged and reduced views are float32.
    """
    if level == "none":
        yield 1.0, images
        return
    levels = [[images]]
    side = images.shape[1]
    if level in ("shift", "scale"):
        step = max(round(SHIFT * side), 1)
        levels.append([_shifted(images, -step), _shifted(images, step)])
    if level == "scale":
        margin = min(max(round(ZOOM * side / 2), 1), (side - 1) // 2)
        inner = images[:, margin : side - margin, margin : side - margin]
        levels.append([_resized(inner, side), _resized(_padded(images, margin), side)])
    for place, found in enumerate(levels):
        # Each further level takes half of what is left, as in cifar10-airbench: the image itself counts most.
        share = 0.5 ** min(place + 1, len(levels) - 1)
        for view in found:
            for seen in (view, view.flip(2)):
                yield share / (2 * len(found)), seen


def _shifted(images: torch.Tensor, step: int) -> torch.Tensor:
    """Shift images down and right by `step` pixels, or up and left; what comes in is reflected."""
    places = _reflected(torch.arange(images.shape[1], device=images.device) - step, images.shape[1])
    return images[:, places][:, :, places]


def _padded(images: torch.Tensor, margin: int) -> torch.Tensor:
    side = images.shape[1]
    places = _reflected(torch.arange(-margin, side + margin, device=images.device), side)
    return images[:, places][:, :, places]


def _reflected(places: torch.Tensor, side: int) -> torch.Tensor:
    """Return positions from 0 to side − 1 for those outside, reflected at the edge pixels."""
    return (side - 1 - (side - 1 - places.abs()).abs()).clamp(min=0)


def _resized(images: torch.Tensor, side: int) -> torch.Tensor:
    images = images.to(images.dtype if images.is_floating_point() else torch.float32).permute(0, 3, 1, 2)
    return F.interpolate(images, (side, side), mode="bilinear").permute(0, 2, 3, 1)
