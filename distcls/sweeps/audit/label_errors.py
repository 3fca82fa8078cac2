"""Estimates which labels are wrong from out-of-sample probabilities, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", arXiv 1911.00068 (2021):
images that a model confidently puts in another class tell how often labels of each class are wrong. Two things differ,
because networks that are right four times in five would list far too much (docs/audit.md has the numbers):

- An image counts as confident if it is among the most confident tenth of its predicted class. The paper's threshold,
  the mean probability of a class over its own images, lets many of the model's mistakes count as wrong labels.
- Those rates and a prediction give the probability that a label is wrong. Images are ranked by it, so a cat labeled as
  a dog ranks higher if many cats in this data set are. For that the predictions must be probabilities of the true
  classes, while the model has learned the labels with their errors: they are sharpened (or smoothed) by the
  temperature under which the given labels are most likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

CONFIDENT, CONFIDENT_OF_FEW = 0.1, 0.2
"""Share of the images predicted as a class, the most confident ones, that rates of errors are estimated from: the
larger share as long as that is few images, because a rate of few is a matter of luck."""

FEW_CONFIDENT, FEWEST_CONFIDENT = 150, 10
"""What few images are, and the fewest to take."""

PRIOR_IMAGES = (1.0, 10_000.0)
"""The range of the weight that the mean over all classes has in the rates of each class, as a number of images."""

LISTED = 0.4
"""Labels with a higher score are listed: to look at a right label costs less than to keep a wrong one."""

CHUNK = 2**24
"""Probabilities to compute at a time, and at most so many to fit the temperature to."""

TEMPERATURES = (0.1, 10.0)
"""Bounds of the temperature."""

SMALLEST = 1e-9
"""What probabilities that were stored as zero are taken for."""


@dataclass
class LabelErrors:
    """An estimate of which of n labels of C classes are wrong."""

    rates: np.ndarray
    """float64 (C, C), the share of images of each true class (row) that are labeled as each class (column)."""
    scores: np.ndarray
    """float64 (n,), from 0 to 1: the probability that a label is wrong."""
    suggested: np.ndarray
    """int64 (n,), the most probable class other than the label."""
    listed: np.ndarray
    """int64, positions of the labels with a score above LISTED, the highest first."""


def find_label_errors(labels: np.ndarray, probs: np.ndarray) -> LabelErrors:
    """Return what out-of-sample probabilities, float32 (n, C), say about the labels, int64 (n,)."""
    rates = _error_rates(_confident_counts(labels, probs))
    temperature = _fitted_temperature(labels, probs, rates)
    scores, suggested = np.empty(len(labels)), np.empty(len(labels), np.int64)
    step = max(1, CHUNK // probs.shape[1])
    for start in range(0, len(labels), step):
        chunk = slice(start, start + step)
        of_true = _joint(labels[chunk], probs[chunk], rates, temperature)
        rows = np.arange(len(of_true))
        scores[chunk] = 1 - of_true[rows, labels[chunk]] / of_true.sum(1)
        of_true[rows, labels[chunk]] = -1
        suggested[chunk] = of_true.argmax(1)
    ranked = np.lexsort((np.arange(len(labels)), -probs.max(1), -scores))
    return LabelErrors(rates, scores, suggested, ranked[scores[ranked] > LISTED])


def _confident_counts(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return how often images that the model is surest of have each label, (C, C): a row for each predicted class."""
    num_classes = probs.shape[1]
    preds, confidence = probs.argmax(1), probs.max(1)
    counts = np.zeros((num_classes, num_classes))
    for pred in range(num_classes):
        rows = np.flatnonzero(preds == pred)
        enough = min(CONFIDENT_OF_FEW * len(rows), FEW_CONFIDENT)
        number = round(max(FEWEST_CONFIDENT, enough, CONFIDENT * len(rows)))
        least = np.sort(confidence[rows])[::-1][:number][-1] if len(rows) else 0.0
        counts[pred] = np.bincount(labels[rows[confidence[rows] >= least]], minlength=num_classes)
    return counts


def _error_rates(counts: np.ndarray) -> np.ndarray:
    """Return LabelErrors.rates: how often labels of each class are wrong, times the classes that they are then."""
    num_classes = len(counts)
    if num_classes == 1:
        return np.ones((1, 1))
    right = np.diag(counts)
    wrong = counts.sum(1) - right
    error = (wrong.sum() + 1) / (counts.sum() + 2)  # never 0: the prediction still ranks labels if no error was found
    of_class = _shares(np.stack([right, wrong], 1), np.array([1 - error, error]))
    shape = np.full(num_classes - 1, 1 / (num_classes - 1))
    others = ~np.eye(num_classes, dtype=bool)
    rates = np.diag(of_class[:, 0])
    rates[others] = (of_class[:, 1:] * _shares(counts[others].reshape(num_classes, -1), shape)).ravel()
    return rates


def _shares(counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the shares of K categories in each of n rows, float64 (n, K), that counts tell, (n, K).

    Each row's are drawn toward `mean` (K,), as by a number of further images with it: the one that makes the counts
    most likely (Dirichlet-multinomial distributions; Minka 2000, "Estimating a Dirichlet distribution"). It is large
    if rows hardly differ, and small if each has its own shares.
    """
    total = counts.sum(1)

    def loss(log_images: float) -> float:
        prior = np.exp(log_images) * mean
        of_rows = (
            gammaln(prior.sum()) - gammaln(prior.sum() + total) + (gammaln(counts + prior) - gammaln(prior)).sum(1)
        )
        return -float(of_rows.sum())

    found = minimize_scalar(loss, bounds=np.log(PRIOR_IMAGES), method="bounded", options={"xatol": 0.05})
    images = np.exp(found.x)
    return (counts + images * mean) / (total[:, None] + images)


def _joint(labels: np.ndarray, probs: np.ndarray, rates: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probability of each true class together with the given label, float64 (n, C)."""
    logits = np.log(np.maximum(probs.astype(np.float64), SMALLEST)) / temperature
    of_class = np.exp(logits - logits.max(1, keepdims=True))
    return of_class / of_class.sum(1, keepdims=True) * rates[:, labels].T


def _fitted_temperature(labels: np.ndarray, probs: np.ndarray, rates: np.ndarray) -> float:
    """Return the temperature of the predictions under which the labels are most likely, given the rates of errors."""
    step = -(-probs.size // CHUNK)
    some, of_some = labels[::step], probs[::step]

    def loss(log_temperature: float) -> float:
        return -float(np.log(_joint(some, of_some, rates, np.exp(log_temperature)).sum(1)).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x))
