"""What a decoding that was killed has already done, so that the next start goes on from there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Chunk:
    """Images of a set that have been decoded: start to stop."""

    start: int
    stop: int
    bad: dict[int, str]
    """Index and reason of those that cannot be."""
    num_animations: int
    """Images that are the first frame of several."""
    checksum: int
    """CRC-32 of their pixels; 0 where no pixels are kept."""


@dataclass
class Journal:
    """A line of JSON for each finished chunk, written after its pixels. Whoever has it open holds a lock on it."""

    file: TextIO
    pixels: Path
    """Where the pixels lie, if they are kept."""

    def chunks(self) -> dict[tuple[int, int], Chunk]:
        """Those that an earlier start has finished, by start and stop. A line cut short by a kill is none."""
        done = {}
        self.file.seek(0)
        for line in self.file:
            try:
                chunk = Chunk(**json.loads(line))
            except (ValueError, TypeError):
                continue
            bad = {int(i): reason for i, reason in chunk.bad.items()}  # JSON has no numbers as keys
            done[chunk.start, chunk.stop] = replace(chunk, bad=bad)
        return done

    def add(self, chunk: Chunk) -> None:
        """Note a chunk whose pixels are written."""
        self.file.seek(0, os.SEEK_END)
        self.file.write("\n" + json.dumps(asdict(chunk)))
        self.file.flush()


@contextlib.contextmanager
def open_journal(stem: Path) -> Iterator[Journal]:
    """The journal of an unfinished build beside `stem`, or a new one; gone with its pixels after a build that ends.

    While another process has it, or where files cannot be locked, a journal of its own that no later start finds.
    """
    journal, is_shared = stem.with_suffix(".journal"), True
    file = _lock(journal)
    if file is None:
        journal, is_shared = stem.with_name(f"{stem.name}.{secrets.token_hex(4)}.journal"), False
        file = journal.open("a+")
    ended = False
    try:
        with file:
            yield Journal(file, journal.with_suffix(".partial"))
            ended = True
    finally:
        if ended or not is_shared:
            journal.with_suffix(".partial").unlink(missing_ok=True)
            journal.unlink(missing_ok=True)


def _lock(path: Path) -> TextIO | None:
    """The file, open and locked until it is closed or its process ends; None where somebody else holds it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else its last holder has just removed it
            return file
    except OSError:
        pass
    file.close()
    return None


def checksum(path: Path, offset: int, length: int) -> int | None:
    """CRC-32 of some bytes of a file, read a little at a time; None where it ends before."""
    crc = 0
    with path.open("rb") as file:
        file.seek(offset)
        while length and (block := file.read(min(length, 2**20))):
            crc, length = zlib.crc32(block, crc), length - len(block)
    return crc if length == 0 else None
