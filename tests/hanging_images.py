"""A data set for tests, one of whose images is never read to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from distcls.data.sources.image_set import ImageSet


class Hanging(ImageSet):
    """Forty images of two classes."""

    class_names: Sequence[str] = ("a", "b")
    labels = np.arange(40) % 2

    def __len__(self) -> int:
        return 40

    def image(self, index, decoding):
        if index == 20:
            time.sleep(1000)
        return np.zeros((8, 8, 3), np.uint8)


def make(config):
    return {"train": Hanging()}
