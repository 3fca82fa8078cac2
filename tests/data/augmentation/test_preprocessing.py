"""Pixels become what the model eats by one formula, in the memory format that the model wants."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from distcls.config.settings import NormalizeConfig
from distcls.data.augmentation.preprocessing import Normalize, describe_preprocessing, described_decoding
from distcls.data.decoding.decode import Decoding

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def make_pixels(n=3, height=5, width=4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_pixels_are_scaled_to_1_and_normalized_by_channel(channels_last, dtype, tolerance):
    config, pixels = NormalizeConfig(), make_pixels()
    images = Normalize.build(config, CPU, dtype, channels_last)(pixels)
    assert images.dtype == dtype and images.shape == (3, 3, 5, 4)
    for i, y, x, c in np.ndindex(3, 5, 4, 3):
        expected = (pixels[i, y, x, c].item() / 255 - config.mean[c]) / config.std[c]
        assert images[i, c, y, x].item() == pytest.approx(expected, abs=4 * tolerance)


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_lie_in_the_memory_format_of_the_weights(channels_last):
    images = Normalize.build(NormalizeConfig(), CPU, torch.float32, channels_last)(make_pixels())
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert images.is_contiguous(memory_format=wanted)


def test_undo_gives_the_pixels_back():
    normalize = Normalize.build(NormalizeConfig(), CPU, torch.float32, True)
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(normalize.undo(normalize(every)), every)


def test_a_decoding_survives_its_file():
    decoding = Decoding(32, "pad", "#102030", (-1.0, 1.0))
    stored = json.loads(json.dumps(describe_preprocessing(decoding, NormalizeConfig())))
    assert described_decoding(stored) == decoding
    del stored["background"]  # a run from before there was such a setting
    assert described_decoding(stored) == Decoding(32, "pad", "white", (-1.0, 1.0))
