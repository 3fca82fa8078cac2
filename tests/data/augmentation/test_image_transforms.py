"""Transforms are found by name, with arguments as YAML can hold them, and tried out before training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from distcls.config.settings import TransformConfig
from distcls.data.augmentation.image_transforms import build_transforms
from distcls.errors import UsageError

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def message(*transforms: TransformConfig) -> str:
    with pytest.raises(UsageError) as caught:
        build_transforms(list(transforms), 0, 16)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("RandAugment", {"num_ops": 2, "magnitude": 12}),
        ("AutoAugment", {"policy": "cifar10"}),
        ("TrivialAugment", {}),
        ("TrivialAugmentWide", {}),
        ("AugMix", {}),
        ("RandomPerspective", {"distortion_scale": 0.3, "p": 1.0}),
        ("GaussianBlur", {"kernel_size": 3}),
        ("RandomErasing", {"p": 1.0}),
        ("ElasticTransform", {"sigma": 1.0}),
    ],
)
def test_transforms_of_torchvision_by_name(name, args):
    transforms = build_transforms([TransformConfig(name, args)], 0, 16)
    assert transforms is not None
    changed = transforms([IMAGE] * 8, range(8))
    assert {image.shape for image in changed} == {(16, 16, 3)} and {image.dtype.name for image in changed} == {"uint8"}
    assert sum(not np.array_equal(image, IMAGE) for image in changed) >= 4
    again = transforms([IMAGE] * 8, range(8))
    assert np.array_equal(changed, again)


def test_they_are_applied_in_order_and_tensors_are_allowed():
    configs = [
        TransformConfig("RandomInvert", {"p": 1.0}),
        TransformConfig("ToImage"),
        TransformConfig("GaussianNoise"),
    ]
    transforms = build_transforms(configs, 0, 16)
    assert transforms is not None
    (changed,) = transforms([IMAGE], [5])
    assert 2 < np.abs(changed.astype(int) - (255 - IMAGE)).mean() < 40


def test_your_own():
    transforms = build_transforms([TransformConfig("torchvision.transforms.v2:RandomInvert", {"p": 1.0})], 0, 16)
    assert transforms is not None
    assert np.array_equal(transforms([IMAGE], [0])[0], np.asarray(v2.RandomInvert(p=1)(Image.fromarray(IMAGE))))


def test_none_are_none():
    assert build_transforms([], 0, 16) is None


def test_mistakes_are_told():
    assert "has no 'RandAugmet' in transforms.v2. Did you mean 'RandAugment'?" in message(TransformConfig("RandAugmet"))
    wrong = message(TransformConfig("RandAugment", {"num_op": 3}))
    assert (
        "{'num_op': 3} do not fit RandAugment" in wrong and "It takes num_ops, magnitude, num_magnitude_bins" in wrong
    )
    assert "'cifar' is not a valid AutoAugmentPolicy" in message(TransformConfig("AutoAugment", {"policy": "cifar"}))
    assert "turn an image into uint8 (8, 8, 3)" in message(TransformConfig("Resize", {"size": 8}))
    assert "turn an image into uint8 (16, 16)," in message(TransformConfig("Grayscale"))
    assert "turn an image into float32 (16, 16, 3)" in message(TransformConfig("ToTensor"))
    assert "uint8 (16, 16, 3): leave out" not in message(TransformConfig("GaussianNoise"))
    assert "{name: ToImage} before" in message(TransformConfig("GaussianNoise"))
    not_callable = message(TransformConfig("torchvision:get_image_backend"))
    assert "torchvision:get_image_backend gave str, expected a transform" in not_callable
    assert "package.module:function" in message(TransformConfig("nothing.at.all:make"))
