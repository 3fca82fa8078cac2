"""Decides which images are for training, validation and test if the data set itself does not say."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.sources.image_set import Groups
from distcls.data.splitting.folds import refuse_single
from distcls.data.splitting.stratify import cut_fold, hold_out
from distcls.data.splitting.whole_groups import GroupedImages
from distcls.errors import UsageError


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
    for name, fraction in splits_to_cut(config, labels).items():
        fold = None
        if name == "val" and config.folds is not None and config.fold is not None:
            fold = config.folds, config.fold
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


def splits_to_cut(config: DataConfig, existing: Container[str]) -> dict[str, float]:
    """Return the splits to be cut from train, in this order, and the fraction that each gets unless it is a fold."""
    fractions = {"test": config.test_fraction, "val": config.val_fraction}
    return {
        name: fraction
        for name, fraction in fractions.items()
        if name not in existing and (fraction > 0 or (name == "val" and config.fold is not None))
    }
