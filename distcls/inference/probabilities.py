"""Collects the probabilities of every image of a split, for the run folder, in the main process's memory only.

Each process sends them batch by batch, so that the others hold one batch at a time and never n × C numbers.
"""

from __future__ import annotations

import numpy as np
import torch

from distcls.cluster.processes import Processes
from distcls.data.split import Split
from distcls.inference.metrics import SplitMetrics
from distcls.runs.results import Predictions

LARGEST_FLOAT32 = 100 * 2**20
LARGEST_FLOAT16 = 200 * 2**20
"""Bytes. ImageNet's 50,000 validation images are 191 MiB as float32 and 95 MiB as float16."""

TOP = 20
"""Number of classes kept for each image if all would be too many."""


class Probabilities:
    """Collects float32 (n, C); float16 above 100 MiB; and if float16 takes over 200 MiB, only each image's top 20."""

    probs: np.ndarray
    """(n, C), or (n, K) for the `classes`. On the main process only; (0, …) elsewhere."""
    classes: np.ndarray | None = None
    """int32 (n, K), the classes whose probabilities are kept, the most probable first; None: all, in order."""

    def __init__(
        self,
        num_images: int,
        num_classes: int,
        batch_size: int,
        processes: Processes,
        largest_float32: int | None = None,
    ) -> None:
        """largest_float32: bytes, instead of LARGEST_FLOAT32."""
        self.num_images, self.batch_size, self.processes = num_images, batch_size, processes
        self.batches_done = 0
        self.dtype = (
            torch.float32 if num_images * num_classes * 4 <= (largest_float32 or LARGEST_FLOAT32) else torch.float16
        )
        is_large = self.dtype == torch.float16 and num_images * num_classes * 2 > LARGEST_FLOAT16
        self.takes_top = is_large and num_classes > TOP
        self.width = TOP if self.takes_top else num_classes
        shape = num_images if processes.is_main else 0, self.width
        self.probs = np.empty(shape, np.float32 if self.dtype == torch.float32 else np.float16)
        if self.takes_top:
            self.classes = np.empty(shape, np.int32)

    def add(self, probs: torch.Tensor | None) -> None:
        """Send a batch (b, C) to the main process; all processes call it once a round, some without a batch."""
        kept = torch.zeros(self.batch_size, self.width, dtype=self.dtype)
        classes = torch.zeros(self.batch_size, self.width, dtype=torch.int32)
        if probs is not None:
            if self.takes_top:
                probs, best = probs.topk(self.width, 1)
                classes[: len(probs)] = best.to("cpu", torch.int32)
            kept[: len(probs)] = probs.to("cpu", self.dtype)
        self._store(self.probs, kept)
        if self.classes is not None:
            self._store(self.classes, classes)
        self.batches_done += self.processes.world_size

    def _store(self, where: np.ndarray, batch: torch.Tensor) -> None:
        """Store a round's batches one after the other, one from each process."""
        for number, received in enumerate(self.processes.to_main(batch), start=self.batches_done):
            rows = where[number * self.batch_size : (number + 1) * self.batch_size]
            rows[:] = received[: len(rows)].numpy()

    def predictions(self, split: Split, metrics: SplitMetrics) -> Predictions:
        """Return what a run folder keeps of an evaluated split. The probabilities are on the main process only."""
        return Predictions(
            names=np.array([split.image_name(i) for i in range(len(split))]),
            labels=split.labels,
            preds=metrics.preds,
            confidence=metrics.confidence,
            probs=self.probs,
            classes=self.classes,
        )

    def describe(self) -> str | None:
        """Return what was done to save space, as text for people; None if nothing was."""
        if self.takes_top:
            return f"of only the {self.width} most probable classes of each image, as float16"
        return "as float16" if self.dtype == torch.float16 else None
