"""Holds out a share of the images, or a fold, with as many of each class as its share says."""

from __future__ import annotations

import numpy as np


def hold_out(labels: np.ndarray, fraction: float, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a stratified share of the images: return (kept, held out) positions in labels, int64, sorted.

    The total is exact, rounded half up; each class is within one image of its share and keeps at least one.
    Our own code, because scikit-learn takes seconds to import. Random numbers come from PCG64's raw stream,
    which numpy promises never to change, unlike its `permutation`.
    """
    by_class = _shuffled_by_class(labels, seed, purpose)
    counts = np.bincount(labels)
    chosen = zip(np.cumsum(counts) - counts, _held_out_counts(counts, fraction), strict=True)
    is_held_out = np.zeros(len(labels), bool)
    for start, count in chosen:
        is_held_out[by_class[start : start + count]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def cut_fold(labels: np.ndarray, folds: int, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stratified k-fold: return (the other folds, this fold) as positions in labels, int64, sorted.

    Images are dealt to the folds from one shuffled order, class by class. So each image is in exactly one fold, and
    folds differ by at most one image, both in size and in how many they have of a class.
    """
    fold_of = np.empty(len(labels), np.int64)
    fold_of[_shuffled_by_class(labels, seed, "fold")] = np.arange(len(labels)) % folds
    return np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def _shuffled_by_class(labels: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Return positions in labels, int64: class 0 in random order, then class 1, and so on."""
    shuffled = np.argsort(_random_bits(len(labels), seed, purpose), kind="stable")
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def _random_bits(count: int, seed: int, purpose: str) -> np.ndarray:
    return np.random.PCG64(np.random.SeedSequence([seed, *purpose.encode()])).random_raw(count)


def _held_out_counts(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Return how many images of each class to hold out, rounding up the largest remainders until the total is exact."""
    most = np.maximum(counts - 1, 0)
    exact = counts * fraction
    held_out = np.minimum(np.floor(exact).astype(np.int64), most)
    total = min(int(np.floor(exact.sum() + 0.5)), int(most.sum()))
    for _ in range(total - int(held_out.sum())):
        held_out[np.argmax(np.where(held_out < most, exact - held_out, -np.inf))] += 1
    return held_out
