"""Small image folders and a run of one process, for the tests of the data package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.data.build import OneProcess


def write_images(folder: Path, count: int, size: tuple[int, int] = (8, 8), suffix: str = ".png") -> None:
    """Images of one gray level each, 10 apart, so that a test can tell them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (i * 10 % 256,) * 3).save(folder / f"{i:03}{suffix}")


@pytest.fixture
def one_process() -> OneProcess:
    return OneProcess()


@pytest.fixture(scope="session")
def make_images() -> Callable[..., None]:
    return write_images


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    """root/cat with 10 and root/dog with 20 images of 8x8 pixels."""
    root = tmp_path / "images"
    write_images(root / "cat", 10)
    write_images(root / "dog", 20)
    return root


@pytest.fixture
def gradient() -> Image.Image:
    """40 wide, 20 high; red grows to the right, green downwards."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0] = np.arange(40) * 6
    pixels[..., 1] = np.arange(20)[:, None] * 12
    return Image.fromarray(pixels)
