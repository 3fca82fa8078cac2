"""Evaluation: every image of a split counted once, the same on any number of processes. Also `distcls eval`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distcls.cli import run_command
from distcls.cluster import signals, slurm
from distcls.commands.arguments import Parser, kind_of_data, override
from distcls.config.loading import read_config
from distcls.config.settings import KINDS_OF_PATHS, Config, DataConfig
from distcls.errors import MissingInputError, UsageError, some_of
from distcls.runs.status import read_status

if TYPE_CHECKING:
    from torch import nn

    from distcls.cluster.processes import Processes
    from distcls.data.augmentation.preprocessing import Normalize
    from distcls.data.split import Data, Split
    from distcls.inference.metrics import SplitMetrics


MAY_DIFFER = ("data.", "train.eval_batch_size", "train.precision", "model.channels_last", "run.device")
"""How the settings begin that `distcls eval` takes: the others change nothing, or the network."""


PIXELS = ("data.image_size", "data.resize", "data.background", "data.float_range")
"""… but not these: a model sees images as it was trained on them."""


UNCUT = ["data.val_fraction=0", "data.test_fraction=0", "data.folds=null", "data.fold=null"]
"""Settings with which all images of a folder are one split."""


class Evaluator:
    """Measures modules on splits, on all processes together."""

    def __init__(self, config: Config, num_classes: int, normalize: Normalize, processes: Processes) -> None:
        from distcls.optim.losses import build_loss

        self.batch_size, self.workers = config.train.eval_batch_size, config.data.workers
        self.num_classes, self.normalize, self.processes = num_classes, normalize, processes
        # Smoothed targets are a means of training; what is reported is the loss of the true class.
        self.loss = build_loss(dataclasses.replace(config.loss, label_smoothing=0.0))

    def __call__(self, module: nn.Module, split: Split) -> SplitMetrics | None:
        """Metrics of the unwrapped module on a split; None where a process was asked to stop meanwhile.

        The split is cut once into batches, in order, the last one short; rank r takes batches r, r + W,
        r + 2W … The last round may be empty for some: all of them vote in each.
        """
        import torch

        from distcls.data.loading.loader import eval_batches
        from distcls.inference.metrics import SplitSums

        device, processes = self.processes.device, self.processes
        sums = SplitSums(self.num_classes, len(split), self.batch_size)
        sums.to("cpu" if device.type == "mps" else device)  # MPS has no float64
        batches = eval_batches(split, self.batch_size, device, self.workers, processes.rank, processes.world_size)
        module.eval()
        with torch.inference_mode():
            for _ in range(-(-len(split) // (self.batch_size * processes.world_size))):
                if processes.asked_to_stop():
                    return None
                for index, pixels, labels in itertools.islice(batches, 1):
                    logits = module(self.normalize(pixels))
                    losses = self.loss(logits, labels)
                    sums.update(index, logits.to(sums.device), labels.to(sums.device), losses.to(sums.device))
        with warnings.catch_warnings():  # of a process for which there was no batch
            warnings.filterwarnings("ignore", message="The ``compute`` method")
            metrics = sums.compute()
        if metrics.values["count"] != len(split):
            raise AssertionError(f"{metrics.values['count']} images were counted, {split.name} has {len(split)}")
        return metrics


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
    moved = [] if options.data is None else [override("data.root", options.data), *_kind_of(options)]
    evaluate_run(Path(options.run), options.split, [*moved, *options.overrides], options.json, options.csv)
    return 0


def _kind_of(options: argparse.Namespace) -> list[str]:
    """data.name, where the images lie in another kind of place than those of the run did."""
    config, kind = Path(options.run) / "config.yaml", kind_of_data(options.data)
    is_kind = config.exists() and read_config(config).data.name in KINDS_OF_PATHS
    return [f"data.name={kind}"] if is_kind and kind is not None else []


def evaluate_run(
    run_dir: Path,
    split_name: str,
    overrides: Sequence[str] = (),
    json_file: Path | None = None,
    csv_file: Path | None = None,
) -> SplitMetrics:
    """The metrics of a run's kept weights on one of its splits, or on all of other images, printed.

    It changes nothing in the run folder. Raises UsageError where the split is not the one that the run set aside.
    """
    from distcls.cluster.processes import Processes
    from distcls.data.build import build_data
    from distcls.inference.classifier import load_kept_model
    from distcls.report.finish import print_metrics, write_metrics, write_predictions

    kept = load_kept_model(run_dir, [*overrides, *(UNCUT if split_name == "all" else [])])
    if split_name == "all" and _is_same_place(kept.config.data, run_dir):
        raise UsageError(
            f"--split all is for images that the run was not trained on, and {kept.config.data.root or 'this'} is what "
            "it was trained on: give others with --data DIR, or --split test, val or train"
        )
    if split_name != "all" and not (run_dir / "splits.json").exists():
        raise MissingInputError(
            f"{run_dir} does not say which images are in its {split_name} split: give the run folder around it; or "
            "other images, with --data DIR --split all"
        )
    with Processes(kept.config.run.device) as processes:
        kept.to(processes.device)
        data: Data = build_data(kept.data_config(), processes, least_classes=1)
        split = _aligned(_choose(data, split_name, run_dir), data.class_names, kept.class_names)
        evaluate = Evaluator(kept.config, len(kept.class_names), kept.normalize, processes)
        metrics = evaluate(kept.module, split)
        if metrics is None:
            raise KeyboardInterrupt
        if processes.is_main:
            state = read_status(run_dir).get("state")
            if state not in ("finished", None):
                print(
                    f"warning: {run_dir} is {state}, not finished: these are its best weights so far", file=sys.stderr
                )
            print_metrics(split_name, metrics, kept.class_names)
            if json_file is not None:
                write_metrics(json_file, metrics, kept.class_names)
            if csv_file is not None:
                write_predictions(csv_file, metrics, split, kept.class_names)
    return metrics


def _is_same_place(data: DataConfig, run_dir: Path) -> bool:
    """Whether these are the images that the run has its splits from."""
    before = read_config(run_dir / "config.yaml").data
    places = [one.root and os.path.realpath(os.path.expanduser(one.root)) for one in (data, before)]
    return (data.name, data.args, places[0]) == (before.name, before.args, places[1])


def _aligned(split: Split, names: list[str], class_names: list[str]) -> Split:
    """The split with the class ids of the run: its folders need not have all of the run's classes."""
    unknown = [repr(name) for name in names if name not in class_names]
    if unknown:
        raise UsageError(
            f"the run was not trained on {some_of(unknown, 10)}: rename or leave out "
            f"what is called so. Its classes are {some_of(class_names, 20)}."
        )
    ids = np.array([class_names.index(name) for name in names])
    return dataclasses.replace(split, labels=ids[split.labels])


def _choose(data: Data, name: str, run_dir: Path) -> Split:
    """The split of that name, if it is still what it was for the run; or "all" of other images."""
    from distcls.data.inspection.report import changed_images

    splits = {split.name: split for split in data.splits()}
    if name == "all":
        if len(splits) > 1:
            raise UsageError(f"the images have splits of their own, {', '.join(splits)}: --split one of them")
        return data.train
    if name not in splits:
        raise MissingInputError(f"{run_dir} has no {name} split, only {', '.join(splits)}: --split one of them.")
    if data.fingerprint != json.loads((run_dir / "data_report.json").read_text())["fingerprint"]:
        before, now = json.loads((run_dir / "splits.json").read_text()), data.split_lists()
        if before.get(name) != now[name] or isinstance(now[name][0], int):
            raise UsageError(
                f"the data is not what {run_dir} was trained on:\n  "
                + "\n  ".join(changed_images(before, now))
                + f"\nSo images of {name} may have been trained on. Put the old data back; or, for images that the run "
                "has never seen: --data DIR --split all"
            )
    return splits[name]
