"""A confusion matrix can be read for any number of classes, whatever they are called."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from drawn import count_color, read

from distcls.report.confusion import plot_confusion


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
