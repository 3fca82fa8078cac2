from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.build import BuildingProcesses, build_data
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ImageSet
from distcls.errors import UsageError


def synthetic(image_size: int | None = None, **args: Any) -> ImageSet:
    return open_image_sets(DataConfig(name="synthetic", args=args, image_size=image_size))["train"]


def test_any_number_of_images_and_classes() -> None:
    images = synthetic(num_images=1_000_000, num_classes=1000, size=20)
    assert len(images) == 1_000_000 and len(images.class_names) == 1000
    assert np.bincount(images.labels).tolist() == [1000] * 1000
    assert images.image(999_999, Decoding(None)).shape == (20, 20, 3)
    assert images.image(5, Decoding(32)).shape == (32, 32, 3) and images.name(5) == "synthetic/5"
    assert synthetic(image_size=48).image(0, Decoding(None)).shape == (48, 48, 3)


def test_an_image_is_a_function_of_its_index() -> None:
    first, again = (synthetic(num_images=100, num_classes=5) for _ in range(2))
    again.image(3, Decoding(64))
    assert np.array_equal(first.image(17, Decoding(64)), again.image(17, Decoding(64)))
    assert np.array_equal(first.image(17, Decoding(64)), pickle.loads(pickle.dumps(first)).image(17, Decoding(64)))
    assert len(pickle.dumps(synthetic(num_images=1_000_000))) < 1000
    assert not np.array_equal(first.image(17, Decoding(64)), first.image(22, Decoding(64)))
    assert first.image(17, Decoding(64))[0, 0].tolist() == FIRST_PIXEL


FIRST_PIXEL = [164, 188, 180]
"""A run of last year must see its images again, whatever numpy's version."""


def test_classes_can_be_told_apart() -> None:
    images = synthetic(num_images=40, num_classes=10, size=32)
    pixels = np.stack([images.image(i, Decoding(4)) for i in range(40)]).astype(float).reshape(40, -1)
    nearest = np.abs(pixels[10:, None] - pixels[None, :10]).mean(axis=2).argmin(axis=1)
    assert np.array_equal(nearest, images.labels[10:])


def test_the_fingerprint_is_of_all_arguments() -> None:
    changes = [{}, {"num_images": 9}, {"num_classes": 3}, {"size": 9}, {"seed": 1}]
    assert len({synthetic(**args).fingerprint() for args in changes}) == len(changes)


def test_it_can_be_trained_on(tmp_path: Path, one_process: BuildingProcesses) -> None:
    args = {"num_images": 50, "num_classes": 2, "size": 8}
    config = DataConfig(name="synthetic", args=args, cache_dir=str(tmp_path))
    data = build_data(config, one_process)
    assert data.image_size == 8 and sum(map(len, data.splits())) == 50


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_image": 5}, "Did you mean 'num_images'"),
        ({"num_classes": 1}, "num_classes=1 must be a whole number, 2 or more"),
        ({"size": "64x32"}, "size='64x32' must be a whole number"),
    ],
)
def test_mistakes_are_explained(args: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synthetic(**args)
