"""A folder of images, with one folder per class, as a source of labelled images."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import Decoding, decode, read_image_file
from distcls.data.sources.image_set import ImageSet, digest
from distcls.data.sources.listing import IMAGE_EXTENSIONS, Listing, list_images, num_files, subfolders
from distcls.errors import BadDataError, MissingInputError, UsageError, some_of

# Folder names, in lower case, that stand for a split.
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
FURTHER_SPLIT_FOLDERS = {"training": "train", "dev": "val", "testing": "test"}
"""Those that stand for one only where there is no better name, and class folders in them."""

# What tells a layout that has an opener of its own: a path under the root, and its data.name.
NAMED_LAYOUTS = {
    "val/images/val_0.JPEG": "tiny_imagenet",
    "val/ILSVRC2012_val_00000001.JPEG": "imagenet",
    "ILSVRC/Data/CLS-LOC": "imagenet",
}

SHOWN_FOLDERS = 5  # in an error message

LAYOUTS = "Expected ROOT/CLASS/image.jpg, or ROOT/train/CLASS/image.jpg with val/ and test/ beside train/ if you like."


@dataclass
class FolderSet:
    """Image files of one split. Paths are kept as one string of bytes: ImageNet's take 30 MB, not 150."""

    root: str
    folders: list[str]
    """Under root, the folder of each class, such as "train/cat"; "" where its files have none of their own."""
    class_names: list[str]
    labels: np.ndarray
    sizes: np.ndarray
    """int64 (N,), bytes of each file."""
    paths: bytes
    """Paths under the folder of their class, one after the other."""
    path_ends: np.ndarray
    """int64 (N,), where each path ends in `paths`."""
    modified: str
    """Digest of the files' times of change: in the key of decoded images, but not in the fingerprint, for
    a copy of the folder on another machine is the same data."""
    stamp: str
    """Digest of the times at which files were last moved or replaced. What was decoded under another one belongs to
    these files only if their content says so: files of one size and time of change may have been swapped."""
    num_ignored: int
    """Files that are no images by their names, or lie beside the class folders."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        """uint8 (H, W, 3), see ImageSet; raises BadImageError."""
        return decode(os.path.join(self.root, self.name(i)), decoding)

    def content(self, i: int) -> bytes:
        """The bytes of a file, for decoding and hashing at once. Raises BadImageError where there is no such file."""
        return read_image_file(os.path.join(self.root, self.name(i)))

    def name(self, i: int) -> str:
        """Path under root, such as train/cat/17.jpg."""
        start = self.path_ends[i - 1] if i else 0
        path = os.fsdecode(self.paths[start : self.path_ends[i]])
        return os.path.join(self.folders[self.labels[i]], path)

    def fingerprint(self) -> str:
        """Digest of classes, relative paths, file sizes and labels: of all that can be known without reading files."""
        layout = json.dumps(self.folders).encode()
        return digest(self.class_names, layout, self.labels, self.sizes, self.path_ends, self.paths)


def open_folder(config: DataConfig) -> dict[str, ImageSet]:
    """Lists a folder of images; see LAYOUTS for what it may look like.

    Raises MissingInputError where there is none, BadDataError where it cannot be trained on.
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
    """data.root as an absolute path. Raises UsageError where it is not set, MissingInputError where it is no folder."""
    if config.root is None:
        raise UsageError(f"data.name={config.name} needs to know where your images are: --data DIR")
    root = os.path.abspath(os.path.expanduser(config.root))
    if not os.path.isdir(root):
        found = "is not a folder" if os.path.exists(root) else "does not exist"
        raise MissingInputError(f"the image folder {root} {found}. Name the one that holds your images: --data DIR")
    return root


def _refuse_named_layouts(root: str) -> None:
    """Read as class folders, these would fail, or give other classes than they have."""
    for path, name in NAMED_LAYOUTS.items():
        if os.path.exists(os.path.join(root, path)):
            raise UsageError(f"{root} has the layout of {name} (there is {path}): add data.name={name}")


def _split_folders(root: str) -> dict[str, str]:
    """Folder under root of each split; {"train": ""} where root itself holds the class folders."""
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
    if with_classes:  # without this, test/cat/1.jpg would be an image of a class "test"
        raise MissingInputError(f"{root} has {found[with_classes[0]]}/ but no train/ with class folders. {LAYOUTS}")
    return {"train": ""}


def _refuse_splits_as_classes(root: str, names: list[str]) -> None:
    """seg_train/ and seg_test/, each with the same folders, are no two classes: a model would learn who is in test."""
    trains = [name for name in names if "train" in name.lower()]
    others = [name for name in names if any(word in name.lower() for word in ("test", "val", "dev"))]
    if len(names) > 3 or not trains or not others:
        return
    inner = [subfolders(os.path.join(root, name)) for name in names]
    if len(inner[0]) > 1 and all(folders == inner[0] for folders in inner):
        raise UsageError(
            f"{root} has the folders {', '.join(names)}, each with the folders {some_of(inner[0], SHOWN_FOLDERS)}"
            ": these look like splits, not like classes. Rename them, or "
            "make links to them, as train, val and test."
        )


def class_folders(folder: str, least: int = 2) -> list[str]:
    """Names of the class folders in a folder. Raises BadDataError where there are less than that."""
    names = subfolders(folder)
    if not names:
        raise BadDataError(f"{folder} has no class folders in it. {LAYOUTS}")
    if len(names) < least:
        raise BadDataError(f"{folder} has one class folder only, {names[0]}/: it takes two classes. {LAYOUTS}")
    return names


def list_class_folders(root: str, split_folder: str, class_folders: list[str], class_names: list[str]) -> FolderSet:
    """The images of a split that has one folder per class; class_names are what the folders are called in the run.

    Raises BadDataError for a folder that is none of class_folders, and for one without images.
    """
    folder = os.path.join(root, split_folder)
    labels = {name: label for label, name in enumerate(class_folders)}
    listings: dict[int, Listing] = {}
    for name in subfolders(folder):
        if name not in labels:
            raise BadDataError(_unknown_class(folder, name, class_folders))
        listings[labels[name]] = list_images(os.path.join(folder, name))
    _refuse_empty({os.path.join(folder, class_folders[label]): listing for label, listing in listings.items()})
    if not listings:
        raise BadDataError(f"{folder} has no class folders in it. Fill it, or remove it to have that split cut for you")
    return pack(
        root=root,
        folders=[os.path.join(split_folder, name) for name in class_folders],
        class_names=class_names,
        labels=np.repeat(np.array(list(listings), np.int64), [len(listing) for listing in listings.values()]),
        listings=list(listings.values()),
        num_strays=num_files(folder),
    )


def _unknown_class(folder: str, name: str, class_names: list[str]) -> str:
    known = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
    return (
        f"{os.path.join(folder, name)} is a class that the training images do not have ({known}). "
        "Rename or remove the folder, or add that class to train/"
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
        "Put images there, or remove what is empty"
    )


def pack(
    root: str,
    folders: list[str],
    class_names: list[str],
    labels: np.ndarray,
    listings: list[Listing],
    num_strays: int = 0,
) -> FolderSet:
    """The files of some listings, one after the other, as one split; labels are int64, one per file.

    num_strays: files outside of all listings, which are ignored.
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
    )
