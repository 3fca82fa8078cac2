"""Finds out which images belong together (data.groups), such as photographs of one patient, so that no split gets a
part of them only.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from distcls.config.contradictions import wrong_expression
from distcls.config.settings import DataConfig
from distcls.config.wording import count
from distcls.config.yaml_text import typed
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import Groups, ImageSet
from distcls.data.split import Split
from distcls.data.splitting.cut import splits_to_cut
from distcls.errors import BadDataError, DistclsError, UsageError, some_of

SHOWN_GROUPS = 3  # in a message


def find_groups(config: DataConfig, image_sets: Mapping[str, ImageSet]) -> dict[str, Groups]:
    """Return the groups of each image set, by its split; empty without data.groups.

    Raises UsageError or BadDataError if a split or fold is to be cut from images of which some belong to no group.
    """
    if config.groups is None:
        return {}
    groups = {}
    for split, image_set in image_sets.items():
        groups[split] = _of_column(image_set) or _groups_by_name(config.groups, _names(image_set))
    without = np.flatnonzero(groups["train"].of < 0)
    if len(without) and splits_to_cut(config, image_sets):
        raise _without_group(config, image_sets["train"], without)
    return groups


def forget_groups(image_sets: Mapping[str, ImageSet]) -> None:
    """Drop what a CSV file says about groups: once splits are cut, it would only be sent to every loader process."""
    for image_set in image_sets.values():
        if isinstance(image_set, FolderSet):
            image_set.groups = None


def _of_column(image_set: ImageSet) -> Groups | None:
    return image_set.groups if isinstance(image_set, FolderSet) else None


def _names(image_set: ImageSet) -> Iterable[str]:
    return image_set.names() if isinstance(image_set, FolderSet) else map(image_set.name, range(len(image_set)))


def _groups_by_name(expression: str, names: Iterable[str]) -> Groups:
    """Return the groups that a regular expression finds. Raises UsageError if it is none, or has no parentheses."""
    if problem := wrong_expression(expression):
        raise UsageError(
            f"data.groups={expression} {problem}, and the data set has no column of that name: correct it, or add "
            "data.groups=null"
        )
    search = re.compile(expression).search
    numbering: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    ids = []
    for name in names:
        match = search(name)
        ids.append(numbering[next(filter(None, match.groups()), "") if match else ""])
    return Groups.numbered(numbering, np.array(ids, np.int64))


def _without_group(config: DataConfig, train: ImageSet, without: np.ndarray) -> DistclsError:
    """Return the error for these positions in the set that splits are cut from."""
    expression, names = str(config.groups), [train.name(i) for i in without.tolist()]
    if _of_column(train):
        return BadDataError(
            f"data.groups={expression}: this column is empty for {len(names):,} of {count(len(train), 'image')}, from "
            f"which splits are cut: {some_of(names, SHOWN_GROUPS)}. Fill in a group for each; an image alone gets a "
            "name of its own"
        )
    given = f"{typed('data.groups', expression)} captures nothing in"
    if len(names) == len(train):
        return UsageError(
            f"{given} the paths of {count(len(names), 'image')}, such as {names[0]}: write an expression whose "
            "parentheses match the part of this path that names the group"
        )
    alone = f"^(?:.*?(?:{expression})|(.+))"
    can_help = wrong_expression(alone) is None and (_groups_by_name(alone, names).of >= 0).all()
    return UsageError(
        f"{given} {len(names):,} of {count(len(train), 'image')}: {some_of(names, SHOWN_GROUPS)}. Extend it"
        + (
            f"; or, if each of these images may be a group of its own: {typed('data.groups', alone)}"
            if can_help
            else ""
        )
    )


def describe_groups(config: DataConfig, groups: Mapping[str, Groups], splits: Iterable[Split]) -> dict[str, Any] | None:
    """Return what a report says about the groups, as JSON types; None if there are none."""
    if not groups:
        return None
    sizes: defaultdict[str, int] = defaultdict(int)
    for of_set in groups.values():
        for name, size in zip(of_set.names, _sizes(of_set).tolist(), strict=True):
            sizes[name] += size
    images = np.array([*sizes.values()] or [0])
    return {
        "by": config.groups,
        "num_groups": len(sizes),
        "num_in_split": {split.name: split.num_groups for split in splits},
        "num_in_several_splits": len(_spanning(groups)),
        "num_images": {"min": int(images.min()), "median": float(np.median(images)), "max": int(images.max())},
    }


def group_warnings(config: DataConfig, groups: Mapping[str, Groups], naming: bool = False) -> list[str]:
    """Return a sentence if groups are in several splits of the data set's own, or if each has one image only.

    naming: name a group, which may be a person: not in a run's report, from which a public card is made.
    """
    found = []
    if spanning := _spanning(groups):
        name, splits = next(iter(spanning.items()))
        such_as = f", such as {name} ({' and '.join(splits)})" if naming else ""
        are, move = (
            ("group is", "Give all its images the same split")
            if len(spanning) == 1
            else ("groups are", "Give all images of a group the same split")
        )
        found.append(
            f"{len(spanning):,} {are} in more than one split of the data set{such_as}: a model must not be measured on "
            f"groups it was trained on. {move}, or leave the splits to distcls: put all images into train"
        )
    elif groups and all((_sizes(of_set) == 1).all() for of_set in groups.values()):
        num_groups = sum(len(of_set.names) for of_set in groups.values())
        num_images = sum(len(of_set.of) for of_set in groups.values())
        fewer = "choose another column" if config.has_group_column else "capture less of the path"
        found.append(
            f"{typed('data.groups', str(config.groups))} finds {count(num_groups, 'group')} in "
            f"{count(num_images, 'image')}, so it keeps none together: {fewer}"
        )
    return found


def _sizes(groups: Groups) -> np.ndarray:
    """Return int64 (G,), the images in each group."""
    return np.bincount(groups.of[groups.of >= 0], minlength=len(groups.names))


def _spanning(groups: Mapping[str, Groups]) -> dict[str, list[str]]:
    """Return the splits of each group that several splits of the data set have images of."""
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for split, of_set in groups.items():
        for name in of_set.names:
            splits[name].append(split)
    return {name: of_group for name, of_group in splits.items() if len(of_group) > 1}
