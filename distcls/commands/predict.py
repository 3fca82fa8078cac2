"""`distcls predict RUN IMAGE…`: what a run's model says of images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import Parser
from distcls.commands.exit_codes import run_command
from distcls.errors import BadDataError, UsageError
from distcls.runs.status import refuse_no_run

BATCH_SIZE = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Print the best classes of each image. Exit code 65 if one of them could not be read."""
    return run_command(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    parser = Parser(prog="distcls predict", description="What a run's model says of images.")
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=3, help="how many classes to show (default: 3)")
    options = parser.parse_intermixed_args(argv)
    if options.top < 1:
        raise UsageError(f"--top {options.top}: give how many classes to show, 1 or more.")
    refuse_no_run(Path(options.run))
    from distcls.inference.classifier import load_kept_model
    from distcls.inference.prediction import find_images, print_predictions

    paths = find_images(options.images)

    model = load_kept_model(Path(options.run))
    bad: list[str] = []
    for start in range(0, len(paths), BATCH_SIZE):
        bad += print_predictions(model, paths[start : start + BATCH_SIZE], options.top)
    if bad:
        raise BadDataError(f"{len(bad)} of {len(paths)} images could not be read:\n  " + "\n  ".join(bad))
    return 0
