"""Keeps images that a reader returns as arrays in the store, so that all processes of a machine map and share them.

A reader's own arrays would take up private memory in every process, and reading them (unpacking archives,
verifying checksums) would delay every start.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcls.data.cache.folder import explaining_disk_errors
from distcls.data.cache.journal import Journal
from distcls.data.cache.mapped_file import MappedFile
from distcls.data.cache.store import About, Parts, build_entry, entry_path, read_entry, remove_unused
from distcls.data.sources.image_set import ArraySet, digest

PART_BYTES = 2**26


@dataclass
class Arrays:
    """One split as returned by its reader."""

    split: str
    class_names: list[str]
    labels: np.ndarray
    """int64 (N,)."""
    images: np.ndarray
    """uint8 (N, H, W, 3), in C order."""


def open_arrays(cache_dir: Path, title: str, key: str, read: Callable[[], Iterable[Arrays]]) -> dict[str, ArraySet]:
    """Return the splits in the store; if they are not there yet, `read` provides them, one split at a time.

    key: changes whenever `read` would return something else. Raises DiskError, and whatever `read` raises.
    """
    path = entry_path(cache_dir, f"{title[:40]}-{key}")
    about = read_entry(path)
    if about is None:
        with explaining_disk_errors(path.parent):
            build_entry(path, lambda journal: _write(read(), journal), lambda: read_entry(path) is not None)
            remove_unused(path.parent)
        about = read_entry(path)
        assert about is not None
    return {split: _mapped_set(f"{title}/{split}", split, path, about) for split in about["shapes"]}


def _mapped_set(title: str, split: str, path: Path, about: About) -> ArraySet:
    labels = np.fromfile(path / f"{split}.labels", np.int64)
    images = MappedFile(str(path / f"{split}.pixels"), tuple(about["shapes"][split])).open()
    return ArraySet(title, about["class_names"], labels, images, about["fingerprints"][split])


def _write(splits: Iterable[Arrays], journal: Journal) -> tuple[Parts, About]:
    parts: Parts = {}
    about: About = {"class_names": [], "shapes": {}, "fingerprints": {}}
    for arrays in splits:
        about["class_names"] = arrays.class_names
        about["shapes"][arrays.split] = arrays.images.shape
        about["fingerprints"][arrays.split] = digest(arrays.class_names, arrays.labels, arrays.images)
        for name, array in (("pixels", arrays.images), ("labels", arrays.labels)):
            parts[f"{arrays.split}.{name}"] = write_array(journal.folder / f"{arrays.split}.{name}", array)
    return parts, about


def write_array(path: Path, array: np.ndarray) -> list[tuple[int, int]]:
    """Write an array's bytes to a file, and return the length and CRC-32 of each part."""
    parts, content = [], np.ascontiguousarray(array).data.cast("B")
    with path.open("wb") as file:
        for start in range(0, len(content), PART_BYTES):
            part = content[start : start + PART_BYTES]
            file.write(part)
            parts.append((len(part), zlib.crc32(part)))
    return parts
