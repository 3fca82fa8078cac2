"""An image is the same to the model, whether it is a file or held in Python; what is no image is explained."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distcls.data.decoding.decode import BadImageError, Decoding, decode
from distcls.data.decoding.given import given_name, given_pixels, one_or_many
from distcls.errors import UsageError

SEEN = Decoding(16)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def as_file(image: Image.Image, format: str = "PNG", **options: Any) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, format, **options)
    return decode(file, SEEN)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4), (16, 16, 3), (1, 1), (3, 300, 3)])
def test_arrays_and_tensors_are_like_files_with_the_same_pixels(shape: tuple[int, ...]) -> None:
    array = noise(*shape)
    expected = as_file(Image.fromarray(array))
    shares = array.astype(np.float64) / 255
    channels_first = torch.from_numpy(array).movedim(-1, 0) if array.ndim == 3 else torch.from_numpy(array)
    for image in (
        *(array, np.asfortranarray(array), shares, shares.astype(np.float32)),
        *(channels_first, channels_first / 255, (channels_first / 255).double().requires_grad_()),
    ):
        assert np.array_equal(given_pixels(image, SEEN), expected)


def test_one_channel_is_gray_and_booleans_are_black_and_white() -> None:
    gray = noise(20, 30)
    for image in (gray[..., None], torch.from_numpy(gray)[None]):
        assert np.array_equal(given_pixels(image, SEEN), as_file(Image.fromarray(gray)))
    assert np.array_equal(given_pixels(gray > 99, SEEN), as_file(Image.fromarray(gray > 99)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_images_are_like_their_files_and_stay_as_they_are(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(20, 30, 3))
    image = Image.fromarray(noise(20, 30).astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    before = image.tobytes()
    assert np.array_equal(given_pixels(image, SEEN), decode(path, SEEN))
    with Image.open(path) as opened:
        assert np.array_equal(given_pixels(opened, SEEN), decode(path, SEEN))
    assert image.tobytes() == before


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_pil_images_are_turned_upright_as_files_are(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(given_pixels(image, SEEN), decode(tmp_path / "x.png", SEEN))
        assert image.size == (30, 20), "the user's image is turned"


def test_a_range_of_the_run_holds_for_arrays_too() -> None:
    heights = np.linspace(-50, 4050, 400, dtype=np.float32).reshape(20, 20)
    seen = Decoding(20, float_range=(0, 4000))
    pixels = given_pixels(heights, seen)[..., 0]
    assert pixels.min() == 0 and pixels.max() == 255 and abs(int(pixels[10, 0]) - 255 * heights[10, 0] / 4000) < 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise(3, 20, 30), r"an array of shape \(3, 20, 30\).*transpose\(1, 2, 0\)"),
        (torch.zeros(20, 30, 3), r"a tensor of shape \(20, 30, 3\).*permute\(2, 0, 1\)"),
        (noise(20, 30, 5), r"an image of shape \(20, 30, 5\): give uint8"),
        (np.zeros((0, 30, 3), np.uint8), r"an image of shape \(0, 30, 3\)"),
        (np.zeros(30, np.uint8), r"an image of shape \(30,\)"),
        (np.zeros((20, 30), np.int64), "an image of int64: give uint8, or floats from 0 to 1"),
        (torch.zeros(3, 20, 30, dtype=torch.int32), "an image of int32"),
        (np.full((20, 30), 255.0), "floats from 255 to 255.*Do not normalize"),
        (np.full((20, 30), -0.5), "floats from -0.5 to -0.5"),
        (np.full((20, 30), np.nan), "floats from nan to nan"),
    ],
)
def test_what_is_wrong_is_said(image: Any, message: str) -> None:
    with pytest.raises(BadImageError, match=message):
        given_pixels(image, SEEN)


def test_one_or_many() -> None:
    array, tensor = noise(5, 20, 30, 3), torch.zeros(5, 3, 20, 30)
    for one in ("a.png", Path("a.png"), array[0], tensor[0], Image.fromarray(array[0])):
        is_one, images = one_or_many(one)
        assert is_one and len(images) == 1
    for many in (["a.png"] * 5, (array[0],) * 5, array, tensor, (tensor[i] for i in range(5)), [Path("a"), *array[:4]]):
        is_one, images = one_or_many(many)
        assert not is_one and len(images) == 5
    for wrong in (3, None, {"a": 1}, b"bytes", [["a.png"]], [1]):
        with pytest.raises(UsageError, match="is not an image: give a path, a PIL image"):
            one_or_many(wrong)


def test_names() -> None:
    assert given_name(Path("a/b.png"), 3) == "a/b.png" and given_name(noise(2, 2), 3) == "image 3"
