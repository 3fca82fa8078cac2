"""Where distcls keeps what it can compute again: downloads, decoded images."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from distcls.config.settings import DataConfig
from distcls.errors import DiskError

UNUSED_DAYS = 30
"""Every edit of an image folder, or of an .npz, leaves what was decoded before: it goes when unused for so long."""


def oldest_in_use() -> float:
    """The time, in seconds as time.time() counts, before which what was used last may go."""
    return time.time() - UNUSED_DAYS * 86_400


def cache_folder(config: DataConfig) -> Path:
    """data.cache_dir, or distcls in $XDG_CACHE_HOME, or ~/.cache/distcls."""
    home_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(config.cache_dir or f"{home_cache}/distcls").expanduser().absolute()


@contextlib.contextmanager
def explaining_disk_errors(folder: Path) -> Iterator[None]:
    """Turns the OSErrors of writing under `folder` into a DiskError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write decoded images under {folder}: {error.strerror or error}. "
            "Name a folder with space that you may write to: data.cache_dir=DIR"
        ) from error


@contextlib.contextmanager
def folder_beside(final: Path) -> Iterator[Path]:
    """A folder on the same file system that is gone at the end, with all that was not renamed away."""
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as temporary:
        building = Path(temporary, "building")
        building.mkdir()
        yield building


def rename_unless_there(folder: Path, final: Path) -> None:
    """Puts a folder that is whole in its place, unless another process did."""
    try:
        os.rename(folder, final)
    except OSError:  # another run, on this machine or on one that shares the disk, was faster
        if not final.is_dir():
            raise
