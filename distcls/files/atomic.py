"""Replaces files and folders whole, so that even after a kill or a power cut there is either the old or the new one."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from distcls.errors import DiskError

UNFINISHED = ".writing-"
"""Prefix of a folder that is being written, or whose writer was killed."""

NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
"""The errors of file systems that cannot sync a folder; they have no other way to make a name durable."""

DEVICES = (Path("/dev"), Path("/dev/fd"))
"""Folders whose links lead to what a process has open."""


# Files ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends; after an error, `path` is unchanged.

    A device or a pipe, such as /dev/null, cannot be replaced: it is written to. durable: survive power cuts too, which
    takes milliseconds to seconds. Raises OSError.
    """
    if is_device(path):
        with path.open("wb") as file:
            yield file
        return
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # `path` may already have the longest allowed name
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync(path.parent)


def is_device(path: Path) -> bool:
    """True if there is something at a path that is neither a file nor a folder, or a link such as /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    is_link = path.is_symlink() and path.parent in DEVICES  # it may lead to a file, as in `… > file`
    return is_link or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a DiskError that names what was to be written."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}. Make room or fix its permissions, then run again."
        ) from error


def put_file_in_place(file: Path, path: Path) -> None:
    """Move a finished file to its place on the same file system, replacing an older one. Raises OSError."""
    fsync(file)
    file.replace(path)
    fsync(path.parent)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace a file whole, see `replacing`."""
    with replacing(path, durable) as file:
        file.write(content)


def whole_lines(content: bytes) -> bytes:
    """Return everything up to the last end of a line: a kill can leave an unfinished one in a file that grows."""
    return content[: content.rfind(b"\n") + 1]


def drop_torn_line(path: Path) -> bytes:
    """Remove an unfinished last line, which would swallow the next one; return the rest. Raises OSError."""
    content = path.read_bytes() if path.exists() else b""
    whole = whole_lines(content)
    if whole != content:
        write_bytes(path, whole)
    return whole


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace a text file whole, see `replacing`. It is UTF-8, except that odd bytes in file names stay as they are."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), durable)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole, see `replacing` and `json_text`."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Return the value in a JSON file. Raises OSError, and ValueError for a damaged file."""
    return json.loads(path.read_text(encoding="utf-8"))


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


# Folders -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder_beside(final: Path) -> Iterator[Path]:
    """Create a folder on the file system of `final`; it is removed when the block ends, unless it was renamed."""
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as temporary:
        building = Path(temporary, "building")
        building.mkdir()
        yield building


def rename_unless_there(folder: Path, final: Path) -> None:
    """Move a finished folder to its place, unless another process was faster. Raises OSError."""
    try:
        os.rename(folder, final)
    except OSError:
        if not final.is_dir():
            raise


def put_in_place(folder: Path, final: Path) -> None:
    """Move a finished folder to its place, replacing an older one. After an OSError, the older one is back."""
    old = final.parent / f"{UNFINISHED}old-{final.name}-{secrets.token_hex(4)}"
    try:
        if final.exists():
            os.rename(final, old)  # not removed first, because a network file system keeps files that are open
        os.rename(folder, final)
        fsync(final.parent)
    except OSError:
        if old.exists() and not final.exists():
            with contextlib.suppress(OSError):
                os.rename(old, final)
        raise
    for replaced in final.parent.glob(f"{UNFINISHED}old-{glob.escape(final.name)}-*"):
        shutil.rmtree(replaced, ignore_errors=True)


# Text ----------------------------------------------------------------------------------------------


def json_text(value: Any) -> str:
    """Return JSON that people can read. In file names that are not UTF-8, odd bytes are escaped and read back."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    """Return a name that can be printed and drawn: file names may contain bytes that are not UTF-8."""
    return name.encode("utf-8", "replace").decode()
