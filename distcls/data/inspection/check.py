"""Examines a data set before anything is trained on it, for `distcls check`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.cache.folder import cache_folder
from distcls.data.cache.pixels import Limits, keep_findings
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.native_size import choose_decoding
from distcls.data.decoding.parallel import OnProgress
from distcls.data.exclusion import Exclusion, find_excluded
from distcls.data.inspection.duplicates import equal_rows
from distcls.data.inspection.examine import Inspected, inspect
from distcls.data.inspection.report import (
    count_images,
    how_to_go_on,
    list_bad_files,
    nothing_to_learn,
    too_little,
    too_many_bad,
)
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import Groups, ImageSet
from distcls.data.split import Split, split_without
from distcls.data.splitting.cut import cut_splits
from distcls.data.splitting.groups import describe_groups, find_groups, forget_groups, group_warnings
from distcls.errors import BadDataError, UsageError

LISTED_SHAPES = 100  # in JSON: a million photographs have thousands of shapes


@dataclass(frozen=True)
class Copies:
    """An image that occurs more than once, byte for byte."""

    images: list[str]
    """The name of each copy."""
    splits: list[str]
    classes: list[str]
    """The split and class of each copy."""

    @property
    def is_leak(self) -> bool:
        """True if copies are in more than one split, so that the model may be measured on what it was trained on."""
        return len(set(self.splits)) > 1

    @property
    def is_conflict(self) -> bool:
        """True if copies are labeled as different classes."""
        return len(set(self.classes)) > 1


@dataclass
class DataCheck:
    """A data set and what was found in it."""

    config: DataConfig
    decoding: Decoding
    image_sets: dict[str, ImageSet]
    splits: list[Split]
    """The splits as training would cut them, without bad images and those of data.exclude; train comes first."""
    found: dict[str, Inspected]
    """The findings, by the name of the image set."""
    copies: list[Copies]
    excluded: Exclusion
    image_groups: dict[str, Groups]
    """Which images belong together, by the name of the image set; empty without data.groups, or if it is wrong."""
    split_error: str | None
    """Why no splits can be cut with data.groups, if so; `splits` are then those of the data set itself."""

    @property
    def class_names(self) -> list[str]:
        """The class names of the training split."""
        return self.splits[0].image_set.class_names

    @cached_property
    def bad_files(self) -> list[dict[str, str]]:
        """[{"path", "reason"}] of the images that cannot be decoded."""
        return list_bad_files(self.image_sets, self.found)

    @property
    def num_images(self) -> int:
        """The number of images, including bad ones."""
        return sum(map(len, self.image_sets.values()))

    @property
    def num_animations(self) -> int:
        """The number of images that are the first frame of several."""
        return sum(found.num_animations for found in self.found.values())

    @cached_property
    def num_ignored(self) -> int:
        """The number of files in class folders that are not images, judging by their names."""
        return sum(image_set.num_ignored for image_set in self.image_sets.values() if isinstance(image_set, FolderSet))

    @cached_property
    def per_class(self) -> dict[str, np.ndarray]:
        """The number of images per class, int (C,), for each split and for "unreadable"."""
        count, lists = len(self.class_names), {split.name: split.labels for split in self.splits}
        bad = [self.image_sets[name].labels[list(found.bad)] for name, found in self.found.items() if found.bad]
        lists["unreadable"] = np.concatenate([np.empty(0, np.int64), *bad])
        return {name: np.bincount(labels, minlength=count) for name, labels in lists.items()}

    @cached_property
    def sizes(self) -> np.ndarray:
        """int32 (n, 2), the width and height of each image that can be decoded."""
        sizes = np.concatenate([found.sizes for found in self.found.values()])
        return sizes[sizes[:, 0] > 0]

    @cached_property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(width, height, number of images) for each shape, the most frequent first."""
        shapes, counts = np.unique(self.sizes, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*shapes[i].tolist(), int(counts[i])) for i in order]

    def count(self, what: str) -> dict[str, int]:
        """Return the number of images per format or mode, the most frequent first. what: "formats" or "modes"."""
        return dict(sum((getattr(found, what) for found in self.found.values()), Counter()).most_common())

    @cached_property
    def histogram(self) -> np.ndarray:
        """int64 (3, 256), how often each value of red, green and blue occurs in the training images."""
        return sum((found.histogram for found in self.found.values()), np.zeros((3, 256), np.int64))

    @cached_property
    def mean_image(self) -> np.ndarray:
        """uint8 (S, S, 3), the mean of the training images."""
        pixels = sum((found.pixel_sum for found in self.found.values()), np.zeros(self.decoding.shape))
        return np.rint(pixels / max(sum(found.num_measured for found in self.found.values()), 1)).astype(np.uint8)

    @cached_property
    def normalize(self) -> dict[str, list[float]]:
        """Channel means and standard deviations of the training images, from 0 to 1, for augment.normalize."""
        values, counts = np.arange(256) / 255, self.histogram / max(self.histogram[0].sum(), 1)
        mean = counts @ values
        std = np.sqrt(np.maximum(counts @ values**2 - mean**2, 0))
        return {"mean": mean.round(4).tolist(), "std": std.round(4).tolist()}

    @cached_property
    def groups(self) -> dict[str, Any] | None:
        """How many groups there are, and of how many images; None without data.groups."""
        return describe_groups(self.config, self.image_groups, self.splits)

    def errors(self) -> list[str]:
        """Return the problems that training would refuse."""
        found = [] if self.split_error is None else [self.split_error]
        if head := too_many_bad(self.config, len(self.bad_files), self.num_images):
            found.append(f"{head}. {how_to_go_on(len(self.bad_files), self.num_images)}")
        if problem := nothing_to_learn(self.splits, self.excluded):
            found.append(problem)
        return found

    def warnings(self) -> list[str]:
        """Return the problems that training would accept but somebody should look into."""
        leaks = sum(copies.is_leak for copies in self.copies)
        conflicts = sum(copies.is_conflict for copies in self.copies)
        found = []
        if leaks:
            found.append(
                f"{_images(leaks)} in more than one split: a model must not be measured on images it was trained on. "
                "Keep one copy of each"
            )
        if conflicts:
            found.append(
                f"{_images(conflicts)} in more than one class: some of these labels are wrong. Keep only the right ones"
            )
        found += [*self.excluded.warnings(), *group_warnings(self.config, self.image_groups, naming=True)]
        return [*found, *(too_little(self.splits) if self.split_error is None else [])]

    def as_json(self) -> dict[str, Any]:
        """Return all findings as JSON types, for programs."""
        return {
            "name": self.config.name,
            "root": self.config.root,
            "num_images": self.num_images,
            "class_names": self.class_names,
            "splits": {split.name: count_images(split) for split in self.splits},
            "groups": self.groups,
            "formats": self.count("formats"),
            "modes": self.count("modes"),
            "sizes": {
                "width": _range(self.sizes[:, 0]),
                "height": _range(self.sizes[:, 1]),
                "num_shapes": len(self.shapes),
                "shapes": [
                    {"width": w, "height": h, "num_images": count} for w, h, count in self.shapes[:LISTED_SHAPES]
                ],
            },
            "num_animations": self.num_animations,
            "num_ignored_files": self.num_ignored,
            "num_excluded": len(self.excluded),
            "image_size": self.decoding.image_size,
            "resize": self.decoding.resize,
            "normalize": self.normalize,
            "bad_files": self.bad_files,
            "duplicates": [
                {
                    "images": copies.images,
                    "splits": copies.splits,
                    "classes": copies.classes,
                    "is_leak": copies.is_leak,
                    "is_conflict": copies.is_conflict,
                }
                for copies in self.copies
            ],
            "errors": self.errors(),
            "warnings": self.warnings(),
        }


