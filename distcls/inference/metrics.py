"""What is measured on a split: a number for each metric, from counts and sums over its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BINS = 15
"""Equal bins of confidence for the calibration error (Guo et al., arXiv 1706.04599)."""


@dataclass
class SplitMetrics:
    """The result for one split. `values` are shares from 0 to 1, the mean loss, and the number of images."""

    values: dict[str, Any]
    confusion: np.ndarray  # (C, C) int64, rows are the true classes
    bin_confidence: np.ndarray  # (bins,) float64 sum of the confidences
    bin_correct: np.ndarray  # (bins,) int64
    bin_count: np.ndarray  # (bins,) int64
    preds: np.ndarray  # (n,) int64, the predicted class of each image of the split
    confidence: np.ndarray  # (n,) float64, the probability of that class


def measure(
    confusion: np.ndarray, loss_sum: float, top5_correct: int, bin_confidence: np.ndarray, bin_correct: np.ndarray
) -> dict[str, Any]:
    """The metrics of a split, as `SplitMetrics.values`."""
    count = int(confusion.sum())
    return {
        "loss": loss_sum / count,
        "accuracy": int(confusion.trace()) / count,
        "top5": top5_correct / count,
        **_by_class(confusion),
        "ece": float(np.abs(bin_correct - bin_confidence).sum() / count),
        "count": count,
    }


def _by_class(confusion: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1: their plain means over classes, and each class's recall. 0/0 counts as 0."""
    hits = np.diag(confusion).astype(float)
    actual, predicted = confusion.sum(1), confusion.sum(0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, actual)
    present = (actual + predicted) > 0  # as scikit-learn: a class that is neither there nor predicted is left out
    return {
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(_ratio(2 * hits, actual + predicted)[present].mean()),
        "accuracy_by_class": recall.tolist(),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def worst_confusions(confusion: np.ndarray, class_names: list[str], most: int = 3) -> list[tuple[str, str, int]]:
    """(true class, predicted class, how often), the most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [np.unravel_index(place, wrong.shape) for place in order]
    return [(class_names[i], class_names[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]
