"""Curves are whole and readable for any number of epochs."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import count_color, read

from distcls.report.curves import plot_curves
from distcls.report.figure import BLUE, ORANGE


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
