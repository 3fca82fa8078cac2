"""Deals whole groups of images, such as all photographs of one patient, to splits or folds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from distcls.plan import keys

ATTEMPTS, FEW_GROUPS = 5, 2000
"""Up to FEW_GROUPS are dealt several times in different orders, and the best attempt counts: luck matters there."""

WEIGHT_OF_SIZE = 20
"""How much more the sizes of the parts matter than their shares of each class."""

WHOLE_CLASS = 1e12
"""Cost of a part that gets all images of a class, so that the others have none to learn it from: above all others."""


def deal(
    labels: np.ndarray, groups: np.ndarray, shares: Sequence[float], spared: Collection[int], seed: int, purpose: str
) -> np.ndarray:
    """Return the part of each group, int64 (G,): each part gets its share of the images and of each class, or nearly.

    labels, groups: int64 (n,), each image's class and its group, from 0 to G-1. shares: one for each part; their sum
    is 1. spared: the parts that should not get all images of a class.

    Greedy, the largest groups first: each goes where the sum of squared deviations, each relative to the part's share,
    grows least. For equal shares, this is what scikit-learn's StratifiedGroupKFold does, but it counts the parts' sizes
    too and never holds a table of groups × classes. All arithmetic is rounded the same way everywhere, so the result
    is the same on every machine.
    """
    counts = _Counts.of(labels, groups)
    attempts = range(ATTEMPTS if len(counts.sizes) <= FEW_GROUPS else 1)
    dealt = [_attempt(counts, counts.order(seed, purpose, attempt), shares, spared) for attempt in attempts]
    return min(dealt, key=lambda attempt: attempt[0])[1]


def count_pairs(labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, int64 (m,) each: a group, a class that it has images of, and how many; sorted.

    labels, groups: int64 (n,), each image's.
    """
    num_classes = int(labels.max()) + 1
    pairs, images = np.unique(groups * num_classes + labels, return_counts=True)
    return pairs // num_classes, pairs % num_classes, images


@dataclass
class _Counts:
    """How many images each group has of each of its classes: lists, because Python loops over them."""

    classes: list[int]
    """The classes of group 0, then those of group 1, and so on."""
    images: list[int]
    """How many images the group has of each of these classes."""
    ends: list[int]
    """Where each group ends in classes and images."""
    sizes: list[int]
    """Images in each group."""
    in_class: list[int]
    """Images in each class."""

    @classmethod
    def of(cls, labels: np.ndarray, groups: np.ndarray) -> _Counts:
        of_group, classes, images = count_pairs(labels, groups)
        columns = classes, images, np.cumsum(np.bincount(of_group)), np.bincount(groups), np.bincount(labels)
        return cls(*(column.tolist() for column in columns))

    def order(self, seed: int, purpose: str, attempt: int) -> list[int]:
        """Return the groups, the largest first, and at random among those of similar size: within a factor of √2.

        In the exact order of size, the seed would hardly matter, and the same large groups would always be in train.
        """
        similar = np.frexp(np.array(self.sizes, float) ** 2)[1]
        bits = keys.numpy_generator(seed, f"groups {purpose}", attempt).bit_generator.random_raw(len(self.sizes))
        return np.lexsort((bits, -similar)).tolist()


def _attempt(
    counts: _Counts, order: Sequence[int], shares: Sequence[float], spared: Collection[int]
) -> tuple[float, np.ndarray]:
    """Deal the groups in this order. Return how far the parts are from their shares, and the part of each group.

    Of a + k images, the squared deviation from a target t, relative to t, is k (2a + k) / t more than of a, but for a
    constant. Classes count equally, so t is a share of 1, which is all of a class.
    """
    in_class, num_images = counts.in_class, sum(counts.sizes)
    of_size = WEIGHT_OF_SIZE * sum(total > 0 for total in in_class) / num_images**2
    there, sizes = [[0] * len(in_class) for _ in shares], [0] * len(shares)
    parts = np.empty(len(order), np.int64)
    for group in order:
        place = range(counts.ends[group - 1] if group else 0, counts.ends[group])
        size, least, chosen = counts.sizes[group], math.inf, 0
        for part, share in enumerate(shares):
            growth = size * (2 * sizes[part] + size) * of_size
            for i in place:
                total, more, now = in_class[counts.classes[i]], counts.images[i], there[part][counts.classes[i]]
                growth += more * (2 * now + more) / total**2
                if now + more == total and part in spared:
                    growth += WHOLE_CLASS
            if growth / share < least:
                least, chosen = growth / share, part
        parts[group] = chosen
        sizes[chosen] += size
        for i in place:
            there[chosen][counts.classes[i]] += counts.images[i]
    return _deviation(counts, there, sizes, shares, spared), parts


def _deviation(
    counts: _Counts,
    there: Sequence[Sequence[int]],
    sizes: Sequence[int],
    shares: Sequence[float],
    spared: Collection[int],
) -> float:
    """Return the sum of squared deviations. there, sizes: each part's images of each class, and of all."""

    def squared(share: float, expected: float) -> float:
        return (share - expected) * (share - expected) / expected  # ** 2 rounds as the machine's C library does

    num_images, found = sum(counts.sizes), []
    classes = [label for label, total in enumerate(counts.in_class) if total]
    for part, share in enumerate(shares):
        found.append(WEIGHT_OF_SIZE * len(classes) * squared(sizes[part] / num_images, share))
        found += [squared(there[part][label] / counts.in_class[label], share) for label in classes]
        if part in spared:
            found.append(WHOLE_CLASS * sum(there[part][label] == counts.in_class[label] for label in classes))
    return math.fsum(found)
