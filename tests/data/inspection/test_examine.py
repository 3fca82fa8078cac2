"""What `distcls check` finds out about each image."""

from __future__ import annotations

import numpy as np

from distcls.data.decoding.decode import Decoding
from distcls.data.inspection.examine import inspect
from distcls.data.sources.image_set import ArraySet


class Failing(ArraySet):
    """An image set of the user's own in which image 1 cannot be read."""

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        if i == 1:
            raise OSError("Stale file handle")
        return super().image(i, decoding)


def test_an_image_that_cannot_be_read_is_a_bad_image() -> None:
    images = np.full((3, 8, 8, 3), 7, np.uint8)
    found = inspect(Failing("own", ["a"], np.zeros(3, np.int64), images), Decoding(8), np.ones(3, bool))
    assert found.bad == {1: "Stale file handle"}
    assert found.num_measured == 2 and found.histogram[0, 7] == 2 * 64
    assert found.sizes.tolist() == [[8, 8], [0, 0], [8, 8]] and not found.digests[1].any()
