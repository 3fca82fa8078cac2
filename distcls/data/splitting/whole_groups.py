"""Holds out a split or a fold without cutting a group of images (data.groups), or says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distcls.config.settings import DataConfig
from distcls.config.wording import count
from distcls.config.yaml_text import typed
from distcls.data.sources.image_set import Groups
from distcls.data.splitting.dealing import count_pairs, deal
from distcls.data.splitting.folds import SHOWN_CLASSES, refuse_single
from distcls.errors import UsageError, some_of


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
    before: tuple[np.ndarray, np.ndarray]
    """The labels and groups of the whole set, from which test may have been cut before."""

    @classmethod
    def of(cls, labels: np.ndarray, groups: Groups, rows: np.ndarray, config: DataConfig) -> GroupedImages:
        """Return the images in these rows of an image set, which has these labels and groups."""
        present, ids = np.unique(groups.of[rows], return_inverse=True)
        names = [groups.names[i] for i in present.tolist()]
        return cls(labels[rows], ids, names, config, before=(labels, groups.of))

    def hold_out(self, name: str, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Hold out about this share of the images and of each class: return (kept, held out) positions, int64, sorted.

        name: of the split to cut. Each class keeps at least one group. Raises UsageError if nothing can be held out.
        """
        parts = self._deal(name, fraction)
        if not parts.any():
            raise UsageError(self._why_nothing(name, fraction))
        return np.flatnonzero(parts[self.groups] == 0), np.flatnonzero(parts[self.groups] == 1)

    def _deal(self, name: str, fraction: float) -> np.ndarray:
        """Return int64 (G,), 1 for the groups to hold out."""
        return deal(self.labels, self.groups, (1 - fraction, fraction), [1], self.config.split_seed, purpose=name)

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
            now, before = (np.bincount(count_pairs(*of)[1]) for of in ((self.labels, self.groups), self.before))
            refuse_single("group", now, before, folds, class_names, others="images of other groups")
        parts = deal(self.labels, self.groups, [1 / folds] * folds, range(folds), self.config.split_seed, "fold")
        if class_names:
            self._refuse_whole_classes(parts, folds, class_names)
        return np.flatnonzero(parts[self.groups] != fold), np.flatnonzero(parts[self.groups] == fold)

    @property
    def _setting(self) -> str:
        return typed("data.groups", str(self.config.groups))

    @property
    def _beside_test(self) -> str:
        return " once the test images are held out" if len(self.labels) < len(self.before[0]) else ""

    def _why_nothing(self, name: str, fraction: float) -> str:
        given = f"data.{name}_fraction={fraction:g} would leave {name} empty, because groups stay whole: "
        found, without = f"{self._setting} finds", f"or do without {name}: data.{name}_fraction=0"
        if len(self.names) == 1:
            return (
                f"{given}{found} a single group, {self.names[0]}, in {count(len(self.labels), 'image')}"
                f"{self._beside_test}. Set data.groups so that it tells groups apart, {without}"
            )
        needed, _ = self._whole_classes(self.groups)
        free = np.delete(np.bincount(self.groups), needed)
        if len(free) == 0:
            return (
                f"{given}{found} {count(len(self.names), 'group')}{self._beside_test}, but each has all images of some "
                "class, and training needs them. Set data.groups so that it tells apart the things within a class, add "
                f"images of other groups, {without}"
            )
        share = free.min() / len(self.labels)
        enough = max(math.ceil(share * 100) / 100, min(2 * fraction, 0.5))
        while not self._deal(name, enough).any():
            enough = min(2 * enough, 0.6)  # above 0.5, the first group that can be held out is
        return (
            f"{given}{found} {count(len(self.names), 'group')} ({some_of(self.names, 3)}){self._beside_test}, and the "
            f"smallest that can be held out has {share:.0%} of the images. If these are the groups that you mean, hold "
            f"out more, such as data.{name}_fraction={enough:g}, {without}"
        )

    def _refuse_whole_classes(self, parts: np.ndarray, folds: int, class_names: Sequence[str]) -> None:
        """Raise UsageError if all groups of a class came into the same fold, which is rare: `deal` avoids it."""
        _, whole = self._whole_classes(parts[self.groups])
        if len(whole):
            names = some_of([class_names[i] for i in sorted(map(int, whole))], SHOWN_CLASSES)
            raise UsageError(
                f"data.folds={folds}: the groups cannot be dealt so that each fold leaves images of {names} to train "
                "on. Use another number of folds, or add images of other groups with these classes"
            )

    def _whole_classes(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which groups or folds have all images of a class, and of which class. of: int64 (n,), each image's."""
        found, classes, images = count_pairs(self.labels, of)
        whole = images == np.bincount(self.labels)[classes]
        return found[whole], classes[whole]
