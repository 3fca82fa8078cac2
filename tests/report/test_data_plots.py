"""The pictures of a data set come out whole for any number of classes, shapes and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn import count_color, read

from distcls.report.data_plots import plot_class_counts, plot_colors, plot_samples, plot_sizes
from distcls.report.figure import BLUE, ORANGE


@pytest.mark.parametrize(("num_classes", "per_class", "blocks"), [(2, 10, 1), (20, 10, 1), (100, 2, 5), (3, 0, 1)])
def test_samples_stand_beside_their_class(tmp_path: Path, num_classes: int, per_class: int, blocks: int) -> None:
    names = [f"a rather long class name, number {i}" for i in range(num_classes)]
    images = [[np.full((32, 32, 3), (9, 105, 218), np.uint8)] * per_class for _ in names]
    plot_samples(names, images, tmp_path / "samples.png", blocks)
    shown = count_color(read(tmp_path / "samples.png"), BLUE)
    assert shown == pytest.approx(num_classes * per_class * (0.72 * 120) ** 2, rel=0.05)


def test_samples_of_different_numbers(tmp_path: Path) -> None:
    one = np.zeros((300, 300, 3), np.uint8)
    plot_samples(["many", "one", "none"], [[one] * 10, [one], []], tmp_path / "samples.png", 1)
    read(tmp_path / "samples.png")


@pytest.mark.parametrize("num_classes", [2, 60, 61, 1000])
def test_counts_of_any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    counts = {"train": np.arange(1, num_classes + 1), "val": 1 + np.arange(num_classes) // 3}
    plot_class_counts(counts, [f"class {i}" for i in range(num_classes)], tmp_path / "classes.png")
    pixels = read(tmp_path / "classes.png")
    assert count_color(pixels, BLUE) > count_color(pixels, ORANGE) > 1000


@pytest.mark.parametrize(
    "shapes", [[], [(32, 32, 60000)], [(1, 1, 1), (9000, 20, 3)], [(w, w + 7, 1) for w in range(20, 3000)]]
)
def test_sizes_of_any_images(tmp_path: Path, shapes: list[tuple[int, int, int]]) -> None:
    plot_sizes(shapes, 224, tmp_path / "sizes.png")
    assert count_color(read(tmp_path / "sizes.png"), ORANGE) > 300


def test_the_share_that_is_enlarged_is_of_images_not_of_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, title, **_: titles.append(title))
    plot_sizes([(100, 500, 1), (300, 400, 3)], 224, tmp_path / "sizes.png")
    assert titles == ["2 shapes", "Short sides: 25% are enlarged"]


@pytest.mark.parametrize("images", ["none", "black", "noise"])
def test_colors_of_any_images(tmp_path: Path, images: str) -> None:
    histogram = np.zeros((3, 256), np.int64)
    if images == "black":
        histogram[:, 0] = 1000
    if images == "noise":
        histogram += np.arange(256)
    plot_colors(np.full((8, 8, 3), 128, np.uint8), histogram, [0.5] * 3, [0.25] * 3, tmp_path / "colors.png")
    read(tmp_path / "colors.png")
