"""For tests of files that go bad during a run: a disk that gives other bytes once the images have been checked."""

from __future__ import annotations

import numpy as np


def break_files(names: list[str]) -> None:
    """From here on these images of folders can still be hashed and checked, and then not be decoded any more."""
    from distcls.data.decoding.decode import BadImageError, Decoding
    from distcls.data.sources.folder import FolderSet

    image = FolderSet.image

    def broken(self: FolderSet, i: int, decoding: Decoding) -> np.ndarray:
        if self.name(i) in names:
            raise BadImageError("not an image, or in an unsupported format")
        return image(self, i, decoding)

    FolderSet.image = broken
