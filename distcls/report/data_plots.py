"""Draws a data set before it is trained on: samples of each class, class counts, sizes and colors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from distcls.config.wording import count
from distcls.report.figure import BLUE, GRAY, GREEN, INK, ORANGE, RED, figure_file, shorten
from distcls.report.pictures import Page

SPLIT_COLORS = {"train": BLUE, "val": ORANGE, "test": GREEN}
CHANNELS = {"red": RED, "green": GREEN, "blue": BLUE}
MAX_CLASSES_WITH_BARS = 60


def plot_samples(names: Sequence[str], samples: Sequence[Sequence[np.ndarray]], path: str | Path, blocks: int) -> None:
    """Draw a row for each class, its name and then its samples, uint8 (H, W, 3), in `blocks` columns of rows."""
    most, rows = max(map(len, samples), default=1), math.ceil(len(names) / blocks)
    label, cell, gap, top = 1.5, 0.72, 0.05, 0.5
    block = label + most * (cell + gap) + 0.15
    width, height = max(blocks * block + 0.2, 4.6), top + rows * (cell + gap) + 0.1
    page = Page(width, height)
    page.write("Samples of each class, as decoded", 0.15, 0.33, INK, size=12, bold=True)
    for place, (name, images) in enumerate(zip(names, samples, strict=True)):
        column, row = divmod(place, rows)
        x, y = 0.15 + column * block, top + row * (cell + gap)
        page.write(shorten(name, 22), x + label - 0.12, y + cell / 2, INK, anchor="rm")
        for index, image in enumerate(images):
            page.draw_image(image, x + label + index * (cell + gap), y, cell)
    page.save(path)


def plot_class_counts(counts: Mapping[str, np.ndarray], class_names: list[str], path: str | Path) -> None:
    """Draw the images of each class in each split, int (C,), as bars; above 60 classes as a sorted curve."""
    total = sum(counts.values())
    assert isinstance(total, np.ndarray)
    order = np.argsort(-total, kind="stable")
    if len(class_names) > MAX_CLASSES_WITH_BARS:
        _plot_sorted_counts(counts, class_names, order, path)
        return
    with figure_file(path, 7.5, 1.2 + 0.2 * len(class_names)) as figure:
        axes = figure.subplots()
        places, left = np.arange(len(order)), np.zeros(len(order))
        for split, of_split in counts.items():
            color = SPLIT_COLORS.get(split, GRAY)
            axes.barh(places, of_split[order], left=left, color=color, label=split, edgecolor="white", linewidth=0.5)
            left += of_split[order]
        axes.set_yticks(places, [shorten(class_names[c], 30) for c in order], fontsize=8)
        axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="images")
        _whole_numbers(axes.xaxis)
        axes.grid(False, axis="y")
        axes.set_title(_counts_title(total))
        _legend_above(axes)


def _plot_sorted_counts(
    counts: Mapping[str, np.ndarray], class_names: list[str], order: np.ndarray, path: str | Path
) -> None:
    with figure_file(path, 8.5, 4.2) as figure:
        axes = figure.subplots()
        below = np.zeros(len(order))
        for split, of_split in counts.items():
            color = SPLIT_COLORS.get(split, GRAY)
            axes.bar(np.arange(len(order)), of_split[order], 1.0, below, color=color, label=split)
            below += of_split[order]
        most, least = (f"{shorten(class_names[order[i]], 24)} ({below[i]:,.0f})" for i in (0, -1))
        axes.set(
            xlabel=f"classes, from {most} to {least}", ylabel="images", xlim=(-0.5, len(order) - 0.5), ylim=(0, None)
        )
        _whole_numbers(axes.yaxis)
        axes.set_title(_counts_title(below))
        _legend_above(axes)


def _counts_title(total: np.ndarray) -> str:
    low, high = int(total.min()), int(total.max())
    return f"{len(total):,} classes, {f'{low:,} to {high:,}' if low < high else f'{high:,}'} images each"


def _whole_numbers(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axis.set_major_formatter("{x:,.0f}")


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)


def plot_sizes(shapes: Sequence[tuple[int, int, int]], image_size: int, path: str | Path) -> None:
    """Draw widths against heights, and short sides beside the size that the model sees.

    shapes: (width, height, number of images) of each shape.
    """
    width, height, number = np.array(shapes, float).reshape(-1, 3).T
    with figure_file(path, 10, 4.4) as figure:
        scatter, histogram = figure.subplots(1, 2, width_ratios=[1, 1.1])
        _draw_shapes(scatter, width, height, number, image_size)
        _draw_short_sides(histogram, np.minimum(width, height), number, image_size)


def _draw_shapes(axes: Axes, width: np.ndarray, height: np.ndarray, number: np.ndarray, image_size: int) -> None:
    area = 12 + 500 * number / max(number.sum(), 1)
    axes.scatter(width, height, area, color=BLUE, alpha=0.35, linewidth=0)
    top = 1.08 * max(width.max(initial=1), height.max(initial=1), image_size)
    axes.plot([0, top], [0, top], color=GRAY, linestyle="--", linewidth=0.8)
    axes.plot([0, image_size, image_size], [image_size, image_size, 0], color=ORANGE, linewidth=1)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="width in pixels", ylabel="height in pixels", aspect="equal")
    axes.set_title(count(len(number), "shape"))


def _draw_short_sides(axes: Axes, short: np.ndarray, number: np.ndarray, image_size: int) -> None:
    low, high = min(short.min(initial=image_size), image_size), max(short.max(initial=1), image_size)
    edges = np.geomspace(max(low * 0.9, 0.5), high * 1.1, 41)
    axes.hist(short, edges, weights=number, color=BLUE, edgecolor="white", linewidth=0.5)
    axes.axvline(image_size, color=ORANGE, label=f"the model sees {image_size}")
    axes.set_xscale("log")
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 20 else (1, 3)
    ticks = [step * 10**power for power in range(6) for step in steps]
    axes.set_xticks([tick for tick in ticks if edges[0] <= tick <= edges[-1]])
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(axis="x", which="minor", length=0)
    _whole_numbers(axes.yaxis)
    enlarged = number[short < image_size].sum() / max(number.sum(), 1)
    axes.set_title(f"Short sides: {enlarged:.0%} are enlarged")
    axes.set(xlabel="short side in pixels", ylabel="images")
    axes.legend(loc="upper right")


def plot_colors(
    mean_image: np.ndarray, histogram: np.ndarray, mean: Sequence[float], std: Sequence[float], path: str | Path
) -> None:
    """Draw the mean training image, uint8 (S, S, 3), and how often each channel takes each value, int (3, 256)."""
    with figure_file(path, 9.5, 3.8) as figure:
        picture, curves = figure.subplots(1, 2, width_ratios=[1, 1.7])
        picture.imshow(mean_image, interpolation="nearest" if len(mean_image) < 256 else "antialiased")
        picture.set(xticks=[], yticks=[])
        picture.grid(False)
        picture.spines[:].set_visible(False)
        picture.set_title("Mean of the training images")
        values = np.arange(256) / 255
        for channel, (name, color) in enumerate(CHANNELS.items()):
            shares = histogram[channel] / max(histogram[channel].sum(), 1)
            label = f"{name}: mean {mean[channel]:.4f}, std {std[channel]:.4f}"
            curves.plot(values, 100 * shares, color=color, linewidth=1.2, label=label)
            curves.axvline(mean[channel], color=color, linestyle=":", linewidth=1)
        top = np.sort(histogram[:, 1:-1] / np.maximum(histogram.sum(1, keepdims=True), 1), axis=None)[-3]
        curves.set(xlim=(0, 1), ylim=(0, 100 * max(1.6 * top, 1e-6)), xlabel="pixel value", ylabel="% of pixels")
        curves.set_title("Channels")
        curves.legend(loc="upper center", labelcolor=INK)
