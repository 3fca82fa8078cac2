"""`distcls predict RUN IMAGE…`: classifies images with a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import TRUST, Parser
from distcls.errors import BadDataError, UsageError
from distcls.runs.opening import opened_run


def main(argv: Sequence[str]) -> int:
    """Print the most probable classes of each image. Exit code 65 if an image could not be read."""
    parser = Parser(prog="distcls predict", description="Classify images with a run's model.")
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=3, help="how many classes to show (default: 3)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_intermixed_args(argv)
    if options.top < 1:
        raise UsageError(f"--top {options.top}: give the number of classes to show, 1 or more.")
    run_dir = Path(options.run)
    with opened_run(run_dir, parts=["model"], trust=options.trust) as config:
        from distcls.inference.classifier import load_classifier
        from distcls.inference.prediction import BATCH_SIZE, find_images, print_predictions

        paths = find_images(options.images)
        classifier = load_classifier(run_dir, config)
    bad: list[str] = []
    for start in range(0, len(paths), BATCH_SIZE):
        bad += print_predictions(classifier, paths[start : start + BATCH_SIZE], options.top)
    if bad:
        raise BadDataError(f"{len(bad)} of {len(paths)} images could not be read:\n  " + "\n  ".join(bad))
    return 0
