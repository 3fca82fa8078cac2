"""Stores decoded images on disk: one folder per set, which appears whole and is mapped by all processes of a machine.

    decoded/distcls-KEY/           files of pixels, labels …; about.json: their sizes, checksums and the findings
    decoded/distcls-KEY.partial/   an entry that is being built, or whose builder was killed

The key changes with everything that affects decoding, so an entry is never out of date. Its builder holds a lock on
the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from distcls.data.cache.journal import Journal
from distcls.files.atomic import fsync, put_in_place, read_json, write_json

About = dict[str, Any]
"""about.json: {"files": {name: {"size", "mtime_ns", "parts": [[bytes, CRC-32], …]}}, …}, plus what its writer adds."""

Parts = dict[str, list[tuple[int, int]]]
"""For each file of an entry, the length and CRC-32 of its parts, in order."""

ABOUT, JOURNAL, PREFIX, PARTIAL = "about.json", "journal", "distcls-", ".partial"

SECONDS_UNUSED = 30 * 86_400
"""Each edit of an image folder or .npz leaves an old entry behind; it is removed after this long without use."""

SECONDS_ABANDONED = 86_400
"""How long the unfinished work of a killed builder is kept, waiting to be resumed."""


def entry_path(cache_dir: Path, key: str) -> Path:
    """Return the path of the entry with this key, whether or not it exists."""
    return entries_folder(cache_dir) / f"{PREFIX}{key}"


def entries_folder(cache_dir: Path) -> Path:
    """Return the folder of all entries, whether or not it exists."""
    return cache_dir / "decoded"


# Reading -------------------------------------------------------------------------------------------


def read_entry(path: Path) -> About | None:
    """Return an entry's about.json and count this as a use; None if a file is missing, truncated or altered."""
    try:
        about = read_json(path / ABOUT)
        if not all(_is_whole(path / name, file) for name, file in about["files"].items()):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    with contextlib.suppress(OSError):  # the entry may be somebody else's
        os.utime(path / ABOUT)
    return about


def _is_whole(path: Path, expected: dict[str, Any]) -> bool:
    """True if a file is as it was written.

    Reading it takes seconds to minutes, so it is read only if somebody copied or touched it.
    """
    status = path.stat()
    if status.st_size != expected["size"]:
        return False
    if status.st_mtime_ns == expected["mtime_ns"]:
        return True
    if not has_parts(path, expected["parts"]):
        return False
    with contextlib.suppress(OSError):
        os.utime(path, ns=(status.st_atime_ns, expected["mtime_ns"]))  # trusted from now on
    return True


def has_parts(path: Path, parts: list[tuple[int, int]], offset: int = 0) -> bool:
    """True if the parts from `offset` on have these lengths and CRC-32 sums. Reads a little at a time."""
    with path.open("rb") as file:
        file.seek(offset)
        for length, expected in parts:
            crc, left = 0, length
            while left and (block := file.read(min(left, 2**20))):
                crc, left = zlib.crc32(block, crc), left - len(block)
            if left or crc != expected:
                return False
    return True


# Building ------------------------------------------------------------------------------------------


def build_entry(path: Path, write: Callable[[Journal], tuple[Parts, About]], is_current: Callable[[], bool]) -> None:
    """Make an entry appear whole, replacing one that is no longer valid.

    write: fills the journal's folder, which may hold the work of an earlier build that was killed, and returns the
    parts and the contents of about.json. is_current: returns True if another run was faster; its entry is kept,
    because it may already be mapped. Raises OSError, and whatever `write` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _journal(path) as journal:
        parts, about = write(journal)
        files = {}
        for name, of_file in parts.items():
            fsync(journal.folder / name)
            status = (journal.folder / name).stat()
            files[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "parts": of_file}
        write_json(journal.folder / ABOUT, {"files": files, **about})
        if is_current():
            return
        (journal.folder / JOURNAL).unlink()
        put_in_place(journal.folder, path)


def update_entry(path: Path, about: About) -> None:
    """Update an entry's about.json, if this process may write it."""
    with contextlib.suppress(OSError):
        write_json(path / ABOUT, about)


@contextlib.contextmanager
def _journal(path: Path) -> Iterator[Journal]:
    """Open the journal of an unfinished build, or a new one; it is removed with its folder once the build ends.

    If another process holds it, or files cannot be locked, use a private journal, which later starts will not find.
    """
    shared = path.with_name(f"{path.name}{PARTIAL}")
    shared.mkdir(exist_ok=True)
    file = _lock(shared / JOURNAL)
    if file is None:
        private = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        private.mkdir()
        file = _lock(private / JOURNAL) or (private / JOURNAL).open("a+")
    journal, can_be_resumed = Journal(file), False
    with file:
        try:
            yield journal
        except BaseException:
            can_be_resumed = journal.folder == shared
            raise
        finally:
            if not can_be_resumed and _is_at(journal.folder / JOURNAL, file):  # if not, it has become the entry
                shutil.rmtree(journal.folder, ignore_errors=True)


def _lock(path: Path) -> TextIO | None:
    """Open a file and lock it until it is closed or the process ends; None if another process holds the lock."""
    with contextlib.suppress(OSError):
        file = path.open("a+")
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):  # if not, its last holder has just removed it
                return file
        file.close()
    return None


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


# Removing ------------------------------------------------------------------------------------------


def remove_unused(folder: Path, abandoned_after: float = SECONDS_ABANDONED) -> None:
    """Remove entries not used for a month, and killed builds not resumed within a day.

    Builds in progress are locked. Where files cannot be locked, builds are removed after a month without a change.
    """
    now = time.time()
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            files = [path, *path.iterdir()] if path.is_dir() else [path]
            age = now - max(file.stat().st_mtime for file in files)
            if path.suffix == PARTIAL and abandoned_after <= age <= SECONDS_UNUSED:
                with _lock(path / JOURNAL) or contextlib.nullcontext() as is_abandoned:
                    if is_abandoned:
                        shutil.rmtree(path, ignore_errors=True)
            elif age > SECONDS_UNUSED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
