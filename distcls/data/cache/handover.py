"""Hands over what one process of a machine has found out to its other processes, in a file of the cache."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distcls.data.cache.store import PREFIX, entries_folder


@contextlib.contextmanager
def handed_over(value: object, cache_dir: Path) -> Iterator[str | None]:
    """Pickle a value into a file until the block ends, and yield its path; None if the file cannot be written.

    If this process is killed, the file is removed like an entry of the store that nobody uses.
    """
    with contextlib.ExitStack() as stack:
        path = None
        with contextlib.suppress(OSError):
            folder = entries_folder(cache_dir)
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix=f"{PREFIX}list-", dir=folder))
            pickle.dump(value, file)
            file.flush()
            path = file.name
        yield path


def taken_over(paths: Iterable[str]) -> Any:
    """Return the value in the first of these files that can be read; None if there is none."""
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            return pickle.load(file)
    return None
