"""Decides which images are for training, validation and test if the data set itself does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.folds import refuse_single
from distcls.data.sources.image_set import Groups
from distcls.data.whole_groups import GroupedImages
from distcls.errors import UsageError


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


def cut_splits(
    labels: Mapping[str, np.ndarray],
    config: DataConfig,
    class_names: Sequence[str] = (),
    groups: Mapping[str, Groups] | None = None,
) -> dict[str, tuple[str, np.ndarray]]:
    """Return, for each of train, val and test, the image set it comes from and its positions in that set.

    labels holds the labels of each image set, by split name. A missing test split is cut from train first,
    then a missing val split from the rest; a share of zero images makes no split. With data.folds, val is
    one fold of the rest. Raises UsageError if data.folds is set but the data has a val split, or too few images.
    class_names: if given, also if some fold, not only this one, leaves a class without training images.
    groups: those of each image set (find_groups), if data.groups is set: no group is cut, so shares are not exact.
    Then also raises UsageError if a split would be empty.
    """
    assert groups or config.groups is None, "whoever cuts these splits has to pass the groups"
    if config.folds is not None and "val" in labels:
        raise UsageError(
            "data.folds cuts val from the training images, but this data has a val split of its own. "
            "Move its images to train, or leave out data.folds"
        )
    splits = {name: (name, np.arange(len(of_set))) for name, of_set in labels.items()}
    for name, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        fold = None
        if name == "val" and config.folds is not None and config.fold is not None:
            fold = config.folds, config.fold
        if name in labels or (fraction == 0 and fold is None):
            continue
        rows = splits["train"][1]
        if groups:
            images = GroupedImages.of(labels["train"], groups["train"], rows, config)
            kept, held_out = images.hold_out(name, fraction) if fold is None else images.cut_fold(*fold, class_names)
        elif fold is None:
            kept, held_out = hold_out(labels["train"][rows], fraction, config.split_seed, name)
        else:
            if fold[0] > len(rows):
                raise UsageError(
                    f"data.folds={config.folds} is more than the {len(rows):,} images to cut them from"
                    f"{' once the test images are held out' if 'test' in splits else ''}: some folds would be empty. "
                    f"Use data.folds={len(rows)} or fewer"
                )
            if class_names:
                now, before = np.bincount(labels["train"][rows]), np.bincount(labels["train"])
                refuse_single("image", now, before, fold[0], class_names, others="images")
            kept, held_out = cut_fold(labels["train"][rows], *fold, config.split_seed)
        if len(held_out):
            splits["train"], splits[name] = ("train", rows[kept]), ("train", rows[held_out])
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}
