"""Writes down which images a run is trained on, and checks that it resumes with them and is evaluated on them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distcls.config.loading import read_config
from distcls.config.settings import DataConfig, NormalizeConfig
from distcls.config.wording import for_another_run
from distcls.data.augmentation.preprocessing import describe_preprocessing
from distcls.data.inspection.report import changed_images
from distcls.data.split import Data, Split
from distcls.errors import DiskError, MissingInputError, UsageError, some_of
from distcls.files.atomic import read_json
from distcls.runs.folder import RunFolder

Lists = dict[str, list]
"""The images of each split, as in splits.json."""


def check_and_describe_data(data: Data, normalize: NormalizeConfig, run: RunFolder) -> None:
    """Write the files that describe the run's data, on the main process, unless `refuse_other_data` raises."""
    lists = data.split_lists()
    refuse_other_data(data, lists, run.dir, run.config.run.dir)
    run.write_json("classes.json", data.class_names)
    run.write_json("splits.json", lists)
    run.write_json("data_report.json", {"fingerprint": data.fingerprint, **data.report})
    run.write_json("preprocessing.json", describe_preprocessing(data.decoding, normalize))


def refuse_other_data(data: Data, now: Lists, run_dir: Path, given_dir: str | None = None) -> None:
    """Raise UsageError if a run that has a checkpoint began with other images. now: the data's `split_lists`.

    given_dir: the setting run.dir, for messages. If data_report.json is damaged or missing, the names of the images
    decide, and the run writes it again. Raises DiskError if splits.json is damaged or missing too.
    """
    if not any((run_dir / "checkpoints").glob("step-*")):
        return
    report, lists = _read_report(run_dir), _read_lists(run_dir)
    if report is None and lists is None:
        raise DiskError(
            f"{run_dir} no longer says which images it began with: data_report.json and splits.json are damaged or "
            f"missing. Restore one of them, or {for_another_run(given_dir)}."
        )
    is_same = lists == now if report is None else data.has_fingerprint(report["fingerprint"])
    if not is_same:
        raise UsageError(
            f"the data is not what {run_dir} began with:\n  "
            + _what_changed(lists, now)
            + f"\nRestore the old data, or {for_another_run(given_dir)}."
        )


def _what_changed(before: Lists | None, now: Lists) -> str:
    if before is None:
        return "its splits.json is damaged or missing, so it is not known which images changed"
    return "\n  ".join(changed_images(before, now))


def _read_report(run_dir: Path) -> dict[str, Any] | None:
    """Return data_report.json; None if it is damaged or missing."""
    report = _read_json(run_dir / "data_report.json")
    return report if isinstance(report, dict) and isinstance(report.get("fingerprint"), str) else None


def _read_lists(run_dir: Path) -> Lists | None:
    """Return splits.json; None if it is damaged or missing."""
    lists = _read_json(run_dir / "splits.json")
    is_whole = isinstance(lists, dict) and all(isinstance(images, list) for images in lists.values())
    return lists if is_whole and "train" in lists else None


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError, RecursionError):
        return None


def is_same_place(data: DataConfig, run_dir: Path) -> bool:
    """True if these are the images that the run's splits come from."""
    before = read_config(run_dir / "config.yaml").data
    places = [one.root and os.path.realpath(os.path.expanduser(one.root)) for one in (data, before)]
    return (data.name, data.args, places[0]) == (before.name, before.args, places[1])


def aligned(split: Split, names: list[str], class_names: list[str]) -> Split:
    """Return the split with the run's class ids: its folders need not contain all of the run's classes."""
    unknown = [repr(name) for name in names if name not in class_names]
    if unknown:
        raise UsageError(
            f"the run was not trained on {some_of(unknown, 10)}: rename or leave out these classes. "
            f"The run's classes are {some_of(class_names, 20)}."
        )
    ids = np.array([class_names.index(name) for name in names])
    return dataclasses.replace(split, labels=ids[split.labels])


def _fingerprints(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints by split; none for reports of older runs."""
    found = report.get("split_fingerprints")
    return found if isinstance(found, dict) else {}


def choose_split(data: Data, name: str, run_dir: Path) -> Split:
    """Return the split of that name if it is the same as in the run, or for "all", every one of some other images."""
    splits = {split.name: split for split in data.splits()}
    if name == "all":
        if len(splits) > 1:
            raise UsageError(
                f"the images have their own splits, {', '.join(splits)}: give the folder of one, such as --data "
                f"DIR/{list(splits)[-1]} --split all, or of a CSV file the rows of one, without the column split"
            )
        return data.train
    if name not in splits:
        raise MissingInputError(f"{run_dir} has no {name} split, only {', '.join(splits)}: choose one with --split.")
    report, lists, now = _read_report(run_dir) or {"fingerprint": ""}, _read_lists(run_dir), data.split_lists()
    if not data.has_fingerprint(report["fingerprint"]):
        of_split = _fingerprints(report).get(name)
        if of_split is None:  # an older run or a damaged report: only the images' names are known
            is_same = lists is not None and lists.get(name) == now[name] and not isinstance(now[name][0], int)
        else:
            is_same = of_split == _fingerprints(data.report)[name]
        if not is_same:
            raise UsageError(
                f"the data is not what {run_dir} was trained on:\n  "
                + _what_changed(lists, now)
                + f"\nSo the run may have been trained on images of {name}. Restore the old data, or give images that "
                "the run has never seen with --data DIR --split all"
            )
    return splits[name]
