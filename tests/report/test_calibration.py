"""The reliability diagram shows what is right and what is only thought so."""

from __future__ import annotations

import numpy as np
from drawn import count_color, read

from distcls.report.calibration import plot_calibration
from distcls.report.figure import BLUE, ORANGE


def test_calibration(tmp_path):
    count = np.array([0, 0, 4, 10, 86])
    correct, confidence_sum = np.array([0, 0, 1, 7, 80]), np.array([0, 0, 2.0, 7.5, 85.0])
    plot_calibration(confidence_sum, correct, count, 0.0625, "test", tmp_path / "calibration.png")
    pixels = read(tmp_path / "calibration.png")
    assert count_color(pixels, BLUE) > 5000 and count_color(pixels, ORANGE) > 100


def test_calibration_of_nothing(tmp_path):
    plot_calibration(np.zeros(5), np.zeros(5), np.zeros(5), 0.0, "test", tmp_path / "calibration.png")
    read(tmp_path / "calibration.png")
