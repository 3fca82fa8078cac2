"""Decides which images a step takes and which rank takes them: the one plan that all processes share.

The training set is an endless stream: the permutation of epoch 0, then of epoch 1, and so on. Step s
takes positions [s*B, (s+1)*B) of it, across the boundary between epochs. So every batch is full, each image
occurs exactly once per epoch, and nothing depends on how many processes share the work. With train.sampling, an
epoch is the same number of images drawn with replacement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from distcls.config.batch_sizes import micro_batch_size_of, wrong_batches
from distcls.config.contradictions import NO_LENGTH
from distcls.config.settings import TrainConfig
from distcls.errors import UsageError
from distcls.plan.keys import numpy_generator


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a run, as one of `world_size` processes sees them.

    `global_batch_size` (B) images make a step, cut in order into B/m micro-batches of
    `micro_batch_size` (m); each rank takes a contiguous block of `grad_accum_steps` of them.
    """

    num_images: int
    global_batch_size: int
    micro_batch_size: int
    total_steps: int
    seed: int
    rank: int = 0
    world_size: int = 1
    shares: np.ndarray | None = field(default=None, compare=False, repr=False)
    """float64 (num_images,), the probability of drawing each image; None: each exactly once per epoch."""
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def num_micro_batches(self) -> int:
        """The number of micro-batches in a global batch."""
        return self.global_batch_size // self.micro_batch_size

    @property
    def grad_accum_steps(self) -> int:
        """The number of micro-batches that this rank accumulates in a step."""
        return self.num_micro_batches // self.world_size

    @property
    def micro_batches(self) -> range:
        """The indices of this rank's micro-batches in the global batch."""
        first = self.rank * self.grad_accum_steps
        return range(first, first + self.grad_accum_steps)

    @property
    def rows(self) -> slice:
        """This rank's images among the B of a global batch."""
        share = self.grad_accum_steps * self.micro_batch_size
        return slice(self.rank * share, (self.rank + 1) * share)

    def epoch(self, completed_steps: int) -> float:
        """Return how many passes over the data this many steps make."""
        return completed_steps * self.global_batch_size / self.num_images

    def counted_epoch(self, completed_steps: int) -> float:
        """Return k after the step at which epoch k ends, though it may reach into the next one; else as `epoch`."""
        exact = self.epoch(completed_steps)
        whole = math.floor(exact)
        ends = math.ceil(whole * self.num_images / self.global_batch_size)
        return float(whole) if whole and completed_steps == ends else exact

    def positions(self, step: int) -> np.ndarray:
        """Return the positions of one step's images in the endless stream: (B,) int64."""
        return np.arange(step * self.global_batch_size, (step + 1) * self.global_batch_size)

    def global_batch(self, step: int) -> np.ndarray:
        """Return the images of one step: (B,) int64 indices into the training split."""
        start, stop = step * self.global_batch_size, (step + 1) * self.global_batch_size
        parts = []
        for epoch in range(start // self.num_images, (stop - 1) // self.num_images + 1):
            offset = epoch * self.num_images
            order = self._order(epoch)
            parts.append(order[max(start - offset, 0) : min(stop - offset, self.num_images)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of one epoch. The last two are cached, because a step may span two epochs."""
        if epoch not in self._orders:
            if len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = self._draw_order(epoch)
        return self._orders[epoch]

    def _draw_order(self, epoch: int) -> np.ndarray:
        """Draw a permutation or, if images have shares, the same number of images with replacement."""
        generator = numpy_generator(self.seed, "order", epoch)
        if self.shares is None:
            return generator.permutation(self.num_images)
        return generator.choice(self.num_images, self.num_images, p=self.shares)


def plan_batches(
    config: TrainConfig, num_images: int, rank: int = 0, world_size: int = 1, labels: np.ndarray | None = None
) -> BatchPlan:
    """Return the plan of a run. Raises UsageError if B, m and the number of processes do not fit together.

    labels: (num_images,) class ids, needed for train.sampling.
    """
    for _, problem in wrong_batches(config, world_size):
        raise UsageError(problem)
    micro_size = micro_batch_size_of(config, world_size)
    shares = _shares(config.sampling, labels)
    steps = total_steps(config, num_images)
    return BatchPlan(num_images, config.global_batch_size, micro_size, steps, config.seed, rank, world_size, shares)


def _shares(sampling: str, labels: np.ndarray | None) -> np.ndarray | None:
    """Return each image's probability, for classes that are equally likely or weighted by the root of their size."""
    if sampling == "none":
        return None
    if labels is None:
        raise ValueError(f"train.sampling={sampling} needs the labels")
    weights = np.bincount(labels)[labels] ** {"balanced": -1.0, "square_root": -0.5}[sampling]
    return weights / weights.sum()


def total_steps(config: TrainConfig, num_images: int) -> int:
    """Return the length of a run in steps, rounded up. Raises UsageError if the config sets no length."""
    if config.num_steps is not None:
        return config.num_steps
    if config.num_epochs is None:
        raise UsageError(NO_LENGTH)
    return math.ceil(Fraction(str(config.num_epochs)) * num_images / config.global_batch_size)
