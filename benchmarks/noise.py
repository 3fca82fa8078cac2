"""Writes noise in the layout of the CIFAR-10 JPEGs, DIR/train/CLASS/*.jpg, to measure speed without CIFAR-10.

python benchmarks/noise.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES_PER_CLASS = {"train": 400, "test": 40}


def main() -> None:
    draw = np.random.default_rng(0)
    for split, count in IMAGES_PER_CLASS.items():
        for label in range(10):
            folder = Path(sys.argv[1]) / split / f"class{label}"
            folder.mkdir(parents=True)
            for i, pixels in enumerate(draw.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)):
                Image.fromarray(pixels).save(folder / f"{i:04}.jpg", quality=90)


if __name__ == "__main__":
    main()
