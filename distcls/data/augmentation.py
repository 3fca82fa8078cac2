"""What a training image goes through, for a whole batch at once, on the device.

Numbers and pixels are apart: `draw_numbers` draws one table for the *global* batch of a step on the CPU,
keyed by the step, and each rank takes its rows. `Augmentation` applies rows to pixels, and draws nothing.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from distcls.batches import BatchPlan
from distcls.config import AugmentConfig
from distcls.data.preprocessing import Normalize
from distcls.randomness import numpy_generator

Numbers = dict[str, torch.Tensor]


def draw_numbers(config: AugmentConfig, plan: BatchPlan, step: int) -> Numbers:
    """The random numbers of one step, a row for each of the B images of the global batch.

    "shift": (B, 2) pixels down and right. "mirrored": (B,) bool. "partner": (B,) the image of the same
    micro-batch that is mixed in, by its place there; "share": (B,) what the image keeps of itself.
    """
    generator = numpy_generator(plan.seed, "augment", step)
    numbers: dict[str, np.ndarray] = {}
    size = plan.global_batch_size
    if config.pad_crop:
        numbers["shift"] = generator.integers(-config.pad_crop, config.pad_crop, (size, 2), endpoint=True)
    if config.flip:
        numbers["mirrored"] = generator.random(size) < 0.5
    if config.mixup:
        places = np.tile(np.arange(plan.micro_batch_size), (plan.num_micro_batches, 1))
        shares = generator.beta(config.mixup, config.mixup, plan.num_micro_batches)
        numbers["partner"] = generator.permuted(places, axis=1).ravel()
        numbers["share"] = np.repeat(shares, plan.micro_batch_size)
    return {name: torch.from_numpy(table) for name, table in numbers.items()}


class Augmentation:
    """Applies a step's numbers to a micro-batch and normalises it."""

    def __init__(self, normalize: Normalize, num_classes: int) -> None:
        self.normalize = normalize
        self.num_classes = num_classes

    def __call__(
        self, pixels: torch.Tensor, labels: torch.Tensor, numbers: Numbers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (m, H, W, 3) and class ids (m,) to images (m, 3, H, W) and targets: class ids, or (m, C) if mixed."""
        if "shift" in numbers or "mirrored" in numbers:
            pixels = _move(pixels, numbers.get("shift"), numbers.get("mirrored"))
        images = self.normalize(pixels)
        if "partner" in numbers:
            return mixup(images, labels, numbers["partner"], numbers["share"], self.num_classes)
        return images, labels


def _move(pixels: torch.Tensor, shift: torch.Tensor | None, mirrored: torch.Tensor | None) -> torch.Tensor:
    """Random crop of the reflected image, and mirroring, as one gather of pixels.

    Twice as fast on a CPU as indexing by (image, row, column), and as slicing image by image.
    """
    n, height, width, channels = pixels.shape
    rows = torch.arange(height, device=pixels.device).expand(n, height)
    columns = torch.arange(width, device=pixels.device).expand(n, width)
    if shift is not None:
        rows = _reflect(rows + shift[:, :1], height)
        columns = _reflect(columns + shift[:, 1:], width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    images = torch.arange(n, device=pixels.device)
    index = (images[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    flat = pixels.reshape(n * height * width, channels)
    return flat.index_select(0, index.view(-1)).view(n, height, width, channels)


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Fold an index that lies past an edge back inside, without repeating the edge."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def mixup(
    images: torch.Tensor, labels: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image and its target blended with a partner's (Zhang et al., arXiv 1710.09412)."""
    share = share.to(images.dtype)
    targets = F.one_hot(labels, num_classes).to(images.dtype)
    targets = torch.lerp(targets[partner], targets, share[:, None])
    return torch.lerp(images[partner], images, share[:, None, None, None]), targets
