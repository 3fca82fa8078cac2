"""`distcls check DIR`: what is in a data set, and what is wrong with it, before it is trained on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distcls.cli import run_command
from distcls.commands.arguments import SETTINGS, Parser, settings_of_options
from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.errors import BadDataError, DiskError, UsageError
from distcls.files.atomic import json_text
from distcls.terminal.progress import Progress

if TYPE_CHECKING:
    from distcls.data.inspection.check import Copies, DataCheck

SHOWN = 10  # of each kind of problem
MOST_CLASSES = 30  # in the table; of more, the largest and the smallest are shown
MOST_SAMPLED = 1000  # classes, of which samples are drawn


@dataclass(frozen=True)
class CheckOptions:
    """What the words of `distcls check` say beside settings."""

    config_path: Path | None
    json_file: str | None
    """Where to write what was found; "-" is stdout."""
    plots: Path | None
    strict: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found. Exit code 65 if training would refuse the data; with --strict, if anything is wrong."""
    return run_command(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    config, options = _parse_arguments(argv)
    from distcls.data.inspection.check import check_data

    progress = Progress(sys.stderr if options.json_file == "-" else sys.stdout)
    check = check_data(config.data, lambda done, total: progress.working("checking images", done, total))
    print_check(check, progress, options)
    if options.json_file is not None:
        _write_json(options.json_file, check)
    if options.plots is not None:
        draw(check, options.plots)
        progress.note(f"\npictures are in {options.plots}")
    problems = check.errors()
    if options.strict and not problems:
        problems = [*check.warnings(), *(["some images are unreadable"] if check.bad_files else [])]
    if problems:
        raise BadDataError("\n".join(problems))
    return 0


def _parse_arguments(argv: Sequence[str]) -> tuple[Config, CheckOptions]:
    words = _parser().parse_intermixed_args(argv)
    folders = [word for word in words.settings if "=" not in word]
    if words.data is not None:
        folders.append(words.data)
    if len(folders) > 1:
        raise UsageError(f"give one folder of images, or settings written key=value, not {' and '.join(folders)}")
    overrides, unless_set = settings_of_options(folders[0] if folders else None, None)
    settings = [word for word in words.settings if "=" in word]
    config = load_config(words.config, [*overrides, *settings], unless_set)
    return config, CheckOptions(words.config, words.json, words.plots, words.strict)


def _parser() -> Parser:
    parser = Parser(
        prog="distcls check",
        usage="distcls check [DIR] [-c FILE] [--json FILE] [--plots DIR] [--strict] [key=value ...]",
        description="Decode all images and look for what is wrong with them: unreadable files, copies in more than one "
        "split or class, too few images. Exit code 65 if training would refuse them.",
    )
    parser.add_argument(
        "settings", nargs="*", metavar=SETTINGS, help="settings; a word without = is the folder of images"
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="YAML file with settings")
    parser.add_argument("--data", metavar="DIR", help="the folder of images, DIR/CLASS/*.jpg, said as for train")
    parser.add_argument("--json", metavar="FILE", help="also write all that was found; - is stdout, and nothing else")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also draw samples, classes, sizes and colours there")
    parser.add_argument("--strict", action="store_true", help="exit code 65 also for warnings, and for any bad file")
    return parser


def print_check(check: DataCheck, progress: Progress, options: CheckOptions) -> None:
    """Everything on one screen: what there is, the classes, each kind of problem, and what to do."""
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
        progress.note(f"next\n  {_train_command(check, options)}")


def _describe(check: DataCheck) -> Iterator[tuple[str, str]]:
    yield "data", check.config.root or check.config.name
    yield "split", ", ".join(f"{split.name} {len(split):,}" for split in check.splits) + " images"
    yield "files", f"{_counts(check.count('formats'))}; {_counts(check.count('modes'))}{_also(check)}"
    yield "sizes", _sizes(check)
    yield "decoded", f"{check.decoding.image_size} × {check.decoding.image_size} pixels ({check.decoding.resize})"
    if not check.histogram.any():
        return
    yield "mean", f"{', '.join(map(str, check.normalize['mean']))} (red, green, blue, from 0 to 1)"
    yield "std", ", ".join(map(str, check.normalize["std"]))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _also(check: DataCheck) -> str:
    animations, ignored = check.num_animations, check.num_ignored
    return "".join(
        [
            f"; {animations:,} animation{'' if animations == 1 else 's'} (first frame)" if animations else "",
            f"; {ignored:,} other file{'' if ignored == 1 else 's'} ignored" if ignored else "",
        ]
    )


def _sizes(check: DataCheck) -> str:
    shapes = check.shapes
    if not shapes:
        return "none"
    width, height, count = shapes[0]
    if len(shapes) == 1:
        return f"all {width} × {height}"
    spans = [
        f"{name} {numbers.min():,} to {numbers.max():,} (median {np.median(numbers):,.0f})"
        for name, numbers in (("width", check.sizes[:, 0]), ("height", check.sizes[:, 1]))
    ]
    most = f", most often {width} × {height}" if count > 1 else ""
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
    """All in their order; of many the largest, None for those between, and the smallest."""
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
    """Three copies, of as many splits and classes as there are. Where distcls cuts them, names do not tell splits."""
    places = list(zip(copies.images, copies.splits, copies.classes, strict=True))
    first = [*reversed({place[1:]: place for place in reversed(places)}.values())]
    shown = [*first, *(place for place in places if place not in first)][:3]
    more = f" = {len(places) - 3:,} more" if len(places) > 3 else ""
    return " = ".join(f"{image} ({split})" if copies.is_leak else image for image, split, _ in shown) + more


def _train_command(check: DataCheck, options: CheckOptions) -> str:
    """With the measured statistics, which are better than the default for all but pretrained models."""
    words = ["distcls", "train"]
    if options.config_path:
        words += ["-c", str(options.config_path)]
    words += [f"data.name={check.config.name}"] if check.config.name not in ("digits", "folder") else []
    words += ["--data", check.config.root] if check.config.root else []
    if min(check.normalize["std"]) > 0:
        words += [f"augment.normalize.{name}={numbers}" for name, numbers in check.normalize.items()]
    return shlex.join(words)


def draw(check: DataCheck, folder: Path) -> None:
    """Samples of each class, class counts, sizes and colours, as PNG."""
    from distcls.report.data_plots import plot_class_counts, plot_colors, plot_samples, plot_sizes

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
    """Some training images of a class, from its first to its last."""
    train = check.splits[0]
    places = np.flatnonzero(train.labels == label)
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))
    return [train.image(int(places[i])) for i in chosen]


def _write_json(name: str, check: DataCheck) -> None:
    text = json_text(check.as_json())
    if name == "-":
        sys.stdout.write(text)
        return
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{name}: cannot write what was found ({error.strerror})") from error
