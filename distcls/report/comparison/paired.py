"""Says how much of the difference between two runs may be chance, from their predictions on the same images.

What counts are the images on which only one of the two is right: McNemar's exact test (1947), and Agresti and Min's
interval for the difference of paired proportions (2005). Both are about these two sets of weights. They say nothing
about how much other seeds would change them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distcls.runs.overview import SPLITS, Overview
from distcls.runs.results import load_answers

Z = 1.959964
"""The standard normal distribution's quantile for a 95 % interval."""

LEVEL = 0.05
"""Differences that chance alone would make less often than this are not put down to chance."""


@dataclass(frozen=True)
class Paired:
    """Two runs on the same images."""

    split: str
    num_images: int
    only_first: int
    """Images on which only the first run is right."""
    only_second: int

    @property
    def difference(self) -> float:
        """The second run's accuracy minus the first's, from -1 to 1."""
        return (self.only_second - self.only_first) / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        first, second, total = self.only_first + 0.5, self.only_second + 0.5, self.num_images + 2
        middle = (second - first) / total
        half = Z * math.sqrt(first + second - (second - first) ** 2 / total) / total
        return max(middle - half, -1.0), min(middle + half, 1.0)

    @property
    def p_value(self) -> float:
        """How often chance alone would make a difference as large, if both runs were equally good."""
        return mcnemar(self.only_first, self.only_second)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: fair coins, as many as there are such images."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    ways, sum_of_ways = 1, 0  # whole numbers of any size, because 0.5 ** 2000 is 0
    for i in range(fewer + 1):
        sum_of_ways += ways
        ways = ways * (total - i) // (i + 1)
    return min(2 * sum_of_ways / 2**total, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several (Holm 1979): the more one tests, the more looks real by chance."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for position, i in enumerate(order):
        largest = max(largest, min(p_values[i] * (len(p_values) - position), 1.0))
        adjusted[i] = largest
    return adjusted


def pair(first: Overview, second: Overview) -> Paired | str:
    """Return how two runs did on the same images, of test or else of val; or, in words, why that is unknown."""
    why = "their folders have no predictions of the same split"
    for split in reversed(SPLITS):
        found = [_answers(run, split) for run in (first, second)]
        if found[0] is None or found[1] is None:
            continue
        if _may_be_same(first, second, split) and np.array_equal(found[0].images, found[1].images):
            right, also_right = found[0].is_right, found[1].is_right
            return Paired(split, len(right), int((right & ~also_right).sum()), int((also_right & ~right).sum()))
        why = f"their {split} images are not the same"
    return why


@dataclass(frozen=True)
class _Answers:
    images: np.ndarray
    """str (n, 2), the name and the true class of each image, sorted."""
    is_right: np.ndarray
    """bool (n,)."""


def _answers(run: Overview, split: str) -> _Answers | None:
    """Return what a run predicted; None if that is not stored, or damaged."""
    found = load_answers(run.dir, split)
    if found is None or not run.class_names:
        return None
    names, labels, preds = found
    if labels.min() < 0 or labels.max() >= len(run.class_names):
        return None
    order = np.argsort(names, kind="stable")
    images = np.stack([names.astype(str), np.array(run.class_names)[labels]], axis=1)
    return _Answers(images[order], (labels == preds)[order])


def _may_be_same(first: Overview, second: Overview, split: str) -> bool:
    prints = [run.split_fingerprints.get(split) for run in (first, second)]
    return None in prints or prints[0] == prints[1]
