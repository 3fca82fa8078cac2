"""`distcls eval RUN`: evaluates a run's best weights on a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.cluster import signals, slurm
from distcls.commands.arguments import SETTINGS, TRUST, Parser, check_can_write, kind_of_data, override
from distcls.config.loading import read_config
from distcls.config.settings import KINDS_OF_PATHS
from distcls.errors import UsageError
from distcls.runs.opening import check_run_folder, opened_run

MAY_DIFFER = ("data.", "train.eval_batch_size", "train.precision", "model.channels_last", "run.device")
"""Prefixes of the settings that `distcls eval` accepts: the others change nothing, or change the network."""


PIXELS = ("data.image_size", "data.resize", "data.background", "data.float_range")
"""… except these: a model must see images as it did in training."""

UNCUT = ["data.val_fraction=0", "data.test_fraction=0", "data.folds=null", "data.fold=null", "data.exclude=null"]
"""Settings that make all images of a folder one split."""


def main(argv: Sequence[str]) -> int:
    """Evaluate a run's best weights on a split."""
    signals.install()
    slurm.join_step()
    parser = Parser(prog="distcls eval", description="Evaluate a run's best weights on a split.")
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "--split",
        choices=["train", "val", "test", "all"],
        default="test",
        help="default: test; all: every image of a folder that the run was not trained on, given with --data",
    )
    parser.add_argument("--data", metavar="DIR", help="where the images are now, or other images (see --split all)")
    parser.add_argument(
        "overrides", metavar=SETTINGS, nargs="*", default=[], help="settings that differ, such as data.root=DIR"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics and the confusion matrix")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write each image's true and predicted class")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_intermixed_args(argv)
    for word in options.overrides:
        if not word.startswith(MAY_DIFFER) or word.startswith(PIXELS):
            raise UsageError(
                f"{word}: a run is evaluated with the settings it was trained with. You can change "
                f"{', '.join(MAY_DIFFER)}: where the images are, how they are read, and how results are computed"
            )
    for file in (options.json, options.csv):
        check_can_write(file)
    run_dir = Path(options.run)
    moved = [] if options.data is None else [override("data.root", options.data), *_kind_of(options.data, run_dir)]
    overrides = [*moved, *options.overrides, *(UNCUT if options.split == "all" else [])]
    with opened_run(run_dir, ["data", "model", "loss"], overrides, options.trust) as config:
        from distcls.inference.evaluation import evaluate_run

        evaluate_run(run_dir, config, options.split, options.json, options.csv)
    return 0


def _kind_of(images: str, run_dir: Path) -> list[str]:
    """Return the setting data.name for images that are stored differently from the run's (folder, csv, npz)."""
    check_run_folder(run_dir)
    kind = kind_of_data(images)
    is_kind = read_config(run_dir / "config.yaml").data.name in KINDS_OF_PATHS
    return [f"data.name={kind}"] if is_kind and kind is not None else []
