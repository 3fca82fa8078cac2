"""Fits a temperature, so that a model that is 80 % sure is right in 80 % of cases (Guo et al., arXiv 1706.04599).

Dividing logits by a temperature changes no prediction, only how sure the model is.
"""

from __future__ import annotations

import numpy as np

LOWEST, HIGHEST = 0.01, 100.0
"""Temperatures outside are not fitted: probabilities would be all but certain, or all but equal."""

TINY = 1e-38
"""The least probability: the logarithm of a smaller one, rounded to 0 in float32, does not exist."""


def fit_temperature(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that gives the true classes of n images the largest likelihood.

    probs: (n, C) at a temperature of 1. labels: (n,). The negative log-likelihood is convex in 1 / temperature, so
    bisecting its derivative finds the minimum, the same one every time.
    """
    logits = np.log(np.maximum(probs.astype(np.float64), TINY))
    logits -= logits[np.arange(len(labels)), labels][:, None]  # so that the true class has 0
    low, high = np.log(LOWEST), np.log(HIGHEST)
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _slope(logits, np.exp(-middle)) > 0:  # a smaller inverse, a higher temperature, fits better
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def at_temperature(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (n, C), float64, at a temperature, from those at a temperature of 1."""
    logits = np.log(np.maximum(probs.astype(np.float64), TINY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _slope(logits: np.ndarray, inverse: float) -> float:
    """Return the derivative of the negative log-likelihood by the inverse temperature, without its factor 1 / n."""
    scaled = logits * inverse
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return float(((powers / powers.sum(1, keepdims=True)) * logits).sum())
