"""Reads labeled images from a folder with one subfolder per class."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import HEIF_INSTALL, Decoding, decode, read_image_file
from distcls.data.sources.image_set import Groups, ImageSet, digest
from distcls.data.sources.listing import (
    HEIC_EXTENSIONS,
    IMAGE_EXTENSIONS,
    Listing,
    holds_runs,
    list_images,
    num_files,
    subfolders,
)
from distcls.errors import BadDataError, MissingInputError, UsageError, some_of

# Names of split folders, in lower case.
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
FURTHER_SPLIT_FOLDERS = {"training": "train", "dev": "val", "testing": "test"}
"""Names that count as a split only if no better one exists and they contain class folders."""
SPLIT_WORDS = {
    *("train", "training", "trainset", "test", "testing", "testset", "val", "valid", "validation", "valset", "dev"),
    *("pred", "prediction", "predictions"),
}
"""Whole words of folders that are splits: "seg_train" and "test1", but not "naval_ship"."""

WORDS_BESIDE_TRAIN = ("test", "val", "dev", "pred")
"""Parts of names that, beside a folder with "train" in its name, speak of a split."""

# Signs of a layout that another opener reads: a path under the root, and the data.name of that opener.
NAMED_LAYOUTS = {
    "val/images/val_0.JPEG": "tiny_imagenet",
    "val/ILSVRC2012_val_00000001.JPEG": "imagenet",
    "ILSVRC/Data/CLS-LOC": "imagenet",
}

SHOWN_FOLDERS = 5  # in an error message

LAYOUTS = "Expected ROOT/CLASS/image.jpg, or ROOT/train/CLASS/image.jpg with optional val/ and test/ beside train/."


@dataclass
class FolderSet:
    """Image files of one split. Paths are kept in a single bytes object: for ImageNet, 30 MB instead of 150."""

    root: str
    folders: list[str]
    """The folder of each class under root, such as "train/cat"; "" if a class has no folder."""
    class_names: list[str]
    labels: np.ndarray
    sizes: np.ndarray
    """int64 (N,), bytes of each file."""
    paths: bytes
    """Paths relative to their class folders, concatenated."""
    path_ends: np.ndarray
    """int64 (N,), where each path ends in `paths`."""
    modified: str
    """Digest of the files' modification times: part of the key of decoded images, but not of the fingerprint,
    because a copy of the folder on another machine is the same data."""
    stamp: str
    """Digest of the times at which files were last moved or replaced. Images decoded under another stamp are only used
    if the file contents match: two files of equal size and modification time may have been swapped."""
    num_ignored: int
    """The number of files that are not images, judging by their names, or are beside the class folders, where a folder
    of runs counts as one."""
    groups: Groups | None = None
    """Which images belong together, if a column of a CSV file says so, until the splits are cut (forget_groups)."""

    def __post_init__(self) -> None:
        """Raise MissingInputError if HEIC files cannot be read: a run has the same images on every machine."""
        extension = "|".join(map(re.escape, HEIC_EXTENSIONS)).encode()
        found = [match.end() for match in re.finditer(extension, self.paths.lower())]  # IMG_1.heic.jpg is a JPEG file
        if np.isin(found, self.path_ends).any() and importlib.util.find_spec("pillow_heif") is None:
            raise MissingInputError(
                f"{self.root} has HEIC files (an iPhone's format). Install what reads them, {HEIF_INSTALL}, or convert "
                "them to JPEG and move the originals out of the folder"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        """Return uint8 (H, W, 3), see ImageSet. Raises BadImageError."""
        return decode(os.path.join(self.root, self.name(i)), decoding)

    def content(self, i: int) -> bytes:
        """Return the bytes of a file, for both decoding and hashing. Raises BadImageError if it cannot be read."""
        return read_image_file(os.path.join(self.root, self.name(i)))

    def name(self, i: int) -> str:
        """Return the path under root, such as train/cat/17.jpg."""
        start = self.path_ends[i - 1] if i else 0
        path = os.fsdecode(self.paths[start : self.path_ends[i]])
        return os.path.join(self.folders[self.labels[i]], path)

    def names(self) -> Iterator[str]:
        """Yield what `name` returns for each image, in a third of the time."""
        prefixes, start = [os.path.join(folder, "") for folder in self.folders], 0
        for label, end in zip(self.labels.tolist(), self.path_ends.tolist(), strict=True):
            yield prefixes[label] + os.fsdecode(self.paths[start:end])
            start = end

    def fingerprint(self) -> str:
        """Return a digest of classes, relative paths, file sizes and labels, for which no file is read."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        layout = json.dumps(self.folders).encode()
        return digest(self.class_names, layout, self.labels, self.sizes, self.path_ends, self.paths)


