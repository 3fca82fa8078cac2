"""Reads a numpy .npz of images and labels, with the array names that Keras, MedMNIST and people use."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import psutil

from distcls.config.settings import DataConfig
from distcls.data.cache.arrays import Arrays, open_arrays
from distcls.data.cache.folder import cache_folder
from distcls.data.sources.folder import existing_file
from distcls.data.sources.image_set import ImageSet, digest
from distcls.errors import BadDataError

# Names of the arrays of images and labels, for each split.
NAMES = {
    "train": [("images", "labels"), ("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels")],
    "val": [("x_val", "y_val"), ("x_valid", "y_valid"), ("val_images", "val_labels"), ("valid_images", "valid_labels")],
    "test": [("x_test", "y_test"), ("test_images", "test_labels")],
}

MOST_DEFLATED = 1032
"""The most bytes that one byte of zlib data can expand to: an archive that claims more is forged."""

UNREADABLE = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
"""These include archives with a password or an unsupported compression."""

EXPECTED = (
    "Expected images and labels; or x_train and y_train, optionally with x_val, y_val, x_test and y_test; or "
    "train_images and train_labels and so on; optionally class_names, a list of names"
)


def open_npz(config: DataConfig) -> dict[str, ImageSet]:
    """Return the splits in an .npz file, which is data.root. Images are uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).

    Labels are whole numbers or strings, (N,) or (N, 1): positions in class_names, or names from it, if the file has
    it, else the classes themselves. Raises MissingInputError and BadDataError.
    """
    file = Path(existing_file(config))
    stat = file.stat()
    key = digest([], repr((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())[:16]
    return dict(open_arrays(cache_folder(config), file.stem, key, lambda: _read(file)))


def _read(file: Path) -> Iterator[Arrays]:
    try:
        _check_sizes(file)
        with np.load(file, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise BadDataError(f"{file} holds a single array without a name. {EXPECTED}")
            yield from _read_splits(file, arrays)
    except MemoryError as error:
        raise BadDataError(f"{file} does not fit in this machine's memory: {error}") from error
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise BadDataError(f"{file} cannot be read as an .npz of plain arrays: {error}") from error


def _check_sizes(file: Path) -> None:
    """Raise BadDataError if an array claims more bytes than can follow, or than are free: numpy allocates first."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                needed, there = _claimed_bytes(stream), min(member.file_size, member.compress_size * MOST_DEFLATED)
            name = member.filename.removesuffix(".npy")
            if needed > there:
                raise BadDataError(
                    f"{file}: {name} claims {needed / 1e9:,.1f} GB, but has at most {there / 1e9:,.1f} GB"
                )
            free = psutil.virtual_memory().available
            if needed > free:
                raise BadDataError(
                    f"{file}: {name} needs {needed / 1e9:,.1f} GB of memory, but only {free / 1e9:,.1f} GB are free. "
                    "Save the images as files, with one folder per class: data.name=folder"
                )


def _claimed_bytes(stream: IO[bytes]) -> int:
    """Return the size of the array whose header starts a stream; 0 if it is not an array, which nobody reads."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    except ValueError:
        return 0
    return math.prod(shape) * dtype.itemsize


def _read_splits(file: Path, arrays: np.lib.npyio.NpzFile) -> Iterator[Arrays]:
    names = {split: pair for split, pairs in NAMES.items() for pair in pairs if pair[0] in arrays}
    if "train" not in names:
        raise BadDataError(f"{file} has no training images; found arrays: {', '.join(arrays) or 'none'}. {EXPECTED}")
    for _, labels in names.values():
        if labels not in arrays:
            raise BadDataError(f"{file} has no array {labels}, only {', '.join(arrays)}. {EXPECTED}")
    class_names, classes = _classes(file, arrays, names["train"][1])
    for split, (images, labels) in names.items():
        of_images = _positions(file, labels, _flat(file, labels, arrays[labels]), classes)
        pixels = _rgb(file, images, arrays[images])
        if len(pixels) != len(of_images):
            raise BadDataError(f"{file}: {images} has {len(pixels)} images, but {labels} {len(of_images)} labels")
        yield Arrays(split, class_names, of_images, pixels)


def _classes(file: Path, arrays: np.lib.npyio.NpzFile, train_labels: str) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes, and the value of each in the labels."""
    labels = _flat(file, train_labels, arrays[train_labels])
    if "class_names" in arrays:
        names = arrays["class_names"]
        class_names = [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
        classes = np.array(class_names) if labels.dtype.kind == "U" else np.arange(len(class_names))
    else:
        classes = np.unique(labels)
        class_names = [str(label) for label in classes.tolist()]
    return class_names, classes


def _flat(file: Path, name: str, labels: np.ndarray) -> np.ndarray:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iuUb":
        raise BadDataError(
            f"{file}: {name} is {labels.dtype} {labels.shape}; expected one whole number or string per image"
        )
    return flat


def _positions(file: Path, name: str, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise BadDataError(
            f"{file}: {name} has the class {unknown[0]}, which is not one of {', '.join(map(str, classes[:10]))}"
            f"{', …' if len(classes) > 10 else ''}"
        )
    order = np.argsort(classes)
    return order[np.searchsorted(classes, labels, sorter=order)].astype(np.int64)


def _rgb(file: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Return uint8 (N, H, W, 3), in C order."""
    if images.dtype != np.uint8:
        raise BadDataError(
            f"{file}: {name} is {images.dtype}; expected uint8 from 0 to 255. Scale and round it, then save "
            ".astype('uint8')"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        hint = ". Move the channels to the end: .transpose(0, 2, 3, 1)" if images.shape[1:2] in ((1,), (3,)) else ""
        raise BadDataError(f"{file}: {name} is {images.shape}; expected (N, H, W), (N, H, W, 1) or (N, H, W, 3){hint}")
    return np.ascontiguousarray(images if images.shape[3] == 3 else images.repeat(3, axis=3))
