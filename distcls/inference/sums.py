"""Sums over a split that come out the same for any number of processes.

Integer counts are exact in any order. Float sums (loss, confidence) are kept per batch: one rank evaluates each batch
and the others hold zeros, so the reduction over ranks only adds zeros; the batches are then added in order, in
float64. So every metric is that of a single process, to the last bit.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torchmetrics import Metric

from distcls.inference.metrics import MEANS, NUM_BINS, ClassCounts, SplitMetrics, measure, measure_classes

PIECE = 2**22
"""How many numbers are summed over processes at a time: this keeps the libraries' buffers small."""


class SplitSums(Metric):
    """Adds up one split, batch by batch on each process, then over processes.

    The sums over processes are taken in place, piece by piece: torchmetrics would gather every process's states on
    every process, which for ImageNet on 512 processes takes 10 GB on each GPU.
    """

    confusion: torch.Tensor
    bin_correct: torch.Tensor
    bin_count: torch.Tensor
    batch_sums: torch.Tensor
    preds: torch.Tensor
    confidence: torch.Tensor
    in_top5: torch.Tensor
    image_means: torch.Tensor

    full_state_update = False

    def __init__(self, num_classes: int, labels: np.ndarray, batch_size: int) -> None:
        """labels: of all images of the split, (n,)."""
        super().__init__(sync_on_compute=False)
        self.num_classes = num_classes
        self.labels = labels
        self.batch_size = batch_size
        num_images = len(labels)
        num_batches = -(-num_images // batch_size)
        self._add("confusion", num_classes * num_classes, torch.int64)
        self._add("bin_correct", NUM_BINS, torch.int64)
        self._add("bin_count", NUM_BINS, torch.int64)
        self._add("batch_sums", num_batches * (len(MEANS) + NUM_BINS), torch.float64)
        self._add("preds", num_images, torch.int64)
        self._add("confidence", num_images, torch.float64)
        self._add("in_top5", num_images, torch.int64)
        self._add("image_means", num_images * len(MEANS), torch.float64)

    def _add(self, name: str, size: int, dtype: torch.dtype) -> None:
        self.add_state(name, torch.zeros(size, dtype=dtype), dist_reduce_fx="sum")

    def update(self, batch: int, logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor) -> None:
        """Add evaluation batch number `batch`: logits (n, C), labels (n,) and losses (n,)."""
        probs = logits.double().softmax(1)
        confidence, preds = probs.max(1)
        self.confusion += torch.bincount(labels * self.num_classes + preds, minlength=self.num_classes**2)
        correct = preds == labels
        top5 = logits.topk(min(5, self.num_classes), 1).indices
        bins = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
        self.bin_count += torch.bincount(bins, minlength=NUM_BINS)
        self.bin_correct += torch.bincount(bins[correct], minlength=NUM_BINS)
        # One-hot and a matrix product, because bincount with weights has no fixed order on a GPU.
        one_hot = torch.nn.functional.one_hot(bins, NUM_BINS).to(confidence.dtype)
        log_true = logits.double().log_softmax(1).gather(1, labels[:, None])
        brier = probs.square().sum(1, keepdim=True) - 2 * log_true.exp() + 1  # ∑ (p − 1 of the true class)²
        means = losses.double(), -log_true[:, 0], brier[:, 0]  # in the order of MEANS
        row = torch.cat([torch.stack([one.sum() for one in means]), confidence @ one_hot])
        self.batch_sums[batch * len(row) : (batch + 1) * len(row)] = row
        first, last = batch * self.batch_size, batch * self.batch_size + len(labels)
        self.preds[first:last] = preds
        self.confidence[first:last] = confidence
        self.in_top5[first:last] = (top5 == labels[:, None]).any(1)
        self.image_means[first * len(MEANS) : last * len(MEANS)] = torch.stack(means, 1).flatten()

    def compute(self) -> SplitMetrics:
        """Return the metrics of the whole split. All processes must call it once, since it sums over them."""
        if dist.is_available() and dist.is_initialized():
            for name in self._defaults:
                for piece in getattr(self, name).split(PIECE):
                    dist.all_reduce(piece)
        confusion = self.confusion.view(self.num_classes, self.num_classes).cpu().numpy()
        sums = np.zeros(len(MEANS) + NUM_BINS)
        for row in self.batch_sums.view(-1, len(sums)).cpu().numpy():
            sums += row
        means, bin_confidence = sums[: len(MEANS)], sums[len(MEANS) :]
        bin_correct, bin_count = self.bin_correct.cpu().numpy(), self.bin_count.cpu().numpy()
        return SplitMetrics(
            values=measure(
                ClassCounts.of_confusion(confusion), means, int(self.in_top5.sum()), bin_confidence, bin_correct
            ),
            by_class=measure_classes(confusion),
            confusion=confusion,
            bin_confidence=bin_confidence,
            bin_correct=bin_correct,
            bin_count=bin_count,
            labels=self.labels,
            preds=self.preds.cpu().numpy(),
            confidence=self.confidence.cpu().numpy(),
            in_top5=self.in_top5.cpu().numpy(),
            image_means=self.image_means.view(-1, len(MEANS)).cpu().numpy(),
        )