def open_folder(config: DataConfig) -> dict[str, ImageSet]:
    """Return the images in a folder, in one of the LAYOUTS.

    Raises MissingInputError if the folder does not exist, and BadDataError if it cannot be trained on.
    """
    root = existing_root(config)
    _refuse_named_layouts(root)
    split_folders = _split_folders(root)
    is_whole = split_folders == {"train": ""}
    names = class_folders(os.path.join(root, split_folders["train"]), least=1 if is_whole else 2)
    if is_whole:
        _refuse_splits_as_classes(root, names)
    return {split: list_class_folders(root, folder, names, names) for split, folder in split_folders.items()}


def existing_root(config: DataConfig) -> str:
    """Return data.root as an absolute path. Raises UsageError if it is not set, MissingInputError if not a folder."""
    if config.root is None:
        raise UsageError(f"data.name={config.name} needs the folder that holds your images: --data DIR")
    root = os.path.abspath(os.path.expanduser(config.root))
    if not os.path.isdir(root):
        found = "is not a folder" if os.path.exists(root) else "does not exist"
        raise MissingInputError(f"the image folder {root} {found}. Give the folder that holds your images: --data DIR")
    return root


def existing_file(config: DataConfig) -> str:
    """Return data.root as an absolute path. Raises UsageError if it is not set, MissingInputError if not a file."""
    example = f"--data FILE.{config.name}"
    if config.root is None:
        raise UsageError(f"data.name={config.name} needs the file of your images: {example}")
    file = os.path.abspath(os.path.expanduser(config.root))
    if not os.path.isfile(file):
        found = "is a folder" if os.path.isdir(file) else "is not a file" if os.path.exists(file) else "does not exist"
        raise MissingInputError(f"{file} {found}. Give the file of your images: {example}")
    return file


def _refuse_named_layouts(root: str) -> None:
    """Raise UsageError for layouts that, read as class folders, would fail or give the wrong classes."""
    for path, name in NAMED_LAYOUTS.items():
        if os.path.exists(os.path.join(root, path)):
            raise UsageError(f"{root} has the layout of {name} (it contains {path}): add data.name={name}")


def _split_folders(root: str) -> dict[str, str]:
    """Return each split's folder under root; {"train": ""} if root itself holds the class folders."""
    found: dict[str, str] = {}
    for folder in subfolders(root):
        split = SPLIT_FOLDERS.get(folder.lower())
        if split in found:
            raise BadDataError(
                f"{root} has {found[split]}/ and {folder}/, both for the {split} split: keep one of them"
            )
        if split:
            found[split] = folder
    further = {
        split: folder
        for folder in subfolders(root)
        if (split := FURTHER_SPLIT_FOLDERS.get(folder.lower())) and subfolders(os.path.join(root, folder))
    }
    if "train" in found or "train" in further:
        found |= {split: folder for split, folder in further.items() if split not in found}
    with_classes = [split for split, folder in found.items() if subfolders(os.path.join(root, folder))]
    if "train" in with_classes:
        return found
    if with_classes:  # otherwise test/cat/1.jpg would become an image of a class "test"
        raise MissingInputError(f"{root} has {found[with_classes[0]]}/ but no train/ with class folders. {LAYOUTS}")
    return {"train": ""}


def _refuse_splits_as_classes(root: str, names: list[str]) -> None:
    """Raise UsageError for splits that look like classes.

    From seg_train/ and seg_test/, a model would learn which images are in test.
    """
    trains = [name for name in names if "train" in name.lower()]
    others = [name for name in names if any(word in name.lower() for word in WORDS_BESIDE_TRAIN)]
    if not 1 < len(names) <= 3 or not trains or not others:
        return
    inner = [subfolders(os.path.join(root, name)) for name in names]
    are_alike = len(inner[0]) > 1 and all(folders == inner[0] for folders in inner)
    if not are_alike and not all(SPLIT_WORDS.intersection(re.findall("[a-z]+", name.lower())) for name in names):
        return
    each = f", each with the folders {some_of(inner[0], SHOWN_FOLDERS)}" if are_alike else ""
    parent = _parent_of_classes(os.path.join(root, trains[0]))
    if are_alike:
        advice = "Rename them to train, val and test, or create links with these names."
    elif parent:
        advice = (
            f"To train on the classes in {os.path.relpath(parent, root)}: --data {parent}. To keep the splits, move or "
            "link the class folders of each to ROOT/train/CLASS, ROOT/val/CLASS and ROOT/test/CLASS."
        )
    else:
        advice = (
            f"{os.path.join(root, trains[0])} has no class folders to give the labels: list its images in a CSV file "
            "with the columns path,label and type --data labels.csv, or move them to ROOT/train/CLASS."
        )
    raise UsageError(
        f"{root} has the folders {', '.join(names)}{each}: these look like splits, not classes. {advice} "
        "If they really are classes, rename these folders."
    )


