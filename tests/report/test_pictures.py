"""Pages of images come out whole for any number and size."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import count_color, read

from distcls.report.figure import GREEN, RED
from distcls.report.pictures import plot_images, prediction_title


@pytest.mark.parametrize(("number", "size"), [(0, 8), (1, 8), (5, 32), (17, 300), (64, 8), (70, 32)])
def test_images_of_any_number_and_size(tmp_path, number, size):
    images = np.random.default_rng(0).integers(0, 255, (number, size, size + 3, 3), dtype=np.uint8)
    titles = [f"said a very long class name indeed, {index}\nis cat" for index in range(number)]
    plot_images(images, titles, tmp_path / "images.png", "Worst mistakes", None)
    read(tmp_path / "images.png")


def test_small_images_keep_crisp_pixels(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2, ::2], image[1::2, 1::2] = (200, 40, 240), (200, 40, 240)
    image[::2, 1::2], image[1::2, ::2] = (60, 220, 90), (60, 220, 90)
    plot_images(image[None], ["checks"], tmp_path / "images.png", "A training batch as the model saw it")
    pixels = read(tmp_path / "images.png")
    purple, green = count_color(pixels, (200, 40, 240)), count_color(pixels, (60, 220, 90))
    assert purple > 10_000 and abs(purple - green) < 0.05 * purple
    assert purple + green > 0.98 * (1.8 * 120) ** 2


def test_right_is_green_and_wrong_is_red(tmp_path):
    images = np.full((2, 8, 8, 3), 128, np.uint8)
    plot_images(images, ["cat", "dog"], tmp_path / "images.png", "Predictions", ["green", "red"])
    pixels = read(tmp_path / "images.png")
    left, right = pixels[:, : pixels.shape[1] // 3], pixels[:, pixels.shape[1] // 3 :]
    assert count_color(left, GREEN) > 500 and count_color(left, RED) == 0
    assert count_color(right, RED) > 500 and count_color(right, GREEN) == 0


def test_a_title_says_what_was_predicted_and_what_is_true():
    assert prediction_title("ship", 0.657, "airplane", "a.png") == "predicted ship (66%)\ntrue airplane\na.png"
