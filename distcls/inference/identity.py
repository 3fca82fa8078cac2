"""Whether images are those that a run knows: what may be trained on further, and what may be measured."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from distcls.config.loading import read_config
from distcls.config.settings import DataConfig
from distcls.data.inspection.report import changed_images
from distcls.data.split import Data, Split
from distcls.errors import MissingInputError, UsageError, some_of


def refuse_other_data(data: Data, run_dir: Path) -> None:
    """Raises UsageError where a run that has a checkpoint began with other images."""
    if not any((run_dir / "checkpoints").glob("step-*")):
        return
    old = json.loads((run_dir / "data_report.json").read_text())
    if old["fingerprint"] != data.fingerprint:
        lists = json.loads((run_dir / "splits.json").read_text())
        raise UsageError(
            f"the data is not what {run_dir} began with:\n  "
            + "\n  ".join(changed_images(lists, data.split_lists()))
            + "\nPut the old data back, or begin another run with --name NAME."
        )


def is_same_place(data: DataConfig, run_dir: Path) -> bool:
    """Whether these are the images that the run has its splits from."""
    before = read_config(run_dir / "config.yaml").data
    places = [one.root and os.path.realpath(os.path.expanduser(one.root)) for one in (data, before)]
    return (data.name, data.args, places[0]) == (before.name, before.args, places[1])


def aligned(split: Split, names: list[str], class_names: list[str]) -> Split:
    """The split with the class ids of the run: its folders need not have all of the run's classes."""
    unknown = [repr(name) for name in names if name not in class_names]
    if unknown:
        raise UsageError(
            f"the run was not trained on {some_of(unknown, 10)}: rename or leave out "
            f"what is called so. Its classes are {some_of(class_names, 20)}."
        )
    ids = np.array([class_names.index(name) for name in names])
    return dataclasses.replace(split, labels=ids[split.labels])


def choose_split(data: Data, name: str, run_dir: Path) -> Split:
    """The split of that name, if it is still what it was for the run; or "all" of other images."""
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
