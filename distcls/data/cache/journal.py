"""Records how far decoding has come, so that after a kill the next start resumes there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Chunk:
    """A range of decoded images, from start to stop (exclusive)."""

    start: int
    stop: int
    bad: dict[int, str]
    """Index and reason of each image that cannot be decoded."""
    num_animations: int
    """Images that are the first frame of several."""
    checksum: int
    """CRC-32 of their pixels; 0 if pixels are not kept."""
    digests: str
    """content_digest of each file, concatenated, in hex; zeros for bad images and images without their own file."""
    stamp: str
    """FolderSet.stamp of the image set."""


@dataclass
class Journal:
    """One line of JSON per finished chunk, written after its pixels, in the folder that is being built."""

    file: TextIO

    @property
    def folder(self) -> Path:
        """The folder where the entry's files are written."""
        return Path(self.file.name).parent

    def chunks(self) -> list[Chunk]:
        """Return the chunks that earlier starts finished, oldest first. Lines cut short by a kill are skipped."""
        done = []
        self.file.seek(0)
        for line in self.file:
            try:
                chunk = Chunk(**json.loads(line))
                bad = {int(i): reason for i, reason in chunk.bad.items()}  # JSON keys are strings
            except (ValueError, TypeError, AttributeError):
                continue
            done.append(replace(chunk, bad=bad))
        return done

    def add(self, chunk: Chunk) -> None:
        """Record a chunk whose pixels have been written."""
        self.file.seek(0, os.SEEK_END)
        self.file.write("\n" + json.dumps(asdict(chunk)))
        self.file.flush()
