"""Images that some reader brings as arrays, kept as plain files that all processes of a machine map and share.

A reader's arrays are private memory, once more in each process; and reading them, unpacking an archive and
checking its sums, takes a while at each start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distcls.data.cache.folder import explaining_disk_errors, folder_beside, oldest_in_use, rename_unless_there
from distcls.data.cache.mapped_file import MappedFile
from distcls.data.sources.image_set import ArraySet, ImageSet, digest


@dataclass
class Arrays:
    """One split, as it was read."""

    split: str
    class_names: list[str]
    labels: np.ndarray
    """int64 (N,)."""
    images: np.ndarray
    """uint8 (N, H, W, 3), in C order."""


def open_arrays(cache: Path, title: str, read: Callable[[], Iterable[Arrays]]) -> dict[str, ImageSet]:
    """The splits in a cache folder, which is filled by `read` where it is not there yet, one split after the other.

    The folder's name must change with what would be read. Raises DiskError, and what `read` raises.
    """
    if not _is_complete(cache):
        with explaining_disk_errors(cache):
            _write_arrays(read(), cache)
    with contextlib.suppress(OSError):  # somebody else's
        os.utime(cache / "about.json")  # used: not to be removed yet
    about = json.loads((cache / "about.json").read_text())
    return {split: _mapped_set(title, split, cache, about) for split in about["shapes"]}


def _mapped_set(title: str, split: str, cache: Path, about: dict[str, Any]) -> ArraySet:
    labels = np.fromfile(cache / f"{split}.labels", np.int64)
    images = MappedFile(str(cache / f"{split}.pixels"), tuple(about["shapes"][split])).open()
    return ArraySet(f"{title}/{split}", about["class_names"], labels, images, about["fingerprints"][split])


def _is_complete(cache: Path) -> bool:
    """Whether the arrays are there; their sizes tell one that was cut short."""
    try:
        sizes = json.loads((cache / "about.json").read_text())["sizes"]
        return all((cache / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _write_arrays(splits: Iterable[Arrays], cache: Path) -> None:
    """Writes beside the final place and renames, so that what is there is whole, whoever else does the same."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(cache) as building:
        about: dict[str, Any] = {"shapes": {}, "fingerprints": {}}
        for arrays in splits:
            about["class_names"] = arrays.class_names
            about["shapes"][arrays.split] = arrays.images.shape
            about["fingerprints"][arrays.split] = digest(arrays.class_names, arrays.labels, arrays.images)
            _write(building / f"{arrays.split}.pixels", arrays.images.tofile)
            _write(building / f"{arrays.split}.labels", arrays.labels.tofile)
        about["sizes"] = {path.name: path.stat().st_size for path in building.iterdir()}
        _write(building / "about.json", lambda file: file.write(json.dumps(about).encode()))
        if cache.exists() and not _is_complete(cache):
            shutil.rmtree(cache)
        rename_unless_there(building, cache)
    _remove_unused(cache.parent)


def _remove_unused(folder: Path) -> None:
    for about in folder.glob("*/about.json"):
        with contextlib.suppress(OSError):
            if about.stat().st_mtime < oldest_in_use():
                shutil.rmtree(about.parent)


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
