"""Maps arrays in files into memory, so that all processes of a machine share one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MappedFile:
    """The location of a uint8 array, sent to other processes instead of its bytes."""

    path: str
    shape: tuple[int, ...]
    offset: int = 0

    def open(self) -> np.memmap:
        """Map the array copy-on-write: torch accepts it without a warning, and writing to it cannot change the file."""
        return np.memmap(self.path, np.uint8, "c", self.offset, self.shape)


def to_send(array: np.ndarray) -> np.ndarray | MappedFile:
    """Return a stand-in to pickle for a mapped array, or for consecutive rows of one; other arrays are unchanged."""
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
    # numpy reports the offset of the whole mapped array for each of its parts.
    offset = array.offset + array.ctypes.data - whole.ctypes.data
    return MappedFile(str(array.filename), array.shape, offset)


def received(sent: np.ndarray | MappedFile) -> np.ndarray:
    """Return the array that `to_send` was given."""
    return sent.open() if isinstance(sent, MappedFile) else sent
