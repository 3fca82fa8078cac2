"""The pictures of a run's plots/ folder: curves, confusion matrix, calibration, and images with what was said of them.

Each function draws one PNG and puts it in place whole, so that a viewer never sees half a file. matplotlib is
imported late (it takes seconds) and used without pyplot, which keeps global state and may want a display.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distcls.errors import DiskError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, BLUE, ORANGE, GREEN, RED = "#24292f", "#8c959f", "#0969da", "#d4661b", "#1a7f37", "#cf222e"

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#e6e8eb",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5 or $10"
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}

FURTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "Arial Unicode MS"),
)
"""With Chinese, Japanese and Korean, which matplotlib's own font lacks: of Linux, macOS and Windows."""

MAX_CLASSES_WITH_COUNTS = 20
MAX_TICKS = 40
MAX_IMAGES = 64


def plot_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, kept_step: int | None = None) -> None:
    """Loss, accuracy and learning rate against epochs, from the rows of tracking.read_metrics.

    kept_step: of the evaluation whose weights were kept, which gets a star.
    """
    with figure_file(path, 12, 4.1) as figure:
        loss, accuracy, lr = figure.subplots(1, 3, width_ratios=[4, 4, 2.4])
        _draw_curve(loss, rows, "loss", kept_step)
        _draw_curve(accuracy, rows, "accuracy", kept_step)
        _draw_lr(lr, rows)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], split: str, path: str | Path) -> None:
    """The confusion matrix of a split, int (C, C), one row for each true class, shaded by the share of the row.

    Up to 20 classes the counts are written in; from 40 on only some classes are named.
    """
    names = [shorten(name, 24) for name in class_names]
    side = min(max(0.42 * len(names), 3), 9)
    upright = max(map(len, names)) * 0.08 > side / min(len(names), MAX_TICKS)
    label_inches = max(map(len, names)) * 0.07
    with figure_file(path, side + label_inches + 1.2, side + (label_inches if upright else 0.2) + 0.9) as figure:
        axes = figure.subplots()
        image = axes.imshow(_row_shares(confusion), cmap="Blues", norm=_square_root_norm())
        _name_classes(axes, names, upright)
        if len(names) <= MAX_CLASSES_WITH_COUNTS:
            _write_counts(axes, confusion, side / len(names))
        _draw_colorbar(figure, image)
        right, total = int(np.trace(confusion)), int(confusion.sum())
        axes.set_title(f"Confusion matrix of {split}\n{right:,} of {total:,} right ({right / max(total, 1):.2%})")


def plot_calibration(
    confidence_sum: np.ndarray, correct: np.ndarray, count: np.ndarray, ece: float, split: str, path: str | Path
) -> None:
    """Reliability diagram: how often the model is right where it says it is 80 % sure, and how often it says so.

    confidence_sum, correct, count: (bins,), for bins of equal width from 0 to 1 the sum of the confidences, the
    number of right answers and of images. ece: expected calibration error, a share.
    """
    with figure_file(path, 5.2, 6) as figure:
        reliability, histogram = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
        _draw_reliability(reliability, confidence_sum, correct, count)
        reliability.set_title(f"Calibration on {split}: ECE {ece:.4f}")
        _draw_confidences(histogram, count)


def plot_images(
    images: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
    heading: str,
    colors: Sequence[str] | None = None,
) -> None:
    """A grid of images, uint8 (n, H, W, 3), of which the first 64 are shown, each with its title above.

    colors: one for each image ("green", "red"), of its title and frame.
    """
    shown = min(len(images), MAX_IMAGES)
    grid = _grid(shown, max((title.count("\n") + 1 for title in titles[:shown]), default=0))
    with figure_file(path, grid.width, grid.height) as figure:
        page = page_in_inches(figure)
        page.text(0.1, 0.12, heading, va="top", fontsize=12, weight="bold")
        for index in range(shown):
            color = _ink(colors[index]) if colors else INK
            left, top = grid.place(index)
            title = _short_title(titles[index], grid.cell)
            top = draw_image(page, images[index], left, top, grid.cell, frame=color if colors else None)
            page.text(left + grid.cell / 2, top - 0.04, title, color=color, fontsize=8, ha="center", va="bottom")
        if not shown:
            page.text(grid.width / 2, 0.7 * grid.height, "nothing to show", ha="center", color=GREY)


