"""`distcls predict RUN SRC…`: classifies images with a run's model."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distcls.commands.arguments import TRUST, Parser, check_can_write
from distcls.config.wording import count
from distcls.errors import BadDataError, UsageError
from distcls.files.atomic import naming_disk_errors, replacing
from distcls.inference.answers.formats import FORMATS, Answers
from distcls.inference.answers.prediction import BATCH_SIZE, SHOWN
from distcls.runs.opening import check_run_folder, opened_run
from distcls.terminal.counter import Counter

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl"}
"""The format of an output file, unless --format says."""


def main(argv: Sequence[str]) -> int:
    """Write an answer for each image. Raises BadDataError if none of them could be read."""
    options = _parser().parse_intermixed_args(argv)
    _check(options)
    run_dir = Path(options.run)
    check_run_folder(run_dir)
    # OpenMP reads this when torch is imported. Threads that spin while they wait for each other take the CPUs from the
    # processes that decode: then 10,000 small images take a third longer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from distcls.data.sources.named_files import NamedFiles

    files = NamedFiles(options.images)
    with opened_run(run_dir, parts=["model"], trust=options.trust) as config:
        from distcls.inference.classifier import load_classifier
        from distcls.inference.prediction import choose_device

        classifier = load_classifier(run_dir, config).to(choose_device(options.device))
    kind = options.format or SUFFIXES.get(Path(options.output or "").suffix.lower(), "table")
    width = _terminal_width(options.output)
    with _output(options.output) as file:
        answers = FORMATS[kind](file, classifier.class_names, options.topk, options.threshold, width)
        done, bad = _predict(classifier, files, answers, options)
    if done == 0:
        print(f"warning: there are no images in {', '.join(options.images)}", file=sys.stderr)
    elif bad == done:
        raise BadDataError("the image could not be read" if bad == 1 else f"none of the {done:,} images could be read")
    elif bad:
        print(f"warning: {bad:,} of {count(done, 'image')} could not be read", file=sys.stderr)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="distcls predict",
        usage="distcls predict RUN SRC [SRC ...] [--topk K] [--threshold T] [--format table|csv|jsonl] [--output FILE] "
        "[--gradcam DIR] [--device NAME] [--batch-size N] [--workers N] [--trust]",
        description="Classify images with a run's model.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "images",
        metavar="SRC",
        nargs="+",
        help="image files, folders, patterns such as 'photos/**/*.jpg', CSV files with a column named path; "
        "- reads a list of files from stdin, one per line",
    )
    parser.add_argument(
        "--topk",
        "--top",
        type=int,
        metavar="K",
        help=f"how many classes to list per image (default: {SHOWN}; in CSV, all)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="T",
        help="answer `unknown` if the most probable class has a lower probability than this, from 0 to 1",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="default: csv or jsonl if the output file ends in that, else table"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    parser.add_argument(
        "--gradcam",
        type=Path,
        metavar="DIR",
        help="also draw where the model saw the class in each image, and save the pictures in DIR",
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda or mps; default: the GPU if there is one"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        metavar="N",
        help=f"images per forward pass (default: {BATCH_SIZE})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: one per CPU, up to 16; none for fewer than 256 images)",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError or MissingInputError for options that cannot be meant."""
    if options.topk is not None and options.topk < 1:
        raise UsageError(f"--topk {options.topk}: give the number of classes to show, 1 or more.")
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold {options.threshold}: give a probability from 0 to 1, such as 0.5.")
    if options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size}: give 1 or more.")
    if options.workers is not None and options.workers < 0:
        raise UsageError(f"--workers {options.workers}: give 0 or more.")
    check_can_write(options.output)


def _predict(classifier: Any, files: Any, answers: Answers, options: argparse.Namespace) -> tuple[int, int]:
    """Write all answers; return the number of images, and of those that could not be read."""
    from distcls.inference.answers.heat_maps import HeatMaps
    from distcls.inference.prediction import choose_workers, predictions

    heat_maps = None if options.gradcam is None else HeatMaps(classifier, options.gradcam)
    workers = choose_workers(files.count) if options.workers is None else options.workers
    # Answers on a terminal are progress enough.
    counter = Counter("images", files.count, sys.stderr, has_line=answers.width is None)
    done = bad = 0
    try:
        answers.begin()
        for batch, found in predictions(classifier, files, options.topk or SHOWN, options.batch_size, workers):
            answers.add(found)
            if heat_maps is not None:
                with naming_disk_errors(heat_maps.folder):
                    heat_maps.write(batch, found)
            for place, reason in batch.bad.items():
                answers.add_bad(batch.images[place], reason)
                counter.warning(f"{batch.images[place]}: {reason}")
            answers.file.flush()
            done, bad = done + len(batch.images), bad + len(batch.bad)
            counter.counted(done)
    finally:
        counter.close()
    return done, bad


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Open stdout, or a file that replaces `path` when all is written. Raises DiskError."""
    if path is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    with naming_disk_errors(path), replacing(path) as file:
        yield file


def _terminal_width(path: Path | None) -> int | None:
    """Return the columns of the terminal that answers go to; None if they go elsewhere."""
    return shutil.get_terminal_size().columns if path is None and sys.stdout.isatty() else None
