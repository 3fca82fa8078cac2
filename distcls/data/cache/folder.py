"""The folder for everything that can be recreated: downloads, decoded images, choices of a precision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from distcls.config.settings import DataConfig
from distcls.errors import DiskError


def cache_folder(config: DataConfig) -> Path:
    """Return data.cache_dir, or distcls in $XDG_CACHE_HOME, or ~/.cache/distcls."""
    home_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(config.cache_dir or f"{home_cache}/distcls").expanduser().absolute()


@contextlib.contextmanager
def explaining_disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError from writing under `folder` into a DiskError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write decoded images under {folder}: {error.strerror or error}. "
            "Choose a writable folder with enough space: data.cache_dir=DIR"
        ) from error