def page_in_inches(figure: Figure) -> Axes:
    """The whole figure as one coordinate system, in inches from its top left: for pages of many images.

    Axes for each image would take ten times as long to draw.
    """
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    page.set_axis_off()
    return page


def draw_image(page: Axes, image: np.ndarray, left: float, top: float, side: float, frame: str | None = None) -> float:
    """uint8 (H, W, 3), fitted into a square of so many inches, with a frame of this colour; its upper edge."""
    from matplotlib.patches import Rectangle

    most = max(image.shape[:2])
    height, width = (side * length / most for length in image.shape[:2])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    crisp = most < side * page.figure.dpi
    page.imshow(
        image, extent=(left, left + width, top + height, top), aspect="auto",
        interpolation="nearest" if crisp else "antialiased",
    )  # fmt: skip
    if frame:
        page.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=frame, linewidth=2))
    return top


@contextmanager
def figure_file(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in our style; written beside `path` and renamed over it. Raises DiskError."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with matplotlib.rc_context({**STYLE, "font.family": _fonts()}), warnings.catch_warnings():
        # Names in scripts that no font here has show as boxes; that is no news for the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            FigureCanvasAgg(figure).print_png(temporary)  # savefig would draw everything twice
            temporary.replace(path)
        except OSError as error:
            raise DiskError(f"Cannot write {path}: {error.strerror}. Make room or fix the rights.") from error


@cache
def _fonts() -> list[str]:
    """matplotlib's own, and those of FURTHER_FONTS that are installed: it complains of names that are not."""
    from matplotlib.font_manager import get_font_names

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of fonts that have no bold
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in installed)]


def _draw_curve(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, kept_step: int | None) -> None:
    epochs, values = _points(rows, "train", name)
    window = max(_points_per_epoch(epochs), len(values) // 60, 1)
    if window > 1:
        axes.plot(epochs, values, color=BLUE, alpha=0.25, linewidth=0.8)
    if len(values):
        smooth = _smooth(epochs, values, window)
        axes.plot(*smooth, color=BLUE, label="train", **(_marker(len(values)) if window == 1 else {}))
    _draw_val(axes, rows, name, kept_step)
    _finish_curve(axes, name)


def _draw_val(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, kept_step: int | None) -> None:
    epochs, values = _points(rows, "val", name)
    if not len(values):
        return
    axes.plot(epochs, values, color=ORANGE, label="val", **_marker(len(values)))
    kept = [row for row in rows if kept_step is not None and row["step"] == kept_step]
    for epoch, value in zip(*_points(kept, "val", name), strict=True):
        star = {"markersize": 12, "color": ORANGE, "markeredgecolor": "white", "zorder": 5}
        axes.plot(epoch, value, "*", label=f"kept: {value:.4f} at epoch {epoch:.1f}", **star)


def _finish_curve(axes: Axes, name: str) -> None:
    lines = [value for line in axes.lines for value in np.atleast_1d(line.get_ydata())]
    if not lines:
        _say_that_empty(axes)
    elif name == "loss" and min(lines) > 0 and max(lines) > 50 * min(lines):
        axes.set_yscale("log")
        # Plain numbers: matplotlib's own labels are formulas, which the style does not typeset.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    elif name == "accuracy":
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.4g}")
    axes.set_title(name.capitalize())
    axes.set_xlabel("epoch")
    if lines:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


def _draw_lr(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    epochs, values = _points(rows, "train", "lr")
    if len(values):
        axes.plot(epochs, values, color=GREY, **_marker(len(values)))
        axes.set_ylim(bottom=0)
    else:
        _say_that_empty(axes)
    axes.set_title("Learning rate")
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda lr, _: f"{lr:.3g}")


def _say_that_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing logged yet", ha="center", transform=axes.transAxes, color=GREY)


