"""Holds a classifier's prediction for one image.

Imports no torch, because the Python API imports this file and must start fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SHOWN = 5
"""Classes that are shown of each image, unless another number is asked for."""

BATCH_SIZE = 64
"""Images per forward pass; more saves little time."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """A classifier's prediction for one image."""

    topk: list[tuple[str, float]]
    """The most probable classes with their probabilities from 0 to 1, the most probable first."""
    probs: np.ndarray = field(compare=False)
    """The probability of every class, (C,), in the order of the classifier's class_names."""
    class_names: list[str] = field(compare=False)
    image: str | None = None
    """The path of the image; None if pixels were given."""

    @property
    def label(self) -> str:
        """Return the most probable class."""
        return self.topk[0][0]

    @property
    def probability(self) -> float:
        """Return the probability of that class, from 0 to 1."""
        return self.topk[0][1]

    @property
    def probabilities(self) -> dict[str, float]:
        """Return the probability of every class by its name."""
        return dict(zip(self.class_names, self.probs.tolist(), strict=True))

    def __repr__(self) -> str:
        of = "" if self.image is None else f"{self.image!r}: "
        return f"<{of}{', '.join(f'{name!r} {share:.1%}' for name, share in self.topk)}>"
