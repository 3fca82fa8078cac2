"""`distcls eval RUN`: measure a run's best weights on a split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.cluster import signals, slurm
from distcls.commands.arguments import Parser, kind_of_data, override
from distcls.commands.exit_codes import run_command
from distcls.config.loading import read_config
from distcls.config.settings import KINDS_OF_PATHS
from distcls.errors import MissingInputError, UsageError
from distcls.runs.status import refuse_no_run

MAY_DIFFER = ("data.", "train.eval_batch_size", "train.precision", "model.channels_last", "run.device")
"""How the settings begin that `distcls eval` takes: the others change nothing, or the network."""


PIXELS = ("data.image_size", "data.resize", "data.background", "data.float_range")
"""… but not these: a model sees images as it was trained on them."""


def main(argv: Sequence[str] | None = None) -> int:
    """`distcls eval RUN`: measure a run's best weights on a split."""
    signals.install()
    return run_command(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    slurm.join_step()
    parser = Parser(prog="distcls eval", description="Measure a run's best weights on a split.")
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "--split",
        choices=["train", "val", "test", "all"],
        default="test",
        help="default: test; all: every image of a folder that the run was not trained on, given with --data",
    )
    parser.add_argument("--data", metavar="DIR", help="where the images lie now, or other ones (see --split all)")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="settings that differ, such as data.root=DIR"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics and the confusion matrix")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write each image's true and predicted class")
    options = parser.parse_intermixed_args(argv)
    for word in options.overrides:
        if not word.startswith(MAY_DIFFER) or word.startswith(PIXELS):
            raise UsageError(
                f"{word}: a run is measured as it was trained. What may differ is {', '.join(MAY_DIFFER)}: "
                "where the images lie, and how they are read and computed"
            )
    for file in (options.json, options.csv):
        if file is not None and not file.parent.is_dir():
            raise MissingInputError(f"{file} cannot be written: there is no folder {file.parent}. Make it first.")
    refuse_no_run(Path(options.run))
    from distcls.inference.evaluation import evaluate_run

    moved = [] if options.data is None else [override("data.root", options.data), *_kind_of(options)]
    evaluate_run(Path(options.run), options.split, [*moved, *options.overrides], options.json, options.csv)
    return 0


def _kind_of(options: argparse.Namespace) -> list[str]:
    """data.name, where the images lie in another kind of place than those of the run did."""
    config, kind = Path(options.run) / "config.yaml", kind_of_data(options.data)
    is_kind = config.exists() and read_config(config).data.name in KINDS_OF_PATHS
    return [f"data.name={kind}"] if is_kind and kind is not None else []