def _points(rows: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and finite values of one curve."""
    points = [
        (row["epoch"], row[name])
        for row in rows
        if row["split"] == split and row.get("epoch") is not None and row.get(name) is not None
    ]
    curve = np.array([point for point in points if math.isfinite(point[1])], dtype=float).reshape(-1, 2)
    return curve[:, 0], curve[:, 1]


def _points_per_epoch(epochs: np.ndarray) -> int:
    """How many points an epoch has, where there are epochs enough to show a mean of each; else 0."""
    return round(len(epochs) / epochs[-1]) if len(epochs) and epochs[-1] >= 8 else 0


def _smooth(epochs: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Running means of `window` points, each at the mean of their epochs, so that it does not lag."""
    kernel = np.ones(window) / window
    return np.convolve(epochs, kernel, "valid"), np.convolve(values, kernel, "valid")


def _marker(num_points: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if num_points <= 40 else {"linewidth": 1.6 if num_points < 200 else 1}


def _row_shares(confusion: np.ndarray) -> np.ndarray:
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _square_root_norm() -> Any:
    """Shades by the square root, so that a confusion of a few percent can be seen at all."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=1)


def _name_classes(axes: Axes, names: Sequence[str], upright: bool) -> None:
    places = range(0, len(names), math.ceil(len(names) / MAX_TICKS))
    shown = [names[place] for place in places]
    size = 9 if len(names) <= MAX_CLASSES_WITH_COUNTS else 7
    axes.set_xticks(places, shown, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(places, shown, fontsize=size)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")


def _write_counts(axes: Axes, confusion: np.ndarray, cell_inches: float) -> None:
    shares = _row_shares(confusion)
    size = min(10, cell_inches * 90 / len(str(confusion.max())))
    for (true, predicted), count in np.ndenumerate(confusion):
        if count:
            color = "white" if shares[true, predicted] > 0.3 else INK
            axes.text(predicted, true, str(count), ha="center", va="center", color=color, fontsize=size)


def _draw_colorbar(figure: Figure, image: Any) -> None:
    ticks = {0: "0", 0.01: "1%", 0.05: "5%", 0.1: "10%", 0.25: "25%", 0.5: "50%", 1: "100%"}
    colorbar = figure.colorbar(image, ax=image.axes, fraction=0.046, aspect=30, pad=0.02, ticks=list(ticks))
    colorbar.ax.set_yticklabels(list(ticks.values()))
    colorbar.ax.grid(False)
    colorbar.outline.set_visible(False)  # type: ignore[operator]


def _draw_reliability(axes: Axes, confidence_sum: np.ndarray, correct: np.ndarray, count: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(count) + 1)
    seen = count > 0
    confidence, accuracy = confidence_sum[seen] / count[seen], correct[seen] / count[seen]
    left, width = edges[:-1][seen], 1 / len(count)
    axes.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", label="share that is right")
    gap = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0.8}
    axes.bar(left, confidence - accuracy, width, accuracy, align="edge", label="gap to the confidence", **gap)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _draw_confidences(axes: Axes, count: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(count) + 1)
    axes.bar(edges[:-1], count / max(count.sum(), 1), 1 / len(count), align="edge", color=GREY, edgecolor="white")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set(xlabel="confidence", ylabel="images")


class _Grid(NamedTuple):
    """Where images lie on their page, in inches."""

    columns: int
    rows: int
    cell: float
    title: float

    @property
    def width(self) -> float:
        return max(self.columns, 3) * (self.cell + 0.12) + 0.12

    @property
    def height(self) -> float:
        return max(self.rows, 1) * (self.cell + self.title) + 0.5

    def place(self, index: int) -> tuple[float, float]:
        """Left and top of an image."""
        row, column = divmod(index, self.columns)
        return 0.12 + column * (self.cell + 0.12), 0.4 + self.title + row * (self.cell + self.title)


def _grid(num_images: int, title_lines: int) -> _Grid:
    """As square as leaves few places empty in the last row."""
    fewest, most = math.ceil(math.sqrt(num_images)), math.ceil(math.sqrt(1.8 * num_images))
    columns = min(range(max(fewest, 1), max(most, 1) + 1), key=lambda columns: -num_images % columns)
    cell = 1.15 if num_images > 36 else 1.4 if num_images > 12 else 1.8
    return _Grid(columns, math.ceil(num_images / columns), cell, 0.135 * title_lines + 0.1)


def _ink(color: str) -> str:
    return {"green": GREEN, "red": RED}.get(color, color)


def _short_title(title: str, inches: float) -> str:
    """Of a path, the end is what tells files apart."""
    most = int(inches * 15)
    lines = [f"…{line[1 - most :]}" if "/" in line and len(line) > most else line for line in title.split("\n")]
    return "\n".join(shorten(line, most) for line in lines)


def shorten(text: str, length: int) -> str:
    """The start and the end of a long text: class names often differ only there."""
    if len(text) <= length:
        return text
    end = (length - 1) // 3
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
