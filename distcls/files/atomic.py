"""Small text files that are replaced whole, and what is on the disk for good."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file, so that a reader, and with `durable` a power cut, leaves the old text or the new one.

    UTF-8; names of files that are not are written as they are on the disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(value: Any) -> str:
    """JSON that people can read. In names of files that are not UTF-8, each odd byte is escaped, and reads back."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    """A name as it can be printed and drawn: a file's may hold bytes that are not UTF-8."""
    return name.encode("utf-8", "replace").decode()
