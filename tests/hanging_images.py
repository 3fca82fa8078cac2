"""A data set for tests, one of whose images is never read to its end."""

from __future__ import annotations

import time

import numpy as np

from distcls.data.decoding.decode import Decoding


class Hanging:
    """Forty images of two classes."""

    class_names: list[str] = ["a", "b"]  # noqa: RUF012
    labels = np.arange(40) % 2

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        if i == 20:
            time.sleep(1000)
        return np.zeros(decoding.shape, np.uint8)

    def name(self, i: int) -> str:
        return str(i)

    def fingerprint(self) -> str:
        return "hanging"


def make(config):
    return {"train": Hanging()}
