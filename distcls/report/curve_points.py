"""Turns rows of metrics.csv into the points of curves, for plots and for web pages. Imports no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distcls.config.metrics import Metric

STEEP = 50
"""A loss that falls to less than one part in so many of its largest value is drawn on a logarithmic scale."""


def points(rows: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs and finite values of one curve."""
    found = [
        (row["epoch"], row[name])
        for row in rows
        if row["split"] == split and row.get("epoch") is not None and row.get(name) is not None
    ]
    curve = np.array([point for point in found if math.isfinite(point[1])], dtype=float).reshape(-1, 2)
    return curve[:, 0], curve[:, 1]


def train_means(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return means over training steps: between evaluations or, if there are none, over an epoch's logged steps."""
    return means_between_evaluations(rows, name) or epoch_means(*points(rows, "train", name))


def means_between_evaluations(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the mean over the training steps before each evaluation, at their midpoint, so that it does not lag."""
    ends, values = points(rows, "val", f"train_{name}")
    if not len(values):
        return None
    evaluated = np.unique([0.0, *(row["epoch"] for row in rows if row["split"] == "val" and row["epoch"] is not None)])
    starts = evaluated[np.searchsorted(evaluated, ends) - 1]
    return (starts + ends) / 2, values


def epoch_means(epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the logged steps in each epoch, at the mean of their positions."""
    numbers = np.ceil(epochs)  # the step that ends an epoch belongs to it
    inside = [numbers == number for number in np.unique(numbers)]
    return np.array([epochs[i].mean() for i in inside]), np.array([values[i].mean() for i in inside])


def is_steep(metric: Metric, values: Sequence[float]) -> bool:
    """True if curves of a metric with these values need a logarithmic scale."""
    is_positive = metric.better == "lower" and len(values) > 0 and min(values) > 0
    return is_positive and bool(max(values) > STEEP * min(values))
