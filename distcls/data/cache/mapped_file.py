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
    """Stands in for a mapped array, or consecutive rows of one, in a pickle; other arrays stay themselves."""
    if (
        not isinstance(array, np.memmap)
        or not array.filename
        or array.dtype != np.uint8
        or not array.flags.c_contiguous
    ):
        return array
    whole: np.ndarray = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    # numpy gives every part of a mapped array the offset of the whole.
    offset = array.offset + array.ctypes.data - whole.ctypes.data
    return MappedFile(str(array.filename), array.shape, offset)


def received(sent: np.ndarray | MappedFile) -> np.ndarray:
    """The other end of `to_send`."""
    return sent.open() if isinstance(sent, MappedFile) else sent
