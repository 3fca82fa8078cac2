"""Reads ImageNet and Tiny ImageNet as published, where the labels of val are in a file instead of folder names."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.sources.folder import FolderSet, class_folders, existing_root, list_class_folders, pack
from distcls.data.sources.image_set import ImageSet
from distcls.data.sources.listing import list_images, subfolders
from distcls.errors import BadDataError, MissingInputError

KAGGLE_FOLDER = "ILSVRC/Data/CLS-LOC"
DEVKIT = "ILSVRC2012_devkit_t12/data"

IMAGENET_LAYOUT = (
    "Expected ROOT/train/n01440764/*.JPEG and ROOT/val, either with folders like train's, or flat "
    f"(ILSVRC2012_val_00000001.JPEG …) with ROOT/LOC_val_solution.csv or ROOT/{DEVKIT} for the labels. "
    f"ROOT may also contain {KAGGLE_FOLDER}, as Kaggle's archive does"
)
TINY_LAYOUT = "Expected ROOT/train/n01443537/images/*.JPEG, ROOT/val/images and ROOT/val/val_annotations.txt"


def open_imagenet(config: DataConfig) -> dict[str, ImageSet]:
    """Return ImageNet-1k: train, and val if present. The test images have no labels and are ignored.

    Classes are in the order of their WordNet ids, as in all published models, with readable names if there is a
    LOC_synset_mapping.txt. Raises MissingInputError and BadDataError.
    """
    root = existing_root(config)
    images = KAGGLE_FOLDER if os.path.isdir(os.path.join(root, KAGGLE_FOLDER)) else ""
    wnids = _wnids(os.path.join(root, images, "train"), IMAGENET_LAYOUT)
    names = _readable(wnids, _read_names(os.path.join(root, "LOC_synset_mapping.txt"), " "))
    image_sets = {"train": list_class_folders(root, os.path.join(images, "train"), wnids, names)}
    val = os.path.join(images, "val")
    if not os.path.isdir(os.path.join(root, val)):
        return dict(image_sets)
    if subfolders(os.path.join(root, val)):
        image_sets["val"] = list_class_folders(root, val, wnids, names)
    else:
        image_sets["val"] = _list_flat(root, val, _imagenet_val_labels(root, os.path.join(root, val)), wnids, names)
    return dict(image_sets)


def open_tiny_imagenet(config: DataConfig) -> dict[str, ImageSet]:
    """Return Tiny ImageNet (200 classes, 64x64 pixels): train and val. The test images have no labels and are ignored.

    Classes are in the order of their WordNet ids, with readable names if there is a words.txt.
    """
    root = existing_root(config)
    wnids = _wnids(os.path.join(root, "train"), TINY_LAYOUT)
    names = _readable(wnids, _read_names(os.path.join(root, "words.txt"), "\t"))
    image_sets = {"train": list_class_folders(root, "train", wnids, names)}
    annotations = os.path.join(root, "val", "val_annotations.txt")
    if os.path.isdir(os.path.join(root, "val", "images")):
        labels = {line[0]: line[1] for line in _read_table(annotations, "\t", TINY_LAYOUT) if len(line) > 1}
        image_sets["val"] = _list_flat(root, "val/images", labels, wnids, names)
    elif os.path.isdir(os.path.join(root, "val")):
        image_sets["val"] = list_class_folders(root, "val", wnids, names)
    return dict(image_sets)


def _wnids(train: str, layout: str) -> list[str]:
    if not os.path.isdir(train):
        raise MissingInputError(f"there is no folder {train}. {layout}")
    return class_folders(train)


def _imagenet_val_labels(root: str, val: str) -> dict[str, str]:
    """Return the WordNet id of each file name, from whichever file of labels is there."""
    for folder in (root, val):
        solution = os.path.join(folder, "LOC_val_solution.csv")
        if os.path.isfile(solution):
            rows = _read_table(solution, ",", IMAGENET_LAYOUT)[1:]
            return {f"{name}.JPEG": boxes.split()[0] for name, boxes, *_ in rows}
    if os.path.isdir(os.path.join(root, DEVKIT)):
        return _devkit_labels(os.path.join(root, DEVKIT))
    raise MissingInputError(f"the images in {val} have no labels. {IMAGENET_LAYOUT}")


def _devkit_labels(folder: str) -> dict[str, str]:
    """Return the WordNet id of each file name: the devkit numbers them, and a MATLAB file says which id is which."""
    from scipy.io import loadmat

    truth = _read_table(os.path.join(folder, "ILSVRC2012_validation_ground_truth.txt"), ",", IMAGENET_LAYOUT)
    meta = os.path.join(folder, "meta.mat")
    if not os.path.isfile(meta):
        raise MissingInputError(f"there is no {meta}. {IMAGENET_LAYOUT}")
    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    return {f"ILSVRC2012_val_{number:08}.JPEG": wnids[int(line[0])] for number, line in enumerate(truth, 1)}


def _list_flat(root: str, folder: str, labels: Mapping[str, str], wnids: list[str], names: list[str]) -> FolderSet:
    """Return the images of a split that is one flat folder; labels: WordNet id by file name."""
    listing = list_images(os.path.join(root, folder))
    if len(listing) == 0:
        raise BadDataError(
            f"{os.path.join(root, folder)} has no images. Add some, or remove it and distcls cuts val from train"
        )
    ids = {wnid: label for label, wnid in enumerate(wnids)}
    label_of_each = []
    for path in listing.split_paths():
        wnid = labels.get(path)
        if wnid is None:
            raise BadDataError(f"{os.path.join(root, folder, path)} is missing from the file of val labels")
        if wnid not in ids:
            raise BadDataError(
                f"{os.path.join(root, folder, path)} has the class {wnid}, but there is no such folder in train/"
            )
        label_of_each.append(ids[wnid])
    return pack(root, [folder] * len(names), names, np.array(label_of_each, np.int64), [listing])


def _read_names(file: str, separator: str) -> dict[str, str]:
    """Return the name of each id, "tench" for "n01440764 tench, Tinca tinca"; empty if there is no such file."""
    if not os.path.isfile(file):
        return {}
    lines = [line for line in _read_table(file, separator, "") if len(line) > 1]
    return {wnid: separator.join(words).split(",")[0].strip() for wnid, *words in lines}


def _readable(wnids: list[str], names: Mapping[str, str]) -> list[str]:
    """Return a name for each class; equal names, such as the two cranes (bird and machine), include the WordNet id."""
    found = [names.get(wnid, wnid) for wnid in wnids]
    count = Counter(found)
    return [name if count[name] == 1 else f"{name} ({wnid})" for wnid, name in zip(wnids, found, strict=True)]


def _read_table(file: str, separator: str, layout: str) -> list[list[str]]:
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            return [line for line in csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE) if line]
    except (OSError, UnicodeDecodeError) as error:
        raise MissingInputError(f"cannot read {file}: {error}. {layout}") from error
