"""Curves are whole and readable for any number of epochs, and draw means of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import count_color, read
from matplotlib.axes import Axes

from distcls.report.curves import plot_curves
from distcls.report.figure import BLUE, ORANGE


def rows(epochs: int, with_means: bool = True) -> list[dict]:
    """Four steps an epoch, the means of which are beside those of val, but not in files of version 0.1.0."""
    logged = []
    for step in range(1, 4 * epochs + 1):
        part = step / (4 * epochs)
        of_step = {"step": step, "epoch": step / 4}
        logged.append({**of_step, "split": "train", "loss": 2 - part, "accuracy": part, "lr": 0.1 * (1 - part)})
        if step % 4 == 0:
            means = {"train_loss": 2 - part + 1.5 / (4 * epochs), "train_accuracy": part} if with_means else {}
            logged.append({**of_step, "split": "val", "loss": 2.1 - part, "accuracy": part / 2, "lr": None, **means})
    return logged


@pytest.mark.parametrize("with_means", [True, False])
@pytest.mark.parametrize("epochs", [1, 30, 1000])
def test_curves_show_train_and_val(tmp_path, epochs, with_means):
    plot_curves(rows(epochs, with_means), tmp_path / "curves.png")
    pixels = read(tmp_path / "curves.png")
    assert count_color(pixels, BLUE) > 100 and count_color(pixels, ORANGE) > 100
    plot_curves(rows(epochs, with_means), tmp_path / "curves.png", kept_step=4)
    assert not np.array_equal(read(tmp_path / "curves.png"), pixels), "a star, and what it means"
    plot_curves(rows(epochs, with_means), tmp_path / "curves.png", kept_step=3)
    assert np.array_equal(read(tmp_path / "curves.png"), pixels)


def drawn_lines(monkeypatch: pytest.MonkeyPatch, folder: Path, logged: list[dict]) -> dict[str, tuple[Any, Any]]:
    """x and y of each line of the loss that the legend names."""
    lines: dict[str, tuple[Any, Any]] = {}
    plot = Axes.plot

    def note(axes: Axes, *args: Any, **style: Any) -> Any:
        if "label" in style:
            lines.setdefault(style["label"], args[:2])
        return plot(axes, *args, **style)

    monkeypatch.setattr(Axes, "plot", note)
    plot_curves(logged, folder / "curves.png")
    return lines


@pytest.mark.parametrize("with_means", [True, False])
def test_training_is_drawn_as_means_of_epochs(monkeypatch, tmp_path, with_means):
    """In the middle of what they are means of; of a file without them, they are those of the logged steps."""
    epochs, losses = drawn_lines(monkeypatch, tmp_path, rows(3, with_means))["train (epoch means)"]
    assert epochs == pytest.approx([0.5, 1.5, 2.5] if with_means else [0.625, 1.625, 2.625])
    assert losses == pytest.approx([2 - 2.5 / 12, 2 - 6.5 / 12, 2 - 10.5 / 12])


def test_evaluations_that_are_no_epochs_are_called_so(monkeypatch, tmp_path):
    logged = [row for row in rows(8) if row["split"] == "train" or row["epoch"] % 2 == 0]
    lines = drawn_lines(monkeypatch, tmp_path, logged)
    assert list(lines) == ["train (means between evaluations)", "val"]
    assert lines["train (means between evaluations)"][0] == pytest.approx([1, 3, 5, 7])


def test_curves_of_rows_with_holes(tmp_path):
    holes = [
        {"epoch": 1.0, "split": "train", "loss": float("nan"), "accuracy": None, "lr": None},
        {"epoch": None, "split": "val", "loss": 1.0, "accuracy": 0.5, "lr": None},
        {"epoch": 1.0, "split": "val", "loss": 1.0, "accuracy": 0.5, "lr": None, "train_loss": 2.0},
    ]
    for logged in ([], holes, [*rows(2), *holes]):
        plot_curves(logged, tmp_path / "curves.png")
        read(tmp_path / "curves.png")
