"""Finds out which images belong together (data.groups), such as photographs of one patient, so that no split gets a
part of them only.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from distcls.config.settings import DataConfig
from distcls.config.wording import count
from distcls.config.yaml_text import quoted
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import Groups, ImageSet
from distcls.errors import UsageError, some_of

SHOWN_GROUPS = 3  # in a message


def find_groups(config: DataConfig, image_sets: Mapping[str, ImageSet]) -> dict[str, Groups]:
    """Return the groups of each image set, by its split; empty without data.groups.

    Raises UsageError if an image belongs to no group.
    """
    if config.groups is None:
        return {}
    groups, without = {}, []
    for split, image_set in image_sets.items():
        of_column = image_set.groups if isinstance(image_set, FolderSet) else None
        groups[split] = of_column or _groups_by_name(config.groups, _names(image_set), without)
    if without:
        raise UsageError(_not_matched(config.groups, without, sum(map(len, image_sets.values()))))
    return groups


def _names(image_set: ImageSet) -> Iterable[str]:
    return image_set.names() if isinstance(image_set, FolderSet) else map(image_set.name, range(len(image_set)))


def _groups_by_name(expression: str, names: Iterable[str], without: list[str]) -> Groups:
    """Return the groups that a regular expression finds, and append names that it does not match to `without`."""
    search = re.compile(expression).search
    numbering: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    ids = []
    for name in names:
        match = search(name)
        group = match and (match[1] or next(filter(None, match.groups()), None))
        if group:
            ids.append(numbering[group])
        else:
            without.append(name)
    return Groups.numbered(numbering, np.array(ids, np.int64))


def _not_matched(expression: str, without: list[str], num_images: int) -> str:
    given = setting_of(expression)
    if len(without) == num_images:
        return (
            f"{given} matches none of {count(num_images, 'image')}, such as {without[0]}: write an expression whose "
            "parentheses match the part of this path that names the group"
        )
    alone = setting_of(f"^(?:.*?(?:{expression})|(.+))")
    return (
        f"{given} does not match {len(without):,} of {count(num_images, 'image')}: {some_of(without, SHOWN_GROUPS)}. "
        f"Extend it; or, if each of these images may be a group of its own: {alone}"
    )


def setting_of(expression: str) -> str:
    """Return data.groups=… as to be typed in a shell."""
    return f"data.groups={shlex.quote(quoted(expression))}"


def describe_groups(config: DataConfig, groups: Mapping[str, Groups]) -> dict[str, Any] | None:
    """Return what a report says about the groups, as JSON types; None without data.groups."""
    if config.groups is None:
        return None
    sizes: defaultdict[str, int] = defaultdict(int)
    for of_set in groups.values():
        for name, size in zip(of_set.names, np.bincount(of_set.of).tolist(), strict=True):
            sizes[name] += size
    images = np.array(list(sizes.values()))
    return {
        "by": config.groups,
        "num_groups": len(sizes),
        "num_in_several_splits": len(_spanning(groups)),
        "num_images": {"min": int(images.min()), "median": float(np.median(images)), "max": int(images.max())},
    }


def group_warnings(config: DataConfig, groups: Mapping[str, Groups]) -> list[str]:
    """Return a sentence if groups are in several splits of the data set's own, or if each has one image only."""
    found = []
    if spanning := _spanning(groups):
        name, splits = next(iter(spanning.items()))
        are, move = (
            ("group is", "Give all its images the same split")
            if len(spanning) == 1
            else ("groups are", "Give all images of a group the same split")
        )
        found.append(
            f"{len(spanning):,} {are} in more than one split of the data set, such as {name} ({' and '.join(splits)}): "
            f"a model must not be measured on groups it was trained on. {move}, or leave the splits to distcls: put "
            "all images into train"
        )
    num_images = sum(len(of_set.of) for of_set in groups.values())
    if groups and all(len(of_set.names) == len(of_set.of) for of_set in groups.values()) and not spanning:
        found.append(
            f"{setting_of(str(config.groups))} finds {count(num_images, 'group')} in {count(num_images, 'image')}, so "
            "it keeps none together: capture less of the path"
        )
    return found


def _spanning(groups: Mapping[str, Groups]) -> dict[str, list[str]]:
    """Return the splits of each group that several splits of the data set have images of."""
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for split, of_set in groups.items():
        for name in of_set.names:
            splits[name].append(split)
    return {name: of_group for name, of_group in splits.items() if len(of_group) > 1}