def _parent_of_classes(folder: str) -> str | None:
    """Return the folder that holds class folders: this one, or the only one in it. None if neither does."""
    inner = subfolders(folder)
    if len(inner) == 1:  # archives are often unpacked into a folder of the same name
        folder = os.path.join(folder, inner[0])
        inner = subfolders(folder)
    return folder if len(inner) > 1 else None


def class_folders(folder: str, least: int = 2) -> list[str]:
    """Return the names of the class folders in a folder; runs are none. Raises BadDataError if fewer than `least`."""
    names = [name for name in subfolders(folder) if not holds_runs(os.path.join(folder, name))]
    if not names:
        raise BadDataError(f"{folder} has no class folders. {LAYOUTS}")
    if len(names) < least:
        raise BadDataError(f"{folder} has only one class folder, {names[0]}/: training needs at least two. {LAYOUTS}")
    return names


def list_class_folders(root: str, split_folder: str, class_folders: list[str], class_names: list[str]) -> FolderSet:
    """Return the images of a split that has one folder per class; class_names are the names to use for class_folders.

    Raises BadDataError for a folder not in class_folders, unless it holds runs, and for one without images.
    """
    folder = os.path.join(root, split_folder)
    labels = {name: label for label, name in enumerate(class_folders)}
    listings: dict[int, Listing] = {}
    num_strays = num_files(folder)
    for name in subfolders(folder):
        if name in labels:
            listings[labels[name]] = list_images(os.path.join(folder, name))
        elif holds_runs(os.path.join(folder, name)):
            num_strays += 1
        else:
            raise BadDataError(_unknown_class(folder, name, class_folders))
    _refuse_empty({os.path.join(folder, class_folders[label]): listing for label, listing in listings.items()})
    if not listings:
        raise BadDataError(
            f"{folder} has no class folders. Add some, or remove it and distcls cuts this split from train"
        )
    return pack(
        root=root,
        folders=[os.path.join(split_folder, name) for name in class_folders],
        class_names=class_names,
        labels=np.repeat(np.array(list(listings), np.int64), [len(listing) for listing in listings.values()]),
        listings=list(listings.values()),
        num_strays=num_strays,
    )


def _unknown_class(folder: str, name: str, class_names: list[str]) -> str:
    known = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
    return (
        f"{os.path.join(folder, name)} is a class without training images (the classes are {known}). "
        "Rename or remove the folder, or add the class to train/"
    )


def _refuse_empty(listings: dict[str, Listing]) -> None:
    empty = {folder: listing for folder, listing in listings.items() if len(listing) == 0}
    if not empty:
        return
    shown = ", ".join(list(empty)[:SHOWN_FOLDERS]) + (", …" if len(empty) > SHOWN_FOLDERS else "")
    have = f"class folder {shown} has" if len(empty) == 1 else f"{len(empty):,} class folders {shown} have"
    others = [os.path.join(folder, listing.ignored[0]) for folder, listing in empty.items() if listing.ignored]
    raise BadDataError(
        f"the {have} no images ({' '.join(IMAGE_EXTENSIONS)}){f', but {others[0]} for example' if others else ''}. "
        "Add images, or remove empty folders"
    )


def pack(
    root: str,
    folders: list[str],
    class_names: list[str],
    labels: np.ndarray,
    listings: list[Listing],
    num_strays: int = 0,
    groups: Groups | None = None,
) -> FolderSet:
    """Return the files of several listings as one split; labels are int64, one per file.

    num_strays: how many files outside the listings are ignored. groups: see FolderSet.
    """
    return FolderSet(
        root=root,
        folders=folders,
        class_names=class_names,
        labels=labels,
        sizes=np.concatenate([listing.sizes for listing in listings]),
        paths=b"".join(listing.paths for listing in listings),
        path_ends=np.cumsum(np.concatenate([listing.lengths for listing in listings])),
        modified=digest([], *(listing.changed for listing in listings)),
        stamp=digest([], *(listing.moved for listing in listings)),
        num_ignored=num_strays + sum(len(listing.ignored) for listing in listings),
        groups=groups,
    )
