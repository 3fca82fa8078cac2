"""Holds out a split or a fold without cutting a group of images (data.groups), or says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distcls.config.settings import DataConfig
from distcls.config.wording import count
from distcls.data.dealing import deal
from distcls.data.groups import setting_of
from distcls.data.sources.image_set import Groups
from distcls.errors import UsageError, some_of

SHOWN_CLASSES = 5  # in an error message


@dataclass
class GroupedImages:
    """The images that a split is cut from, and their groups."""

    labels: np.ndarray
    """int64 (n,), class ids."""
    groups: np.ndarray
    """int64 (n,), from 0 to G-1."""
    names: list[str]
    """The names of the G groups."""
    config: DataConfig
    has_lost_test: bool
    """True if images of these groups' set were held out for testing before."""

    @classmethod
    def of(cls, labels: np.ndarray, groups: Groups, rows: np.ndarray, config: DataConfig) -> GroupedImages:
        """Return the images in these rows of an image set, which has these labels and groups."""
        present, ids = np.unique(groups.of[rows], return_inverse=True)
        names = [groups.names[i] for i in present.tolist()]
        return cls(labels[rows], ids, names, config, has_lost_test=len(rows) < len(labels))

    def cut(self, name: str, fraction: float, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cut this split, which with data.folds is a fold if it is val: see `hold_out` and `cut_fold`."""
        if name == "val" and self.config.folds is not None and self.config.fold is not None:
            return self.cut_fold(self.config.folds, self.config.fold, class_names)
        return self.hold_out(name, fraction)

    def hold_out(self, name: str, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Hold out about this share of the images and of each class: return (kept, held out) positions, int64, sorted.

        name: of the split to cut. Each class keeps at least one group. Raises UsageError if nothing can be held out.
        """
        if fraction == 0:
            return np.arange(len(self.labels)), np.empty(0, np.int64)
        shares = 1 - fraction, fraction
        parts = deal(self.labels, self.groups, shares, spared=[1], seed=self.config.split_seed, purpose=name)
        if not parts.any():
            raise UsageError(self._why_nothing(name, fraction))
        return np.flatnonzero(parts[self.groups] == 0), np.flatnonzero(parts[self.groups] == 1)

    def cut_fold(self, folds: int, fold: int, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (the other folds, this fold) as positions, int64, sorted: folds of about equal sizes and classes.

        Raises UsageError if there are more folds than groups. class_names: if given, also if some fold has all images
        of a class, so that none are left to train on.
        """
        if folds > len(self.names):
            fewer = f"Use data.folds={len(self.names)} or fewer" if len(self.names) > 1 else "Folds need at least 2"
            raise UsageError(
                f"data.folds={folds} is more than the {count(len(self.names), 'group')} that {self._setting} finds"
                f"{self._beside_test}: some folds would be empty. {fewer}"
            )
        if class_names:
            self._refuse_single_groups(folds, class_names)
        parts = deal(self.labels, self.groups, [1 / folds] * folds, range(folds), self.config.split_seed, "fold")
        if class_names:
            self._refuse_whole_classes(parts, folds, class_names)
        return np.flatnonzero(parts[self.groups] != fold), np.flatnonzero(parts[self.groups] == fold)

    @cached_property
    def _in_class(self) -> np.ndarray:
        """int64 (C,), images in each class."""
        return np.bincount(self.labels)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 (m,) each: a group, a class that it has images of, and how many."""
        pairs, counts = np.unique(self.groups * len(self._in_class) + self.labels, return_counts=True)
        return pairs // len(self._in_class), pairs % len(self._in_class), counts

    @property
    def _setting(self) -> str:
        return setting_of(str(self.config.groups))

    @property
    def _beside_test(self) -> str:
        return " once the test images are held out" if self.has_lost_test else ""

    def _why_nothing(self, name: str, fraction: float) -> str:
        given = f"data.{name}_fraction={fraction:g} would leave {name} empty, because groups stay whole: "
        found, without = f"{self._setting} finds", f"or do without {name}: data.{name}_fraction=0"
        if len(self.names) == 1:
            return (
                f"{given}{found} a single group, {self.names[0]}, in {count(len(self.labels), 'image')}"
                f"{self._beside_test}. Set data.groups so that it tells groups apart, {without}"
            )
        groups, classes, counts = self._pairs
        needed = groups[counts == self._in_class[classes]]
        free = np.delete(np.bincount(self.groups), needed)
        if len(free) == 0:
            return (
                f"{given}{found} {count(len(self.names), 'group')}{self._beside_test}, but each has all images of some "
                f"class, and training needs them. Add images of other groups, {without}"
            )
        share = free.min() / len(self.labels)
        enough = max(math.ceil(share * 100) / 100, min(2 * fraction, 0.5))
        return (
            f"{given}{found} {count(len(self.names), 'group')}{self._beside_test}, and the smallest that can be held "
            f"out has {share:.0%} of the images. Hold out more, such as data.{name}_fraction={enough:g}, {without}"
        )

    def _refuse_single_groups(self, folds: int, class_names: Sequence[str]) -> None:
        """Raise UsageError if a class is in one group only: some fold takes it."""
        groups, classes, _ = self._pairs
        single = np.flatnonzero(np.bincount(classes) == 1)
        if len(single) == 0:
            return
        if len(single) == 1:
            of = self.names[int(groups[classes == single[0]][0])]
            whose = f"the class {class_names[int(single[0])]} is in only 1, {of}"
        else:
            names = some_of([class_names[i] for i in single.tolist()], SHOWN_CLASSES)
            whose = f"the classes {names} are in only 1 each"
        raise UsageError(
            f"data.folds={folds} needs images of each class in at least 2 groups, but {whose}{self._beside_test}: the "
            "fold with that group in val would have none to train on. Fewer folds do not help: add images of other "
            f"groups, leave the class out{', or set data.test_fraction=0' if self.has_lost_test else ''}"
        )

    def _refuse_whole_classes(self, parts: np.ndarray, folds: int, class_names: Sequence[str]) -> None:
        """Raise UsageError if all groups of a class came into the same fold, which is rare: `deal` avoids it."""
        per_fold = np.bincount(parts[self.groups] * len(self._in_class) + self.labels)
        per_fold = np.pad(per_fold, (0, folds * len(self._in_class) - len(per_fold))).reshape(folds, -1)
        whole = np.flatnonzero(((per_fold == self._in_class) & (self._in_class > 0)).any(0))
        if len(whole):
            names = some_of([class_names[i] for i in whole.tolist()], SHOWN_CLASSES)
            raise UsageError(
                f"data.folds={folds}: the groups cannot be dealt so that each fold leaves images of {names} to train "
                "on. Use another number of folds, or add images of other groups with these classes"
            )
