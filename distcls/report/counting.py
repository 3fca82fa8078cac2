"""Counts a run's predictions: how often each class was taken for which, and how often each confidence was right."""

from __future__ import annotations

import numpy as np

from distcls.inference.calibration import at_temperature
from distcls.inference.metrics import NUM_BINS, bin_of
from distcls.runs.results import Predictions


def confusion_matrix(found: Predictions, num_classes: int) -> np.ndarray:
    """Return the confusion matrix, int64 (C, C), with one row per true class."""
    pairs = np.bincount(found.labels * num_classes + found.preds, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def calibration_bins(
    found: Predictions, confidence: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for equal bins of confidence, its sum and the numbers of correct and of all images; (bins,) each.

    confidence: (n,), if it is not that of the predictions, see `confidence_at`.
    """
    confidence = found.confidence if confidence is None else confidence
    bins = bin_of(confidence)
    right = bins[found.preds == found.labels]
    return (
        np.bincount(bins, confidence, minlength=NUM_BINS),
        np.bincount(right, minlength=NUM_BINS),
        np.bincount(bins, minlength=NUM_BINS),
    )


def confidence_at(found: Predictions, temperature: float) -> np.ndarray | None:
    """Return the confidence of each prediction if its logits were divided by a temperature, float64 (n,).

    None if only the probabilities of some classes were kept.
    """
    if found.classes is not None:
        return None
    return at_temperature(found.probs, temperature).max(1)
