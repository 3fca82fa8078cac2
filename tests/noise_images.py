"""A data set for tests: noise that depends on the class, with 1,003 images to validate on."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image

NUM_VAL = 1003


def make_images(config):
    """A data set of noise that depends on the class: train, val of 1,003 images, and test."""
    from distcls.data.sources.image_set import ArraySet

    draw = np.random.default_rng(0)
    names = [f"c{i}" for i in range(7)]
    prototypes = draw.integers(0, 256, (7, 8, 8, 3))

    def split(name, count):
        labels = draw.integers(0, 7, count)
        noise = draw.integers(-120, 120, (count, 8, 8, 3))
        return ArraySet(name, names, labels, (prototypes[labels] + noise).clip(0, 255).astype(np.uint8))

    return {
        "train": split("train", config.args.get("num_train", 200)),
        "val": split("val", NUM_VAL),
        "test": split("test", 50),
    }


class LibraryNoise:
    """A transform that draws from every generator that a library may use."""

    def __call__(self, image: Image.Image) -> Image.Image:
        noise = np.random.randint(64) ^ random.randrange(64) ^ int(torch.randint(64, ()))
        return Image.fromarray(np.asarray(image) ^ np.uint8(noise))
