"""What a decoding that was killed has already done, so that the next start resumes there."""

from __future__ import annotations

import json
import os
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
    digests: str
    """content_digest of each file, one after the other, in hex; zeros for bad images and where there are no files."""
    stamp: str
    """Of the image set, see FolderSet."""


@dataclass
class Journal:
    """A line of JSON for each finished chunk, written after its pixels, in the folder that is being built."""

    file: TextIO

    @property
    def folder(self) -> Path:
        """Where the files of the entry are written."""
        return Path(self.file.name).parent

    def chunks(self) -> list[Chunk]:
        """Those that earlier starts have finished, the last one last. A line cut short by a kill is none."""
        done = []
        self.file.seek(0)
        for line in self.file:
            try:
                chunk = Chunk(**json.loads(line))
                bad = {int(i): reason for i, reason in chunk.bad.items()}  # JSON has no numbers as keys
            except (ValueError, TypeError, AttributeError):
                continue
            done.append(replace(chunk, bad=bad))
        return done

    def add(self, chunk: Chunk) -> None:
        """Note a chunk whose pixels are written."""
        self.file.seek(0, os.SEEK_END)
        self.file.write("\n" + json.dumps(asdict(chunk)))
        self.file.flush()
