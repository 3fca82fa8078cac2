"""Lists image files with their sizes and times, quickly and in the same order on every machine."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcls.errors import MissingInputError
from distcls.runs.status import LOCK

HEIC_EXTENSIONS = (".heic", ".heif")

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *HEIC_EXTENSIONS,
    *(".avif", ".jp2", ".ppm", ".pgm", ".pbm"),
)

MISSING = -1
"""Size of a missing file."""

FEW_ENTRIES = 100
"""Of a folder, which tell whether it holds runs."""


@dataclass
class Listing:
    """Image files under a folder, packed because there may be millions."""

    paths: bytes
    """Paths relative to the folder, concatenated."""
    lengths: np.ndarray
    """int64 (n,), bytes of each path."""
    sizes: np.ndarray
    """int64 (n,), bytes of each file; MISSING if it does not exist."""
    changed: np.ndarray
    """int64 (n,), modification time of each file in ns."""
    moved: np.ndarray
    """int64 (n,), time in ns at which each file, or a link to it, was last written, renamed or replaced: its ctime,
    which no program can set and which differs in each copy of a folder."""
    ignored: list[str]
    """Paths of files that are not images, judging by their names."""

    def __len__(self) -> int:
        return len(self.sizes)

    def split_paths(self) -> list[str]:
        """Return the paths, one by one."""
        ends = np.cumsum(self.lengths).tolist()
        return [os.fsdecode(self.paths[end - length : end]) for end, length in zip(ends, self.lengths, strict=True)]


def list_images(folder: str, skips_runs: bool = False) -> Listing:
    """List everything under `folder`, at any depth, sorted by path. Hidden files and folders are skipped.

    skips_runs: leave out the run folders inside it, whose pictures are plots and thumbnails.
    A million files take 2 s, mostly in the kernel. Threads take three times as long, because they contend for the
    interpreter lock on every file.
    """
    extensions = tuple(os.fsencode(extension) for extension in IMAGE_EXTENSIONS)
    found = dict(_walk(os.fsencode(folder), b"", (os.path.realpath(os.fsencode(folder)),), skips_runs))
    images = sorted(path for path in found if path.lower().endswith(extensions))
    # `pop`, because an entry caches its stat result, which takes more memory than all we keep
    listing = _listing(images, lambda path: found.pop(path).stat)
    listing.ignored = sorted(map(os.fsdecode, found))
    return listing


def list_files(folder: str, paths: Iterable[str]) -> Listing:
    """List these files, in this order; paths are absolute or relative to the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        encoded = [os.fsencode(path) for path in paths]
        return _listing(encoded, lambda path: functools.partial(os.stat, path, dir_fd=descriptor))
    finally:
        os.close(descriptor)


def _listing(paths: list[bytes], stat_of: Callable[[bytes], Callable[..., os.stat_result]]) -> Listing:
    """Return a listing of these paths. stat_of: returns, for a path, a function like os.stat (with follow_symlinks)."""
    rows = []
    for path in paths:
        try:
            look = stat_of(path)
            file = name = look(follow_symlinks=False)
            if stat.S_ISLNK(name.st_mode):
                file = look(follow_symlinks=True)
            rows.append((file.st_size, file.st_mtime_ns, max(file.st_ctime_ns, name.st_ctime_ns)))
        except (OSError, ValueError):  # a dangling link: listed anyway, so that decoding reports it as a bad image
            rows.append((MISSING, 0, 0))
    lengths = np.fromiter(map(len, paths), np.int64, len(paths))
    sizes, changed, moved = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    return Listing(b"".join(paths), lengths, sizes, changed, moved, [])


def subfolders(folder: str) -> list[str]:
    """Return the names of the visible folders in a folder, sorted. Raises MissingInputError if it cannot be read."""
    with _explaining_unreadable(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_hidden(entry.name) and _is_folder(entry))


def holds_runs(folder: str) -> bool:
    """True for a run folder, and for one such as runs/ that has run folders directly inside.

    It lies beside the class folders if distcls was started there, but its pictures are no class.
    """
    if _is_run(folder):
        return True
    with _explaining_unreadable(folder), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, FEW_ENTRIES):  # those of a class may be a million
            if entry.name.lower().endswith(IMAGE_EXTENSIONS):
                return False
            if not _is_hidden(entry.name) and _is_folder(entry) and _is_run(entry.path):
                return True
    return False


def _is_run(folder: str) -> bool:
    """True for a run folder. While a run chooses its settings, its folder has nothing but the lock."""
    signs = [name for name in (LOCK, "config.yaml", "status.json") if os.path.isfile(os.path.join(folder, name))]
    if signs != [LOCK]:
        return len(signs) > 1
    with _explaining_unreadable(folder):
        return os.listdir(folder) == [LOCK]


def _is_hidden(name: str | bytes) -> bool:
    """True for hidden files, and for the folder that macOS adds to archives."""
    return name[:1] in (".", b".") or name in ("__MACOSX", b"__MACOSX")


def _is_folder(entry: os.DirEntry[Any]) -> bool:
    """True for a folder or a link to one. A link to itself is no error here: it becomes one bad file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def num_files(folder: str) -> int:
    """Return how many visible files are directly in a folder."""
    with os.scandir(folder) as entries:
        return sum(not _is_hidden(entry.name) and not _is_folder(entry) for entry in entries)


@contextlib.contextmanager
def _explaining_unreadable(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingInputError(f"cannot list the folder {folder}: {error.strerror}") from error


def _walk(
    folder: bytes, prefix: bytes, chain: tuple[bytes, ...], skips_runs: bool
) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Yield each visible file with its path, in bytes: encoding a million names takes a while.

    chain: the real paths of the folders on the way to this one, itself included.
    """
    with _explaining_unreadable(os.fsdecode(folder)), os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            if _is_folder(entry):
                if skips_runs and _is_run(os.fsdecode(entry.path)):
                    continue
                is_link = entry.is_symlink()
                real = os.path.realpath(entry.path) if is_link else os.path.join(chain[-1], entry.name)
                if is_link and any((above + b"/").startswith(real.rstrip(b"/") + b"/") for above in chain):
                    continue  # a link to a folder around one on the way, which would never end
                yield from _walk(entry.path, prefix + entry.name + b"/", (*chain, real), skips_runs)
            else:
                yield prefix + entry.name, entry