def check_data(config: DataConfig, progress: OnProgress | None = None) -> DataCheck:
    """Decode all images of a data set as training would, and look for problems.

    progress: called with (images done, total images). Raises UsageError, MissingInputError and BadDataError if the
    data set cannot be opened.
    """
    limits = Limits.of(config)
    image_sets = open_image_sets(config)
    excluded = find_excluded(config, image_sets)
    decoding = choose_decoding(config, image_sets["train"])
    labels = {name: image_set.labels for name, image_set in image_sets.items()}
    groups, split_error = {}, None
    try:
        groups = find_groups(config, image_sets)
        cuts = cut_splits(labels, config, image_sets["train"].class_names, groups)
    except (UsageError, BadDataError) as error:
        if config.groups is None:
            raise
        groups, split_error = {}, str(error)
        cuts = {name: (name, np.arange(len(of_set))) for name, of_set in labels.items()}
    forget_groups(image_sets)
    found: dict[str, Inspected] = {}
    for name, image_set in image_sets.items():
        measured = np.zeros(len(image_set), bool)
        if name == "train":
            measured[cuts["train"][1]] = True
        found[name] = inspect(image_set, decoding, measured, _of_all(progress, image_sets, found))
        findings = found[name].bad, found[name].num_animations, found[name].digests
        keep_findings(image_set, decoding, limits, cache_folder(config), *findings)
    splits, digests = [], []
    for name, (source, rows) in cuts.items():
        left_out = {*found[source].bad, *excluded.of(source)}
        of_split = split_without(left_out, name, image_sets[source], rows, None, decoding, groups=groups.get(source))
        splits.append(of_split)
        digests.append(found[source].digests[splits[-1].rows])
    copies = _find_copies(splits, digests)
    return DataCheck(config, decoding, image_sets, splits, found, copies, excluded, groups, split_error)


def _of_all(
    progress: OnProgress | None, image_sets: dict[str, ImageSet], done: dict[str, Inspected]
) -> OnProgress | None:
    """Return a progress function for one image set that counts over all of them."""
    if progress is None:
        return None
    before, total = sum(len(found.sizes) for found in done.values()), sum(map(len, image_sets.values()))
    return lambda now, _: progress(before + now, total)


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"


def _range(numbers: np.ndarray) -> dict[str, int]:
    if len(numbers) == 0:
        return {}
    return {"min": int(numbers.min()), "median": int(np.median(numbers)), "max": int(numbers.max())}


def _find_copies(splits: list[Split], digests: list[np.ndarray]) -> list[Copies]:
    """Find copies. Bad images are in no split, so that empty files do not count as copies of each other."""
    split_of = np.repeat(np.arange(len(splits)), list(map(len, splits)))
    place_in = np.concatenate([np.arange(len(split)) for split in splits])
    copies = []
    for group in equal_rows(np.concatenate(digests)):
        places = [(splits[split_of[row]], int(place_in[row])) for row in group]
        copies.append(
            Copies(
                images=[split.image_name(i) for split, i in places],
                splits=[split.name for split, _ in places],
                classes=[split.image_set.class_names[split.labels[i]] for split, i in places],
            )
        )
    return copies
