"""Shows the findings of `distcls check`, on one screen and as plots."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distcls.config.settings import Config
from distcls.config.wording import count
from distcls.data.decoding.native_size import are_large, spread_over
from distcls.data.inspection.check import Copies, DataCheck
from distcls.data.splitting.groups import SHOWN_GROUPS
from distcls.errors import some_of
from distcls.report.data_plots import plot_class_counts, plot_colors, plot_samples, plot_sizes
from distcls.terminal.progress import Progress

SHOWN = 10  # examples of each kind of problem
MOST_CLASSES = 30  # in the table; if there are more, only the largest and smallest are shown
MOST_SAMPLED = 1000  # classes to draw samples of


def print_check(
    check: DataCheck, progress: Progress, config: Config, config_path: Path | None, settings: Sequence[str]
) -> None:
    """Print everything on one screen: the data, its classes, each kind of problem, and what to do next.

    config: what the file and the settings, as typed, describe.
    """
    progress.header(list(_describe(check)))
    for line in _class_table(check):
        progress.note(line)
    for title, lines in _problems(check):
        progress.note(f"\n{title}")
        for line in lines[:SHOWN]:
            progress.note(f"  {line}")
        if len(lines) > SHOWN:
            progress.note(f"  and {len(lines) - SHOWN:,} more: --json FILE lists them all")
    progress.note("")
    for warning in check.warnings():
        progress.warning(warning)
    if not check.errors():
        progress.note(f"next\n  {_train_command(check, config, config_path, settings)}")


def _describe(check: DataCheck) -> Iterator[tuple[str, str]]:
    yield "data", check.config.root or check.config.name
    uncut = "" if check.split_error is None else "; no others could be cut, see the error"
    yield "split", ", ".join(f"{split.name} {len(split):,}" for split in check.splits) + f" images{uncut}"
    if check.groups is not None:
        names = next(iter(check.image_groups.values())).names
        yield "groups", f"{_groups(check.groups)}, such as {some_of(names, SHOWN_GROUPS)}"
    yield "files", f"{_counts(check.count('formats'))}; {_counts(check.count('modes'))}{_also(check)}"
    yield "sizes", _sizes(check)
    yield "decoded", f"{check.decoding.image_size} × {check.decoding.image_size} pixels ({check.decoding.resize})"
    if not check.histogram.any():
        return
    yield "mean", f"{', '.join(map(str, check.normalize['mean']))} (red, green, blue, from 0 to 1)"
    yield "std", ", ".join(map(str, check.normalize["std"]))


def _groups(groups: dict[str, Any]) -> str:
    sizes = groups["num_images"]
    of = f"of {count(sizes['min'], 'image')}"
    if sizes["min"] < sizes["max"]:
        of = f"of {sizes['min']:,} to {sizes['max']:,} images (median {sizes['median']:g})"
    in_splits = ", ".join(f"{name} {number:,}" for name, number in groups["num_in_split"].items())
    return f"{groups['num_groups']:,} {of}, by {groups['by']} ({in_splits})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "none"


def _also(check: DataCheck) -> str:
    animations, ignored, excluded = check.num_animations, check.num_ignored, len(check.excluded)
    return "".join(
        [
            f"; {count(animations, 'animation')} (first frame)" if animations else "",
            f"; {count(ignored, 'other file')} ignored" if ignored else "",
            f"; {excluded:,} excluded" if excluded else "",
        ]
    )


def _sizes(check: DataCheck) -> str:
    shapes = check.shapes
    if not shapes:
        return "none"
    width, height, number = shapes[0]
    if len(shapes) == 1:
        return f"all {width} × {height}"
    spans = [
        f"{name} {numbers.min():,} to {numbers.max():,} (median {np.median(numbers):,.0f})"
        for name, numbers in (("width", check.sizes[:, 0]), ("height", check.sizes[:, 1]))
    ]
    most = f", most often {width} × {height}" if number > 1 else ""
    return f"{', '.join(spans)}; {len(shapes):,} shapes{most}"


def _class_table(check: DataCheck) -> Iterator[str]:
    columns = {name: counts for name, counts in check.per_class.items() if name != "unreadable" or counts.any()}
    widths = {name: max(len(name), len(f"{counts.sum():,}")) for name, counts in columns.items()}
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in check.class_names]
    indent = max(*map(len, names), len("class"))

    def row(title: str, cells: dict[str, int] | None = None) -> str:
        texts = {name: name if cells is None else f"{cells[name]:,}" for name in columns}
        return f"{title:<{indent}}" + "".join(f"  {texts[name]:>{widths[name]}}" for name in columns)

    yield row("class")
    shown = _shown_classes(columns["train"])
    for position, label in enumerate(shown):
        if position and label is None:
            yield f"… {len(names) - len(shown) + 1:,} classes between"
        elif label is not None:
            yield row(names[label], {name: int(counts[label]) for name, counts in columns.items()})
    yield row("all", {name: int(counts.sum()) for name, counts in columns.items()})


def _shown_classes(counts: np.ndarray) -> list[int | None]:
    """Return all classes in order; if there are many, the largest, None for those in between, and the smallest."""
    if len(counts) <= MOST_CLASSES:
        return list(range(len(counts)))
    order = np.argsort(-counts, kind="stable").tolist()
    half = MOST_CLASSES // 3
    return [*order[:half], None, *order[-half:]]


def _problems(check: DataCheck) -> Iterator[tuple[str, list[str]]]:
    if check.bad_files:
        yield f"unreadable: {len(check.bad_files):,}", [f"{file['path']}: {file['reason']}" for file in check.bad_files]
    leaks = [copies for copies in check.copies if copies.is_leak]
    conflicts = [copies for copies in check.copies if copies.is_conflict and not copies.is_leak]
    others = [copies for copies in check.copies if not copies.is_conflict and not copies.is_leak]
    for title, group in (
        ("the same image in more than one split", leaks),
        ("the same image in more than one class", conflicts),
        ("the same image more than once", others),
    ):
        if group:
            yield f"{title}: {len(group):,}", list(map(_copies_line, group))


def _copies_line(copies: Copies) -> str:
    """Show up to three copies, from as many splits and classes as possible.

    Leaks also show the splits, which file names do not tell if distcls cut them.
    """
    places = list(zip(copies.images, copies.splits, copies.classes, strict=True))
    first = [*reversed({place[1:]: place for place in reversed(places)}.values())]
    shown = [*first, *(place for place in places if place not in first)][:3]
    more = f" = {len(places) - 3:,} more" if len(places) > 3 else ""
    return " = ".join(f"{image} ({split})" if copies.is_leak else image for image, split, _ in shown) + more


def _train_command(check: DataCheck, config: Config, config_path: Path | None, settings: Sequence[str]) -> str:
    """Return a command to train as was typed, with the measured statistics where nothing else says how to normalize."""
    words = ["distcls", "train"]
    if config_path:
        words += ["-c", str(config_path)]
    if check.config.root and not any(word.startswith("data.root=") for word in settings):
        words += ["--data", check.config.root]
    if min(check.normalize["std"]) > 0 and not _is_normalized(check, config):
        words += [f"augment.normalize.{name}={numbers}" for name, numbers in check.normalize.items()]
    return shlex.join([*words, *settings])


def _is_normalized(check: DataCheck, config: Config) -> bool:
    """True if the config, a preset or trained weights say how training normalizes."""
    may_have_preset = config.may_have_preset and (config.preset != "auto" or _are_photographs(check))
    return may_have_preset or config.model.starts_trained or config.gives("augment.normalize")


def _are_photographs(check: DataCheck) -> bool:
    """True if training takes the images for photographs: if most of those that it looks at are large."""
    sizes = check.found["train"].sizes
    sides = sizes[spread_over(len(sizes))].min(1)
    return are_large(sides[sides > 0])  # without images that cannot be decoded


def draw(check: DataCheck, folder: Path) -> None:
    """Draw samples of each class, class counts, sizes and colors, as PNG files."""
    counts = {name: of_split for name, of_split in check.per_class.items() if name != "unreadable"}
    plot_class_counts(counts, check.class_names, folder / "classes.png")
    assert check.decoding.image_size is not None
    plot_sizes(check.shapes, check.decoding.image_size, folder / "sizes.png")
    plot_colors(
        check.mean_image, check.histogram, check.normalize["mean"], check.normalize["std"], folder / "colors.png"
    )
    few = len(check.class_names) <= 20
    per_page, blocks, samples = (20, 1, 10) if few else (100, 5, 2)
    pages = range(0, min(len(check.class_names), MOST_SAMPLED), per_page)
    for page, start in enumerate(pages, start=1):
        labels = range(start, min(start + per_page, len(check.class_names)))
        name = "samples.png" if len(pages) == 1 else f"samples-{page:02}.png"
        images = [_samples(check, label, samples) for label in labels]
        plot_samples([check.class_names[label] for label in labels], images, folder / name, blocks)


def _samples(check: DataCheck, label: int, most: int) -> list[np.ndarray]:
    """Return some training images of a class, spread evenly from its first to its last."""
    train = check.splits[0]
    places = np.flatnonzero(train.labels == label)
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))
    return [train.image(int(places[i])) for i in chosen]
