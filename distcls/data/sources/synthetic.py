"""Generates images for load tests, as many and as large as you like."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from distcls.config.settings import DataConfig
from distcls.config.wording import nearest
from distcls.data.decoding.decode import Decoding, fit
from distcls.data.sources.image_set import ImageSet, digest
from distcls.errors import UsageError
from distcls.plan import keys

PATTERN_SIZE = 4


@dataclass
class SyntheticSet:
    """Images that are half their class's pattern of 4x4 colored squares and half noise: easy to learn."""

    num_images: int = 10_000
    num_classes: int = 10
    size: int = 64
    """Height and width in pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        self.class_names = [f"class{label}" for label in range(self.num_classes)]
        self.labels = np.arange(self.num_images, dtype=np.int64) % self.num_classes

    def __reduce__(self) -> tuple[type[SyntheticSet], tuple[int, ...]]:
        """Send only the numbers to other processes."""
        return SyntheticSet, (self.num_images, self.num_classes, self.size, self.seed)

    def __len__(self) -> int:
        return self.num_images

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        """Return uint8 (H, W, 3), see ImageSet."""
        pattern = Image.fromarray(self._random_pixels(PATTERN_SIZE, "synthetic class", int(self.labels[i])))
        noise = self._random_pixels(self.size, "synthetic image", i)
        pixels = np.asarray(pattern.resize((self.size, self.size), Image.Resampling.NEAREST)) // 2 + noise // 2
        return np.array(fit(Image.fromarray(pixels), decoding))

    def _random_pixels(self, size: int, purpose: str, number: int) -> np.ndarray:
        """Draw from PCG64's raw stream, which numpy promises never to change, as these images must never change."""
        generator = keys.numpy_generator(self.seed, purpose, number).bit_generator
        count = size * size * 3
        return generator.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(size, size, 3)

    def name(self, i: int) -> str:
        """Return a name such as synthetic/17."""
        return f"synthetic/{i}"

    def fingerprint(self) -> str:
        """Return a digest of everything that determines the images."""
        return digest(self.class_names, repr(asdict(self)).encode())


def open_synthetic(config: DataConfig) -> dict[str, ImageSet]:
    """Return one split, from data.args: num_images, num_classes, size in pixels, seed. Raises UsageError."""
    args: dict[str, Any] = {"size": config.image_size or SyntheticSet.size, **config.args}
    known = [field.name for field in fields(SyntheticSet)]
    for name, value in args.items():
        if name not in known:
            raise UsageError(f"data.args.{name} is not known.{nearest(name, known)} Known: {', '.join(known)}")
        least = {"seed": 0, "size": 1}.get(name, 2)
        if not isinstance(value, int) or value < least:
            raise UsageError(f"data.args.{name}={value!r} must be a whole number, {least} or more")
    return {"train": SyntheticSet(**args)}
