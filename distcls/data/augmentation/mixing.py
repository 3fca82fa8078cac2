"""Mixup and CutMix: blend the images of a micro-batch with each other, and their targets in the same way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from distcls.config.settings import AugmentConfig
from distcls.data.augmentation.boxes import draw_squares, inside
from distcls.plan.batches import BatchPlan


def draw_mixing(
    config: AugmentConfig, plan: BatchPlan, generator: Callable[[str], np.random.Generator]
) -> dict[str, np.ndarray]:
    """Draw the numbers of a global batch, a row per image. All but "partner" are equal within a micro-batch.

    "partner": which image to blend in, by its position in the micro-batch. "share": how much an image keeps of
    itself. "pasted" (with CutMix): the box that is taken from the partner, empty in micro-batches with mixup.
    generator: returns a generator for each purpose.
    """
    count, size = plan.num_micro_batches, plan.micro_batch_size
    places = np.tile(np.arange(size), (count, 1))
    numbers = {"partner": generator("partner").permuted(places, axis=1).ravel()}
    share = generator("mixup").beta(config.mixup, config.mixup, count) if config.mixup else np.ones(count)
    if config.cutmix:
        draw = generator("cutmix")
        boxes = draw_squares(draw, count, np.sqrt(1 - draw.beta(config.cutmix, config.cutmix, count)))
        has_mixup = generator("mixup or cutmix").random(count) < (0.5 if config.mixup else 0)
        share[~has_mixup] = 1
        boxes[has_mixup] = 0
        numbers["pasted"] = np.repeat(boxes, size, axis=0)
    numbers["share"] = np.repeat(share, size).astype(np.float32)
    return numbers


def mix(
    images: torch.Tensor,
    labels: torch.Tensor,
    partner: torch.Tensor,
    share: torch.Tensor,
    pasted: torch.Tensor | None,
    num_classes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each image and its target with its partner's: images (m, 3, H, W) and targets (m, C).

    Mixup (Zhang et al., arXiv 1710.09412) keeps `share` of every pixel. CutMix (Yun et al., arXiv 1905.04899)
    keeps the pixels outside the box, and of the target the share of pixels that were really kept.
    """
    share = share.to(images.dtype)
    of_pixels = share[:, None, None, None]
    if pasted is not None:
        covered = inside(pasted, *images.shape[2:])
        # On a CPU, lerp is three times as fast if its weights have the memory layout of the pixels.
        of_pixels = torch.empty_like(images).copy_(of_pixels * ~covered[:, None])
        share = share * (1 - covered.to(images.dtype).mean((1, 2)))
    targets = F.one_hot(labels, num_classes).to(images.dtype)
    targets = torch.lerp(targets[partner], targets, share[:, None])
    return torch.lerp(images[partner], images, of_pixels), targets
