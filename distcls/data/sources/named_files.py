"""Finds the image files that people name on a command line: files, folders, patterns, CSV files, and lists on stdin."""

from __future__ import annotations

import glob
import itertools
import os
import sys
from collections.abc import Iterator, Sequence

from distcls.data.sources.csv_manifest import csv_paths
from distcls.data.sources.listing import IMAGE_EXTENSIONS, list_images
from distcls.errors import MissingInputError

STDIN = "-"
"""Names the list on stdin, one path a line."""


class NamedFiles:
    """Paths of image files, in the order in which they were named. Only paths are kept in memory; stdin is not."""

    def __init__(self, names: Sequence[str]) -> None:
        """List folders, patterns and CSV files. Raises MissingInputError if a file or folder does not exist.

        Files that a list or a CSV file names are not looked for: reading them will tell.
        """
        self._parts = [None if name == STDIN else files_named(name) for name in names]
        listed = [len(part) for part in self._parts if part is not None]
        self.count = sum(listed) if len(listed) == len(names) else None
        """How many there are; None if stdin has to be read first."""

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(_lines_of_stdin() if part is None else part for part in self._parts)


def files_named(name: str) -> list[str]:
    """Return the file, the images in the folder or of the pattern, or those that the CSV file lists.

    Run folders inside a folder are skipped: runs/ is often beside the images. Raises MissingInputError if there is no
    such file or folder, or the pattern matches no image.
    """
    if os.path.isdir(name):
        return [os.path.join(name, path) for path in list_images(name, skips_runs=True).split_paths()]
    if name.lower().endswith(".csv") and os.path.exists(name):
        return csv_paths(name)
    if os.path.lexists(name):
        return [name]
    if not glob.has_magic(name):
        raise MissingInputError(f"{name}: no such image or folder.")
    found = _matches(name)
    if not found:
        raise MissingInputError(f"{name}: this pattern matches no image or folder.")
    return found


def _matches(pattern: str) -> list[str]:
    """Return the images that a pattern matches, and those in the folders that it matches; ** is any depth."""
    found = sorted(glob.glob(pattern, recursive=True))
    if "**" in pattern:  # it matches whatever is in the folders, too
        found = [path for path in found if not os.path.isdir(path)]
    return [
        path
        for match in found
        for path in (files_named(match) if os.path.isdir(match) else [match])
        if path.lower().endswith(IMAGE_EXTENSIONS)
    ]


def _lines_of_stdin() -> Iterator[str]:
    """Yield the lines as they arrive; bytes that are not UTF-8 stay as they are in the file system."""
    for line in sys.stdin.buffer:
        path = line.rstrip(b"\r\n")
        if path:
            yield os.fsdecode(path)
