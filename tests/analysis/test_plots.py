"""Every plot must come out whole and readable for any number of classes, epochs and images."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.analysis.plots import _fonts, plot_calibration, plot_confusion, plot_curves, plot_images
from distcls.errors import DiskError

BLUE, ORANGE, GREEN, RED = (9, 105, 218), (212, 102, 27), (26, 127, 55), (207, 34, 46)


def read(path: Path) -> np.ndarray:
    """Pixels, uint8 (H, W, 3), of a plot that is there, alone, and neither tiny, huge nor blank."""
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert 150 <= pixels.shape[0] <= 2000 and 250 <= pixels.shape[1] <= 2000
    inked = pixels.min(axis=2) < 250
    assert inked.mean() > 0.005
    border = np.concatenate([inked[0], inked[-1], inked[:, 0], inked[:, -1]])
    assert not np.any(border), "something is cut off at the edge"
    return pixels


def count_color(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(pixels.astype(int) - color).max(axis=2) <= 3).sum())


def rows(epochs: int) -> list[dict]:
    logged = []
    for step in range(1, 4 * epochs + 1):
        part = step / (4 * epochs)
        logged.append({"epoch": step / 4, "split": "train", "loss": 2 - part, "accuracy": part, "lr": 0.1 * (1 - part)})
        if step % 4 == 0:
            logged.append({"epoch": step / 4, "split": "val", "loss": 2.1 - part, "accuracy": part / 2, "lr": None})
    return logged


@pytest.mark.parametrize("epochs", [1, 30, 1000])
def test_curves_show_train_and_val(tmp_path, epochs):
    plot_curves(rows(epochs), tmp_path / "curves.png")
    pixels = read(tmp_path / "curves.png")
    assert count_color(pixels, BLUE) > 200 and count_color(pixels, ORANGE) > 100
    with_steps = [{**row, "step": 4 * row["epoch"]} for row in rows(epochs)]
    plot_curves(with_steps, tmp_path / "curves.png", kept_step=4)
    assert not np.array_equal(read(tmp_path / "curves.png"), pixels), "a star, and what it means"
    plot_curves(with_steps, tmp_path / "curves.png", kept_step=3)
    assert np.array_equal(read(tmp_path / "curves.png"), pixels)


def test_curves_of_rows_with_holes(tmp_path):
    holes = [
        {"epoch": 1.0, "split": "train", "loss": float("nan"), "accuracy": None, "lr": None},
        {"epoch": None, "split": "val", "loss": 1.0, "accuracy": 0.5, "lr": None},
    ]
    for logged in ([], holes, [*rows(2), *holes]):
        plot_curves(logged, tmp_path / "curves.png")
        read(tmp_path / "curves.png")


@pytest.mark.parametrize("num_classes", [2, 10, 21, 120, 1000])
def test_confusion_of_any_number_of_classes(tmp_path, num_classes):
    confusion = np.full((num_classes, num_classes), 0) + 50 * np.eye(num_classes, dtype=int)
    confusion[0, 1] = 123456
    names = [f"a rather long class name, number {index}" for index in range(num_classes)]
    plot_confusion(confusion, names, "test", tmp_path / "confusion.png")
    read(tmp_path / "confusion.png")


def test_confusion_shades_rows_by_their_own_size(tmp_path):
    plot_confusion(np.array([[90000, 10000], [1, 9]]), ["a", "b"], "val", tmp_path / "big.png")
    big = read(tmp_path / "big.png")
    (tmp_path / "big.png").unlink()
    plot_confusion(np.array([[9, 1], [10000, 90000]]), ["a", "b"], "val", tmp_path / "small.png")
    small = read(tmp_path / "small.png")
    colors, counts = np.unique(big.reshape(-1, 3), axis=0, return_counts=True)
    right, wrong = colors[np.argsort(-counts)[1:3]]
    for pixels in (big, small):
        assert abs(count_color(pixels, tuple(right)) - count_color(pixels, tuple(wrong))) < 0.2 * counts.max()


def test_confusion_of_odd_names_and_empty_rows(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(np.zeros((3, 3), int), ["$5 or $x_{", "猫", ""], "test", tmp_path / "confusion.png")
    read(tmp_path / "confusion.png")


def test_fonts_with_more_scripts_are_used_where_they_are_installed(monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: ["Papyrus", "Malgun Gothic", "DejaVu Sans"])
    _fonts.cache_clear()
    assert _fonts() == ["DejaVu Sans", "Malgun Gothic"]
    _fonts.cache_clear()


def test_calibration(tmp_path):
    count = np.array([0, 0, 4, 10, 86])
    correct, confidence_sum = np.array([0, 0, 1, 7, 80]), np.array([0, 0, 2.0, 7.5, 85.0])
    plot_calibration(confidence_sum, correct, count, 0.0625, "test", tmp_path / "calibration.png")
    pixels = read(tmp_path / "calibration.png")
    assert count_color(pixels, BLUE) > 5000 and count_color(pixels, ORANGE) > 100


def test_calibration_of_nothing(tmp_path):
    plot_calibration(np.zeros(5), np.zeros(5), np.zeros(5), 0.0, "test", tmp_path / "calibration.png")
    read(tmp_path / "calibration.png")


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


def test_a_plot_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"curves\.png"):
        plot_curves([], tmp_path / "file" / "curves.png")
