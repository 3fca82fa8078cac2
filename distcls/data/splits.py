"""Which images are for training, validation and test, where the data set itself does not say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distcls.config import DataConfig


def hold_out(labels: np.ndarray, fraction: float, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a stratified share of images off: (kept, held out) positions in labels, int64, sorted.

    The share holds in total, rounded half up, and in every class to one image; every class keeps one.
    Own code because scikit-learn's takes seconds to import. Drawn from PCG64's raw stream, which numpy
    promises never to change, unlike its `permutation`.
    """
    shuffled = np.argsort(_random_bits(len(labels), seed, purpose), kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    chosen = zip(np.cumsum(counts) - counts, _held_out_counts(counts, fraction), strict=True)
    is_held_out = np.zeros(len(labels), bool)
    for start, count in chosen:
        is_held_out[by_class[start : start + count]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _random_bits(count: int, seed: int, purpose: str) -> np.ndarray:
    return np.random.PCG64(np.random.SeedSequence([seed, *purpose.encode()])).random_raw(count)


def _held_out_counts(counts: np.ndarray, fraction: float) -> np.ndarray:
    """How many of each class: the largest remainders are rounded up until the total is exact."""
    most = np.maximum(counts - 1, 0)
    exact = counts * fraction
    held_out = np.minimum(np.floor(exact).astype(np.int64), most)
    total = min(int(np.floor(exact.sum() + 0.5)), int(most.sum()))
    for _ in range(total - int(held_out.sum())):
        held_out[np.argmax(np.where(held_out < most, exact - held_out, -np.inf))] += 1
    return held_out


def cut_splits(labels: Mapping[str, np.ndarray], config: DataConfig) -> dict[str, tuple[str, np.ndarray]]:
    """Says for train, val and test which image set they come from and which of its images they are.

    labels holds those of each image set, by the name of its split. A missing test split is cut from
    train first, then a missing val split from what is left; a share of no images gives no split.
    """
    splits = {name: (name, np.arange(len(of_set))) for name, of_set in labels.items()}
    for name, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if name in labels:
            continue
        rows = splits["train"][1]
        kept, held_out = hold_out(labels["train"][rows], fraction, config.split_seed, name)
        if len(held_out):
            splits["train"], splits[name] = ("train", rows[kept]), ("train", rows[held_out])
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}
