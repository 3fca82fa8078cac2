"""Changed copies are found, different images are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from distcls.sweeps.audit.near_duplicates import find_near_duplicates


def landscape(i: int) -> Image.Image:
    coarse = np.random.default_rng(i).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


def square(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    ("change", "is_mirrored"),
    [
        (lambda image: image, False),
        (recompressed, False),
        (lambda image: image.resize((40, 40)), False),
        (lambda image: ImageEnhance.Brightness(image).enhance(1.2), False),
        (lambda image: image.convert("L").convert("RGB"), False),
        (lambda image: image.rotate(2, Image.Resampling.BILINEAR), False),
        (ImageOps.mirror, True),
        (lambda image: recompressed(ImageOps.mirror(image)), True),
    ],
    ids=["copy", "recompressed", "smaller", "brighter", "gray", "turned", "mirrored", "mirrored and recompressed"],
)
def test_a_changed_copy_is_found(change: Callable[[Image.Image], Image.Image], is_mirrored: bool) -> None:
    images = [*map(landscape, range(60)), change(landscape(7))]
    pairs = find_near_duplicates(np.stack(list(map(square, images))))
    assert [(pair.first, pair.second, pair.is_mirrored) for pair in pairs] == [(7, 60, is_mirrored)]
    assert 0.7 < pairs[0].similarity <= 1.00001


def test_images_of_one_color_are_like_nothing() -> None:
    squares = np.full((5, 32, 32, 3), 200, np.uint8)
    squares[1] = 90
    assert find_near_duplicates(squares) == []


def test_images_that_are_all_alike_need_more_than_likeness(one_thread: None) -> None:
    """Digits of 8 x 8 pixels: at the threshold for photographs, one pair in fifty would count."""
    from sklearn.datasets import load_digits

    images = [Image.fromarray((pixels * 15).astype(np.uint8)).convert("RGB") for pixels in load_digits().images]
    squares = np.stack(list(map(square, [*images[:900], images[3]])))
    pairs = find_near_duplicates(squares)
    assert (pairs[0].first, pairs[0].second) == (3, 900) and len(pairs) < 10


def test_the_most_similar_pairs_are_kept_if_there_are_too_many() -> None:
    squares = np.stack([square(landscape(i % 30)) for i in range(60)])
    squares[31:] = squares[31:] // 2 + np.random.default_rng(0).integers(0, 40, squares[31:].shape).astype(np.uint8)
    assert len(find_near_duplicates(squares)) == 30
    few = find_near_duplicates(squares, most=3)
    assert len(few) == 3 and (few[0].first, few[0].second) == (0, 30)


def test_blocks_are_compared_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distcls.sweeps.audit.near_duplicates.BLOCK", 7)
    monkeypatch.setattr("distcls.sweeps.audit.near_duplicates.COLUMNS", 9)
    done: list[tuple[int, int]] = []
    squares = np.stack([square(landscape(i % 20)) for i in range(40)])
    pairs = find_near_duplicates(squares, lambda *counts: done.append(counts))
    assert sorted((pair.first, pair.second) for pair in pairs) == [(i, i + 20) for i in range(20)]
    assert done[0] == (0, 40) and done[-1] == (40, 40)
