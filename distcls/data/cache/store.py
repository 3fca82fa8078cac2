"""Decoded images on disk: a folder for each set, which appears whole and which all processes of a machine map.

    decoded/distcls-KEY/           files of pixels, labels …; about.json: their sizes and checksums, and what was found
    decoded/distcls-KEY.partial/   one that is being built, or was when its process was killed

The key changes with what would be decoded, so an entry is right or not there. Whoever builds one holds a lock on its
journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from distcls.data.cache.journal import Journal
from distcls.files.atomic import fsync, put_in_place, write_json

About = dict[str, Any]
"""about.json: {"files": {name: {"size", "mtime_ns", "parts": [[bytes, CRC-32], …]}}, …}, and what its writer adds."""

Parts = dict[str, list[tuple[int, int]]]
"""For each file of an entry, the length and the CRC-32 of each part of it, in order."""

ABOUT, JOURNAL, PREFIX, PARTIAL = "about.json", "journal", "distcls-", ".partial"

SECONDS_UNUSED = 30 * 86_400
"""Every edit of an image folder, or of an .npz, leaves what was decoded before: it goes when unused for so long."""

SECONDS_ABANDONED = 86_400
"""What a killed builder has done waits so long to be resumed."""


def entry_path(cache_dir: Path, key: str) -> Path:
    """Where the entry of that key lies, or would."""
    return cache_dir / "decoded" / f"{PREFIX}{key}"


# Reading -------------------------------------------------------------------------------------------


def read_entry(path: Path) -> About | None:
    """about.json of an entry that is whole, which counts as a use; None where a file is missing, cut or altered."""
    try:
        about = json.loads((path / ABOUT).read_text())
        if not all(_is_whole(path / name, file) for name, file in about["files"].items()):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    with contextlib.suppress(OSError):  # somebody else's
        os.utime(path / ABOUT)
    return about


def _is_whole(path: Path, expected: dict[str, Any]) -> bool:
    """Reading it all takes seconds to minutes, so only where somebody copied or touched the file."""
    status = path.stat()
    if status.st_size != expected["size"]:
        return False
    if status.st_mtime_ns == expected["mtime_ns"]:
        return True
    if not has_parts(path, expected["parts"]):
        return False
    with contextlib.suppress(OSError):
        os.utime(path, ns=(status.st_atime_ns, expected["mtime_ns"]))  # believed from now on
    return True


def has_parts(path: Path, parts: list[tuple[int, int]], offset: int = 0) -> bool:
    """True if the bytes from `offset` have these lengths and CRC-32 sums. Reads a little at a time."""
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
    """Make an entry appear whole, in place of one that is not right any more.

    write: fills the journal's folder, where an earlier build that was killed may have begun to, and returns what
    about.json holds. is_current: True if another run was faster, whose entry stays, since it may be mapped already.
    Raises OSError, and what `write` raises.
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
    """Note something more about an entry, where this process may write."""
    with contextlib.suppress(OSError):
        write_json(path / ABOUT, about)


@contextlib.contextmanager
def _journal(path: Path) -> Iterator[Journal]:
    """The journal of an unfinished build, or a new one; gone with its folder after a build that ends.

    While another process has it, or where files cannot be locked, one of its own that no later start finds.
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
            if not can_be_resumed and _is_at(journal.folder / JOURNAL, file):  # else it has become the entry
                shutil.rmtree(journal.folder, ignore_errors=True)


def _lock(path: Path) -> TextIO | None:
    """The file, open and locked until it is closed or its process ends; None where somebody else holds it."""
    with contextlib.suppress(OSError):
        file = path.open("a+")
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):  # else its last holder has just removed it
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
    """Remove entries that nobody has used for a month, and builds that were killed and not resumed for a day.

    Builds of a process that lives are locked. Where files cannot be locked, only a month without a change tells.
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
