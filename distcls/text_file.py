"""Small text files that are replaced whole."""

from __future__ import annotations

import os
from pathlib import Path


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
