"""`distcls check DIR`: shows what is in a data set, and what is wrong with it, before you train on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcls.commands.arguments import SETTINGS, Parser, add_config_file, settings_of_options
from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.errors import BadDataError, DiskError, UsageError
from distcls.files.atomic import json_text
from distcls.terminal.progress import Progress


@dataclass(frozen=True)
class CheckOptions:
    """The options of `distcls check` that are not settings, and the settings as typed."""

    config_path: Path | None
    settings: Sequence[str]
    json_file: str | None
    """Where to write the findings; "-" is stdout."""
    plots: Path | None
    strict: bool


def main(argv: Sequence[str]) -> int:
    """Print the findings. Exit code 65 if training would refuse the data; with --strict, if anything is wrong."""
    config, options = _parse_arguments(argv)
    from distcls.data.inspection.check import check_data
    from distcls.report.data_check import draw, print_check

    progress = Progress(sys.stderr if options.json_file == "-" else sys.stdout)
    check = check_data(config.data, lambda done, total: progress.working("checking images", done, total))
    print_check(check, progress, config, options.config_path, options.settings)
    if options.json_file is not None:
        _write_json(options.json_file, check.as_json())
    if options.plots is not None:
        draw(check, options.plots)
        progress.note(f"\nplots are in {options.plots}")
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
        raise UsageError(f"give one folder of images, and settings as key=value, not {' and '.join(folders)}")
    overrides, unless_set = settings_of_options(folders[0] if folders else None, None)
    settings = [word for word in words.settings if "=" in word]
    config = load_config(words.config, [*overrides, *settings], unless_set)
    return config, CheckOptions(words.config, settings, words.json, words.plots, words.strict)


def _parser() -> Parser:
    parser = Parser(
        prog="distcls check",
        usage="distcls check [DIR] [-c FILE] [--json FILE] [--plots DIR] [--strict] [key=value ...]",
        description="Decode all images and look for problems: unreadable files, copies in more than one split or "
        "class, too few images. The exit code is 65 if training would refuse them.",
    )
    parser.add_argument(
        "settings", nargs="*", metavar=SETTINGS, help="settings; an argument without = is the folder of images"
    )
    add_config_file(parser)
    parser.add_argument("--data", metavar="DIR", help="the folder of images, DIR/CLASS/*.jpg, as for distcls train")
    parser.add_argument("--json", metavar="FILE", help="also write all findings as JSON; - prints only them, to stdout")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also plot samples, classes, sizes and colors there")
    parser.add_argument("--strict", action="store_true", help="exit with 65 for warnings and for any bad file, too")
    return parser


def _write_json(name: str, found: dict[str, Any]) -> None:
    text = json_text(found)
    if name == "-":
        sys.stdout.write(text)
        return
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{name}: cannot write the findings ({error.strerror})") from error
