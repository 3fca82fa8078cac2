"""Says how sure the metrics of a split are, given how few images it has: bootstrap intervals.

Efron's percentile bootstrap: images are drawn again and again with replacement, as many as there are, and 95 of 100 of
the values that their metrics take lie inside the interval. Images that belong together (data.groups) are drawn
together, because a second one of the same patient says little that is new: the cluster bootstrap (Field and Welsh
2007). It says nothing about other seeds, nor about other data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distcls.config.metrics import BEST_METRICS
from distcls.inference.metrics import NUM_BINS, ClassCounts, SplitMetrics, bin_of, measure

LEVEL = 0.95
MOST, LEAST = 1000, 100
"""How many times the images are resampled: fewer for large splits, whose intervals are narrow."""

WORK = 2e7
"""Images drawn in all. It keeps the time to a second or so."""


def summarize(metrics: SplitMetrics, class_names: Sequence[str], groups: np.ndarray | None = None) -> dict[str, Any]:
    """Return a split's entry in metrics.json: its metrics, those of its classes, and 95 % intervals by metric."""
    return {**metrics.summary(class_names), "intervals": bootstrap_intervals(metrics, groups)}


def bootstrap_intervals(metrics: SplitMetrics, groups: np.ndarray | None = None) -> dict[str, list[float]]:
    """Return [low, high] of each metric. The same metrics always give the same intervals.

    groups: int64 (n,), the group of each image, -1 for an image alone; None if all are alone.
    """
    together = None if groups is None else _together(groups)
    num_groups = 0 if together is None else int(together.max()) + 1
    count, num_classes = len(metrics.labels), len(metrics.confusion)
    repeats = int(np.clip(WORK / max(count, num_classes), LEAST, MOST))
    bins = bin_of(metrics.confidence)
    draw = np.random.default_rng(0)
    found = np.empty((repeats, len(BEST_METRICS)))
    for values in found:
        if together is None:
            rows = draw.integers(0, count, count)
        else:
            times = np.bincount(draw.integers(0, num_groups, num_groups), minlength=num_groups)
            rows = np.repeat(np.arange(count), times[together])
        labels, preds = metrics.labels[rows], metrics.preds[rows]
        right = labels == preds
        drawn = measure(
            ClassCounts.of_images(labels, preds, num_classes),
            metrics.image_means[rows].sum(0),
            int(metrics.in_top5[rows].sum()),
            np.bincount(bins[rows], metrics.confidence[rows], minlength=NUM_BINS),
            np.bincount(bins[rows][right], minlength=NUM_BINS),
        )
        values[:] = [drawn[name] for name in BEST_METRICS]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(BEST_METRICS)}


def _together(groups: np.ndarray) -> np.ndarray:
    """Return int64 (n,), from 0 to G-1: the groups that occur, and one for each image without a group."""
    alone = groups < 0
    own = np.where(alone, groups.max() + 1 + np.cumsum(alone), groups)
    return np.unique(own, return_inverse=True)[1]
