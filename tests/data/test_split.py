from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.config.settings import DataConfig, RandomResizedCropConfig
from distcls.data.build import OneProcess, build_data


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Two classes of ten images, 12 pixels wide and high."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng((label, i)).integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_a_whole_image_does_not_depend_on_what_is_cached(noise: Path, tmp_path: Path, one_process: OneProcess) -> None:
    """Training crops from images of 10 pixels, but evaluations, and weights that come from images, see 8."""
    seen = []
    for cache in ("4 GB", "0"):
        config = DataConfig(
            name="folder",
            root=str(noise),
            cache=cache,
            cache_dir=str(tmp_path / "cache"),
            image_size=8,
            decode_size=10,
            crop_fraction=0.8,
        )
        data = build_data(config, one_process, crop=RandomResizedCropConfig())
        assert (data.train.pixels is None) == (cache == "0")
        seen.append(data.train.whole_image(3, data.decoding))
    assert seen[0].shape == (8, 8, 3) and np.array_equal(*seen)
