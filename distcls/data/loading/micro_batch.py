"""The images of one forward pass, on their way from the loader to the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

Numbers = dict[str, torch.Tensor]
"""The random numbers of images, a row for each: see augmentation.draw_numbers."""


@dataclass
class MicroBatch:
    """m images with their labels (m,) and random numbers, not yet augmented."""

    index: int  # among the micro-batches of the global batch
    pixels: torch.Tensor
    """uint8 (m, H, W, 3); or, with `rows`, (N, H, W, 3), all that are in memory."""
    labels: torch.Tensor
    numbers: Numbers
    rows: torch.Tensor | None = None
    """Which of `pixels` the images are, (m,); None: all of them, in order."""
    went_bad: dict[int, str] = field(default_factory=dict)
    """Place and "path: reason" of images that cannot be read any more: they, and what they are mixed into, weigh
    nothing."""

    @property
    def own_pixels(self) -> torch.Tensor:
        """uint8 (m, H, W, 3)."""
        return taken(self.pixels, self.rows)

    def weights(self) -> torch.Tensor:
        """What each image counts in the loss: 1, or 0 for one that went bad or was mixed with such a one; (m,)."""
        weights = torch.ones(len(self.labels), device=self.labels.device)
        for place in self.went_bad:
            weights[place].zero_()  # a list of places would be copied to the device, and waited for
        return weights * weights[self.numbers["partner"]] if "partner" in self.numbers else weights


def taken(pixels: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """These rows of pixels (N, H, W, 3); None: all, which takes no copy."""
    return pixels if rows is None else pixels.index_select(0, rows)
