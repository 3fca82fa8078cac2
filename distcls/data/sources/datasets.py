"""Turns `data.name` into labeled images, from the data sets that distcls knows or from your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from distcls.config.imports import import_by_name
from distcls.config.settings import DataConfig
from distcls.config.wording import nearest
from distcls.data.sources.csv_manifest import open_csv
from distcls.data.sources.digits import open_digits
from distcls.data.sources.folder import LAYOUTS, existing_file, existing_root, open_folder
from distcls.data.sources.image_set import ImageSet
from distcls.data.sources.imagenet import open_imagenet, open_tiny_imagenet
from distcls.data.sources.npz import open_npz
from distcls.data.sources.synthetic import open_synthetic
from distcls.data.sources.torchvision_sets import open_cifar10, open_fashion_mnist, open_mnist, open_stl10
from distcls.errors import BadDataError, UsageError

DATASETS: dict[str, Callable[[DataConfig], dict[str, ImageSet]]] = {
    "digits": open_digits,
    "folder": open_folder,
    "csv": open_csv,
    "npz": open_npz,
    "imagenet": open_imagenet,
    "tiny_imagenet": open_tiny_imagenet,
    "cifar10": open_cifar10,
    "mnist": open_mnist,
    "fashion_mnist": open_fashion_mnist,
    "stl10": open_stl10,
    "synthetic": open_synthetic,
}

IN_A_FOLDER, IN_A_FILE = ("folder", "imagenet", "tiny_imagenet"), ("csv", "npz")
"""Data sets for which data.root must say where they are."""

SPLITS = ("train", "val", "test")


def open_image_sets(config: DataConfig, least_classes: int = 2) -> dict[str, ImageSet]:
    """Open the image sets of data.name, and return them by split; train is always included.

    least_classes: one class is enough to measure a model, but not to learn from.

    A name with a colon, my_pkg.module:factory, is imported and called with the DataConfig. It returns a dict like
    this one, or a single ImageSet to cut splits from. Raises UsageError, BadDataError, and whatever the opener raises.
    """
    opened = _opener(config.name)(config)
    image_sets = dict(opened) if isinstance(opened, Mapping) else {"train": opened}
    if "train" not in image_sets or not set(image_sets) <= set(SPLITS):
        raise UsageError(
            f"{config.name} returned the splits {list(image_sets)}: expected train, and optionally val and test"
        )
    for split, image_set in image_sets.items():
        _check(config.name, split, image_set, image_sets["train"])
    class_names = image_sets["train"].class_names
    if len(class_names) < least_classes:
        problem = f"has only one class, {class_names[0]!r}: training needs at least two."
        layouts = f" {LAYOUTS}" if config.name == "folder" else ""
        raise BadDataError(f"{config.root or config.name} {problem}{layouts}")
    return {split: image_sets[split] for split in SPLITS if split in image_sets}


def check_source(config: DataConfig) -> None:
    """Raise UsageError for a data.name that is not known, MissingInputError where data.root does not exist."""
    _opener(config.name)
    if config.name in IN_A_FOLDER:
        existing_root(config)
    elif config.name in IN_A_FILE:
        existing_file(config)


def _opener(name: str) -> Callable[[DataConfig], dict[str, ImageSet]]:
    if name in DATASETS:
        return DATASETS[name]
    if ":" in name:
        return import_by_name("data.name", name)
    known = f"Known: {', '.join(DATASETS)}, my_pkg.module:factory"
    raise UsageError(f"data.name={name} is not known.{nearest(name, DATASETS)} {known}")


def _check(name: str, split: str, image_set: ImageSet, train: ImageSet) -> None:
    """Catch mistakes in your own data set early, while they can still be explained."""
    needed = ("class_names", "labels", "__len__", "image", "name", "fingerprint")
    missing = [attribute for attribute in needed if not hasattr(image_set, attribute)]
    if missing:
        raise UsageError(
            f"the {split} split of {name} lacks {', '.join(missing)}: see distcls.data.sources.image_set.ImageSet"
        )
    if len(set(train.class_names)) != len(train.class_names):
        twice = next(name for name in train.class_names if train.class_names.count(name) > 1)
        raise BadDataError(f"{name} has two classes named {twice!r}: give each its own name")
    if image_set.class_names != train.class_names:
        raise BadDataError(f"the {split} split of {name} has different class names than train, or a different order")
    if len(image_set) == 0:
        raise BadDataError(f"the {split} split of {name} has no images")
    _take_labels_as_array(name, split, image_set)
    labels, classes = image_set.labels, len(train.class_names)
    if labels.min() < 0 or labels.max() >= classes:
        raise BadDataError(f"labels of the {split} split of {name} must be between 0 and {classes - 1}")


def _take_labels_as_array(name: str, split: str, image_set: ImageSet) -> None:
    """Convert labels from a list or tensor to an array, which the rest of the code relies on."""
    given, expected = image_set.labels, (len(image_set),)
    try:
        labels = np.asarray(given)
        if labels.dtype.kind in "iu" and labels.shape == expected:
            labels = labels.astype(np.int64, copy=False)
            if labels is not given:
                image_set.labels = labels
            return
    except (TypeError, ValueError, RuntimeError, AttributeError):  # ragged, on a GPU, or read-only
        pass
    is_array = isinstance(given, np.ndarray)
    found = f"{given.dtype} {given.shape}" if is_array else f"a {type(given).__name__}"
    raise BadDataError(
        f"labels of the {split} split of {name} are {found}, not an int64 array of shape {expected}: "
        "np.array(labels, np.int64)"
    )
