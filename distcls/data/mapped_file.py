"""Arrays that lie in a file and are mapped into memory, so that all processes of a machine share one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MappedFile:
    """Where a uint8 array lies: what travels to another process instead of its bytes."""

    path: str
    shape: tuple[int, ...]
    offset: int = 0

    def open(self) -> np.memmap:
        """Maps it copy-on-write: torch takes it without a warning, and nobody can change the file by it."""
        return np.memmap(self.path, np.uint8, "c", self.offset, self.shape)


def to_send(array: np.ndarray) -> np.ndarray | MappedFile:
    """Stands in for a whole mapped array in a pickle; other arrays stay themselves."""
    if isinstance(array, np.memmap) and array.filename:
        return MappedFile(str(array.filename), array.shape, array.offset)
    return array


def received(sent: np.ndarray | MappedFile) -> np.ndarray:
    """The other end of `to_send`."""
    return sent.open() if isinstance(sent, MappedFile) else sent
