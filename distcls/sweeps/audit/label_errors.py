"""Estimates which labels are wrong from out-of-sample probabilities, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", arXiv 1911.00068 (2021):
images that a model confidently puts in another class tell how often labels of each class are wrong, and with that, how
many images to list. Two things differ, because networks that are right four times in five would list far too much
(docs/audit.md has the numbers):

- An image counts as confident if it is among the most confident fifth of its predicted class. The paper's threshold,
  the mean probability of a class over its own images, lets many of the model's mistakes count as wrong labels.
- Images are ranked by the probability of a wrong label given both the prediction and those rates, instead of by the
  prediction alone. So a cat labeled as a dog ranks higher if many cats in this data set are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONFIDENT = 0.2
"""Share of the images predicted as a class, the most confident ones, that rates of errors are estimated from."""

FEWEST_CONFIDENT = 10
"""… but at least so many images."""

PRIOR_IMAGES = 10.0
"""Weight of the mean rate over all classes in the rates of each class, as a number of images."""

CHUNK = 2**24
"""Probabilities to compute at a time."""


@dataclass
class LabelErrors:
    """An estimate of which of n labels of C classes are wrong."""

    rates: np.ndarray
    """float64 (C, C), the share of images of each true class (row) that are labeled as each class (column)."""
    scores: np.ndarray
    """float64 (n,), from 0 to 1: the higher, the more probable it is that a label is wrong."""
    suggested: np.ndarray
    """int64 (n,), the most probable class other than the label."""
    listed: np.ndarray
    """int64, positions of the labels that are probably wrong, the highest score first."""


def find_label_errors(labels: np.ndarray, probs: np.ndarray) -> LabelErrors:
    """Return what out-of-sample probabilities, float32 (n, C), say about the labels, int64 (n,)."""
    counts = _confident_counts(labels, probs)
    rates = _error_rates(counts)
    scores, suggested = np.empty(len(labels)), np.empty(len(labels), np.int64)
    step = max(1, CHUNK // probs.shape[1])
    for start in range(0, len(labels), step):
        chunk = slice(start, start + step)
        scores[chunk], suggested[chunk] = _judge(labels[chunk], probs[chunk].astype(np.float64), rates)
    rows = np.arange(len(labels))
    predicted_otherwise = probs[rows, suggested] > probs[rows, labels]
    ranked = np.lexsort((rows, -probs.max(1), -scores))  # stored probabilities can round to 0
    ranked = ranked[predicted_otherwise[ranked]]
    return LabelErrors(rates, scores, suggested, ranked[: _expected_number(probs, counts)])


def _confident_counts(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return how often images that the model is surest of have each label, (C, C): a row for each predicted class."""
    num_classes = probs.shape[1]
    preds, confidence = probs.argmax(1), probs.max(1)
    counts = np.zeros((num_classes, num_classes))
    for pred in range(num_classes):
        rows = np.flatnonzero(preds == pred)
        number = max(FEWEST_CONFIDENT, round(CONFIDENT * len(rows)))
        least = np.sort(confidence[rows])[::-1][:number][-1] if len(rows) else 0.0
        counts[pred] = np.bincount(labels[rows[confidence[rows] >= least]], minlength=num_classes)
    return counts


def _error_rates(counts: np.ndarray) -> np.ndarray:
    """Return LabelErrors.rates. Rates of a class with few confident images are close to the mean of all classes."""
    num_classes = len(counts)
    wrong = counts.sum() - np.trace(counts)
    error = (wrong + 1) / (counts.sum() + 2)  # never 0: the prediction still ranks labels if no error was found
    prior = np.full_like(counts, error / max(num_classes - 1, 1))
    np.fill_diagonal(prior, 1 - error)
    return (counts + PRIOR_IMAGES * prior) / (counts.sum(1, keepdims=True) + PRIOR_IMAGES)


def _judge(labels: np.ndarray, probs: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of labels, float64 (n,), and the classes to suggest instead, int64 (n,)."""
    rows = np.arange(len(labels))
    of_true = probs * rates[:, labels].T  # the joint probability of each true class and the given label
    total = of_true.sum(1)
    scores = 1 - np.divide(of_true[rows, labels], total, out=np.zeros_like(total), where=total > 0)
    of_true[rows, labels] = -1
    return scores, of_true.argmax(1)


def _expected_number(probs: np.ndarray, counts: np.ndarray) -> int:
    """Return how many labels are wrong, if that happens to all images as often as to those that are counted."""
    of_class = np.bincount(probs.argmax(1), minlength=probs.shape[1])
    shares = 1 - np.divide(np.diag(counts), counts.sum(1), out=np.ones(len(counts)), where=counts.sum(1) > 0)
    return round(float(of_class @ shares))
