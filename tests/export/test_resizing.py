"""Resizing inside a file gives the pixels that distcls gets with Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from distcls.data.decoding.decode import Decoding, decode, fit
from distcls.export.resizing import Resizing

WAYS = {
    "crop": Decoding(48),
    "crop, a part, bicubic": Decoding(48, crop_fraction=0.875, interpolation="bicubic"),
    "squish, bicubic": Decoding(48, "squish", interpolation="bicubic"),
    "pad": Decoding(48, "pad", background="#ff8000"),
    "odd": Decoding(33),
}
SIZES = [(48, 48), (47, 48), (61, 120), (120, 61), (20, 31), (1, 1), (1, 200), (33, 33), (97, 96)]


def smooth(height: int, width: int) -> np.ndarray:
    """An image without sharp pixels, like a photograph."""
    draw = np.random.default_rng(height * width).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(draw).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("way", WAYS)
def test_pixels_are_pillows(way):
    decoding = WAYS[way]
    resizing = Resizing(decoding)
    for height, width in SIZES:
        image = smooth(height, width)
        given = resizing(torch.from_numpy(image.copy()))
        expected = np.asarray(fit(Image.fromarray(image), decoding), np.int16)
        assert given.dtype == torch.uint8 and given.shape == (1, *decoding.shape)
        difference = np.abs(given[0].numpy() - expected)
        assert difference.max() <= 2 and difference.mean() < 0.1, (height, width)


@pytest.mark.parametrize("turned", [False, True])
def test_large_jpegs_are_reduced_as_in_decoding(tmp_path, turned):
    image = smooth(900, 1201).transpose(1, 0, 2) if turned else smooth(900, 1201)
    Image.fromarray(image).save(tmp_path / "x.jpg", quality=95)
    decoding = Decoding(40)
    whole = decode(tmp_path / "x.jpg", Decoding(None))
    given = Resizing(decoding)(torch.from_numpy(whole))[0].numpy()
    assert np.abs(given - decode(tmp_path / "x.jpg", decoding).astype(np.int16)).mean() < 0.3
