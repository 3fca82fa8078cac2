"""A folder of images, with one folder per class, as a source of labelled images."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from distcls.config import DataConfig
from distcls.data.decoding import Decoding, decode
from distcls.data.folder_listing import IMAGE_EXTENSIONS, Listing, list_images, subfolders
from distcls.data.image_set import ImageSet, digest
from distcls.errors import BadDataError, MissingInputError, UsageError

# Folder names, in lower case, that stand for a split.
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

LAYOUTS = "Expected ROOT/CLASS/image.jpg, or ROOT/train/CLASS/image.jpg with val/ and test/ beside train/ if you like."


@dataclass
class FolderSet:
    """Image files of one split. Paths are kept as one string of bytes: ImageNet's take 30 MB, not 150."""

    root: str
    split_folder: str
    """Folder of the split under root, such as "train", or "" where classes lie in root itself."""
    class_names: list[str]
    labels: np.ndarray
    sizes: np.ndarray
    """int64 (N,), bytes of each file."""
    paths: bytes
    """Paths under their class folder, one after the other."""
    path_ends: np.ndarray
    """int64 (N,), where each path ends in `paths`."""
    modified: str
    """Digest of the files' times of change: in the key of cached pixels, but not in the fingerprint, for
    a copy of the folder on another machine is the same data."""
    num_ignored: int
    """Files that are no images by their names."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        """uint8 (H, W, 3), see ImageSet; raises BadImageError."""
        return decode(os.path.join(self.root, self.name(i)), decoding)

    def name(self, i: int) -> str:
        """Path under root, such as train/cat/17.jpg."""
        start = self.path_ends[i - 1] if i else 0
        path = os.fsdecode(self.paths[start : self.path_ends[i]])
        return os.path.join(self.split_folder, self.class_names[self.labels[i]], path)

    def fingerprint(self) -> str:
        """Digest of classes, relative paths, file sizes and labels: of all that can be told without decoding."""
        layout = self.split_folder.encode()
        return digest(self.class_names, layout, self.labels, self.sizes, self.path_ends, self.paths)


def open_folder(config: DataConfig) -> dict[str, ImageSet]:
    """Lists a folder of images; see LAYOUTS for what it may look like.

    Raises MissingInputError where there is none, BadDataError where it cannot be trained on.
    """
    root = _existing_root(config)
    split_folders = _split_folders(root)
    class_names = _class_names(os.path.join(root, split_folders["train"]))
    return {split: _list_split(root, folder, class_names) for split, folder in split_folders.items()}


def _existing_root(config: DataConfig) -> str:
    if config.root is None:
        raise UsageError("data.name=folder needs to know where your images are: --data DIR")
    root = os.path.abspath(os.path.expanduser(config.root))
    if not os.path.isdir(root):
        found = "is not a folder" if os.path.exists(root) else "does not exist"
        raise MissingInputError(f"the image folder {root} {found}. Name the one that holds your images: --data DIR")
    return root


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
    with_classes = [split for split, folder in found.items() if subfolders(os.path.join(root, folder))]
    if "train" in with_classes:
        return found
    if with_classes:  # without this, test/cat/1.jpg would be an image of a class "test"
        raise MissingInputError(f"{root} has {found[with_classes[0]]}/ but no train/ with class folders. {LAYOUTS}")
    return {"train": ""}


def _class_names(folder: str) -> list[str]:
    class_names = subfolders(folder)
    if not class_names:
        raise BadDataError(f"{folder} has no class folders in it. {LAYOUTS}")
    if len(class_names) < 2:
        raise BadDataError(f"{folder} has one class folder only, {class_names[0]}/: it takes two classes. {LAYOUTS}")
    return class_names


def _list_split(root: str, split_folder: str, class_names: list[str]) -> FolderSet:
    folder = os.path.join(root, split_folder)
    labels_by_name = {name: label for label, name in enumerate(class_names)}
    listings: dict[int, Listing] = {}
    for name in subfolders(folder):
        if name not in labels_by_name:
            raise BadDataError(_unknown_class(folder, name, class_names))
        listings[labels_by_name[name]] = _list_class(os.path.join(folder, name))
    if not listings:
        raise BadDataError(f"{folder} has no class folders in it. Fill it, or remove it to have that split cut for you")
    return _packed(root, split_folder, class_names, listings)


def _unknown_class(folder: str, name: str, class_names: list[str]) -> str:
    known = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
    return (
        f"{os.path.join(folder, name)} is a class that the training images do not have ({known}). "
        "Rename or remove the folder, or add that class to train/"
    )


def _list_class(folder: str) -> Listing:
    listing = list_images(folder)
    if len(listing) == 0:
        others = f"; it has {len(listing.ignored)} other files, such as {listing.ignored[0]}" if listing.ignored else ""
        raise BadDataError(
            f"the class folder {folder} has no images ({' '.join(IMAGE_EXTENSIONS)}){others}. "
            "Put images there, or remove the folder"
        )
    return listing


def _packed(root: str, split_folder: str, class_names: list[str], listings: dict[int, Listing]) -> FolderSet:
    found = list(listings.values())
    return FolderSet(
        root=root,
        split_folder=split_folder,
        class_names=class_names,
        labels=np.repeat(np.array(list(listings), np.int64), [len(listing) for listing in found]),
        sizes=np.concatenate([listing.sizes for listing in found]),
        paths=b"".join(listing.paths for listing in found),
        path_ends=np.cumsum(np.concatenate([listing.lengths for listing in found])),
        modified=digest([], *(listing.changed for listing in found)),
        num_ignored=sum(len(listing.ignored) for listing in found),
    )
