"""`distcls eval RUN…`: evaluates the best weights of a run, or of an ensemble of runs, on a split."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distcls.cluster import signals, slurm
from distcls.commands.arguments import TRUST, Parser, check_can_write, override, settings_of_moved
from distcls.config.imports import importing_only
from distcls.config.settings import TTA_LEVELS
from distcls.errors import UsageError
from distcls.runs.opening import opened_run
from distcls.runs.status import warn_if_unfinished

MAY_DIFFER = ("data.", "train.eval_batch_size", "train.tta", "train.precision", "model.channels_last", "run.device")
"""Prefixes of the settings that `distcls eval` accepts: the others change nothing, or change the network."""


PIXELS = tuple(
    f"data.{name}" for name in ("image_size", "resize", "interpolation", "crop_fraction", "background", "float_range")
)
"""… except these: a model must see images as it did in training."""

SPLITS = ("train", "val", "test", "all")

PARTS = ("data", "model", "loss")
"""The sections of a config that an evaluation needs."""

UNCUT = [
    *("data.val_fraction=0", "data.test_fraction=0", "data.folds=null", "data.fold=null"),
    *("data.groups=null", "data.exclude=null"),
]
"""Settings that make all images of a folder one split."""


def main(argv: Sequence[str]) -> int:
    """Evaluate the best weights of one or more runs on a split."""
    signals.install()
    slurm.join_step()
    options = _parser().parse_intermixed_args(argv)
    overrides, run_dirs = _sorted_out(options.words)
    if options.calibrate and len(run_dirs) > 1:
        raise UsageError(
            "--calibrate stores a temperature beside the weights of one run: calibrate the runs one by one."
        )
    if options.calibrate:
        _refuse_other_model(overrides, options)
    for file in (options.json, options.csv, options.parquet):
        check_can_write(file)
    if options.parquet is not None and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("--parquet needs pyarrow: pip install 'distcls[parquet]', or write --csv FILE")
    if options.tta is not None:
        overrides.append(override("train.tta", options.tta))
    runs, checked = [], set()
    for run_dir in run_dirs:
        settings = settings_of_images(run_dir, options.data, options.split, overrides)
        # Left at once: what one run may not import, the next may.
        with opened_run(run_dir, PARTS, settings, options.trust) as config:
            from distcls.inference.evaluation import open_run

            runs.append(open_run(run_dir, config, options.split))
        checked.update(getattr(config, part).name for part in PARTS)
    with importing_only(checked, "an evaluation imports the data, models and losses of its runs, and nothing else"):
        _evaluate(runs, options)
    return 0


def _evaluate(runs: list[Any], options: argparse.Namespace) -> None:
    from distcls.cluster.processes import Processes
    from distcls.inference.evaluation import calibrate, evaluate
    from distcls.report.evaluation import (
        print_calibration,
        print_evaluation,
        write_csv,
        write_metrics,
        write_parquet,
    )

    with Processes(runs[0].config.run.device) as processes:
        calibration = calibrate(runs[0], processes) if options.calibrate else None
        evaluation = evaluate(runs, options.split, processes)
        if not processes.is_main:
            return
        for run in runs:
            warn_if_unfinished(run.dir)
        if calibration is not None:
            print_calibration(calibration)
        print_evaluation(evaluation)
        if options.json is not None:
            write_metrics(options.json, evaluation, calibration)
        if options.csv is not None:
            write_csv(options.csv, evaluation)
        if options.parquet is not None:
            write_parquet(options.parquet, evaluation)


def _parser() -> Parser:
    parser = Parser(
        prog="distcls eval",
        usage="distcls eval RUN [RUN2 ...] [--split NAME] [--data DIR] [--tta LEVEL] [--calibrate] [--json FILE] "
        "[--csv FILE] [--parquet FILE] [--trust] [key=value ...]",
        description="Evaluate a run's best weights on a split. Several runs are an ensemble: their probabilities are "
        "averaged.",
    )
    parser.add_argument(
        "words", metavar="RUN", nargs="+", help="run folders, such as runs/digits, and settings, such as data.root=DIR"
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="default: test; all: every image of a folder that the run was not trained on, given with --data",
    )
    parser.add_argument("--data", metavar="DIR", help="where the images are now, or other images (see --split all)")
    parser.add_argument(
        "--tta",
        choices=TTA_LEVELS,
        help="test-time augmentation: views of each image to average (default: the run's train.tta)",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="first fit a temperature on the val split and store it beside the weights: predict and export use it",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics and the confusion matrix")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write each image's true class and probabilities")
    parser.add_argument(
        "--parquet", type=Path, metavar="FILE", help="the same table as Parquet (needs pip install 'distcls[parquet]')"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def _sorted_out(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Return the settings and the run folders among the words. Raises UsageError for a setting of training."""
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    for word in overrides:
        if not word.startswith(MAY_DIFFER) or word.startswith(PIXELS):
            raise UsageError(
                f"{word}: a run is evaluated with the settings it was trained with. You can change "
                f"{', '.join(MAY_DIFFER)}: where the images are, how they are read, and how results are computed"
            )
    run_dirs = [Path(word) for word in words if word not in overrides]
    if not run_dirs:
        raise UsageError("which run? Give its folder, such as runs/digits.")
    return overrides, run_dirs


def _refuse_other_model(overrides: Sequence[str], options: argparse.Namespace) -> None:
    """Raise UsageError for options under which a temperature would be that of another model, or cannot be fitted."""
    for word in [*(["--tta"] if options.tta else []), *overrides]:
        if word.startswith(("--tta", "train.tta", "train.precision")):
            raise UsageError(
                f"--calibrate fits the temperature of the model as it was trained: leave out {word}, calibrate, and "
                "then evaluate with it"
            )
    if options.split == "all":
        raise UsageError(
            "--calibrate needs the run's own val split, which --split all leaves out: first distcls eval RUN "
            "--calibrate, then evaluate the other images"
        )


def settings_of_images(run_dir: Path, data: str | None, split: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the settings of an evaluation: where the images are, how to split them, and those that the user typed.

    Raises MissingInputError if this is not a run folder.
    """
    are_others = split == "all"
    return [*settings_of_moved(data, run_dir, are_others), *(UNCUT if are_others else []), *overrides]
