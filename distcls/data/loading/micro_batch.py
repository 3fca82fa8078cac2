"""Holds the images of one forward pass on their way from the loader to the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

Numbers = dict[str, torch.Tensor]
"""Random numbers for augmentation, one row per image: see batchwise.draw_numbers."""


@dataclass
class MicroBatch:
    """m images with their labels (m,) and random numbers, not yet augmented."""

    index: int  # among the micro-batches of the global batch
    pixels: torch.Tensor
    """uint8 (m, H, W, 3); or, with `rows`, (N, H, W, 3), all images in memory."""
    labels: torch.Tensor
    numbers: Numbers
    rows: torch.Tensor | None = None
    """The rows of `pixels` to use, (m,); None: all of them, in order."""
    went_bad: dict[int, str] = field(default_factory=dict)
    """Place and "path: reason" of images that can no longer be read. They and the images they are mixed into get a
    weight of 0."""

    @property
    def own_pixels(self) -> torch.Tensor:
        """The pixels of just these images, uint8 (m, H, W, 3)."""
        return taken(self.pixels, self.rows)

    def weights(self) -> torch.Tensor:
        """Return each image's weight in the loss, (m,): 1, or 0 if it or the image mixed into it went bad."""
        weights = torch.ones(len(self.labels), device=self.labels.device)
        for place in self.went_bad:
            weights[place].zero_()  # indexing by a list would copy it to the device and wait
        return weights * weights[self.numbers["partner"]] if "partner" in self.numbers else weights


def taken(pixels: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Return these rows of pixels (N, H, W, 3); None returns all of them, without a copy."""
    return pixels if rows is None else pixels.index_select(0, rows)
