"""Turns what an audit found into lists for people and for data.exclude."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from distcls.data.exclusion import IMAGE_COLUMN
from distcls.files.atomic import naming_disk_errors, write_text
from distcls.sweeps.audit.gallery import Gallery
from distcls.sweeps.audit.label_errors import LabelErrors
from distcls.sweeps.audit.near_duplicates import Pair

LABEL_ERROR = "label error"
"""The reason of a finding that is no duplicate."""

KEPT_FIRST = ("test", "val", "fold", "train")
"""Of near-duplicates in two places, the image in the first of these is kept."""


@dataclass(frozen=True)
class Finding:
    """An image that should perhaps be left out."""

    image: str
    label: str
    suggested: str
    """Another label for it; empty if there is none to suggest."""
    score: float
    """From 0 to 1: LabelErrors.scores, or Pair.similarity."""
    reason: str


assert fields(Finding)[0].name == IMAGE_COLUMN


@dataclass
class Findings:
    """Everything that an audit found."""

    gallery: Gallery
    errors: LabelErrors
    """About gallery.predicted, the images that were predicted."""
    pairs: list[Pair]
    """Positions in the gallery."""

    def listed(self) -> list[int]:
        """Return the positions in the gallery of images whose label is probably wrong, the most probable first."""
        return self.gallery.predicted[self.errors.listed].tolist()

    def is_leak(self, pair: Pair) -> bool:
        """True if they are in different splits, or both in folds, even the same fold: the next run cuts new splits."""
        places = {_place(self.gallery.places[image]) for image in (pair.first, pair.second)}
        return len(places) > 1 or "fold" in places

    def is_conflict(self, pair: Pair) -> bool:
        """True if the two images have different labels."""
        return bool(self.gallery.labels[pair.first] != self.gallery.labels[pair.second])

    def conflicts(self) -> list[Pair]:
        """Return the pairs with different labels, of which at least one is wrong."""
        return [pair for pair in self.pairs if self.is_conflict(pair)]

    def leaks(self) -> list[Pair]:
        """Return the leaking pairs with the same label."""
        return [pair for pair in self.pairs if self.is_leak(pair) and not self.is_conflict(pair)]

    def others(self) -> list[Pair]:
        """Return the pairs in one split with the same label."""
        return [pair for pair in self.pairs if not self.is_leak(pair) and not self.is_conflict(pair)]

    def label_of(self, image: int) -> str:
        """Return the name of the label that an image was given."""
        return self.gallery.class_names[self.gallery.labels[image]]

    def to_exclude(self) -> list[Finding]:
        """Return what data.exclude should leave out: probable label errors, then of near-duplicates all but one."""
        found = self._label_errors()
        left_out = {one.image for one in found}
        scores = np.full(len(self.gallery), np.nan)
        scores[self.gallery.predicted] = self.errors.scores
        for pair in [*self.conflicts(), *self.leaks()]:
            first, second = self.gallery.names[pair.first], self.gallery.names[pair.second]
            if first in left_out or second in left_out:
                continue  # without it, the other one does no harm
            if first == second and not self.is_conflict(pair):
                continue  # one image, listed twice: its name leaves out both
            for image, other in self._to_leave_out(pair, scores)[: 1 if first == second else 2]:
                found.append(self._duplicate(image, other, pair))
                left_out.add(found[-1].image)
        return found

    def _label_errors(self) -> list[Finding]:
        names = self.gallery.class_names
        return [
            Finding(
                self.gallery.names[image],
                self.label_of(image),
                names[self.errors.suggested[row]],
                round(float(self.errors.scores[row]), 4),
                LABEL_ERROR,
            )
            for image, row in zip(self.listed(), self.errors.listed.tolist(), strict=True)
        ]

    def _to_leave_out(self, pair: Pair, scores: np.ndarray) -> list[tuple[int, int]]:
        """Return (image, the other one) for the images of a pair to leave out."""
        both = [(pair.second, pair.first), (pair.first, pair.second)]
        if not self.is_conflict(pair):
            ranks = [_rank(self.gallery.places[image]) for image, _ in both]
            return [both[0] if ranks[0] >= ranks[1] else both[1]]
        first, second = scores[pair.first], scores[pair.second]
        if np.isnan(first) or np.isnan(second) or first == second:
            return both  # nobody knows which label is wrong
        return [both[0] if second > first else both[1]]

    def _duplicate(self, image: int, other: int, pair: Pair) -> Finding:
        conflict = self.is_conflict(pair)
        what = f"labeled {self.label_of(other)}" if conflict else f"in {self.gallery.places[other]}"
        reason = f"near-duplicate of {self.gallery.names[other]}, {what}"
        suggested = self.label_of(other) if conflict else ""
        return Finding(self.gallery.names[image], self.label_of(image), suggested, round(pair.similarity, 4), reason)


def _place(place: str) -> str:
    """Return "fold" for any fold: which one an image was in means nothing later."""
    return place.split()[0]


def _rank(place: str) -> int:
    return KEPT_FIRST.index(_place(place))


def write_findings(found: Sequence[Finding], path: Path) -> Path:
    """Write the CSV file that data.exclude takes, and return it. Raises DiskError.

    A file with other lines stays as it is, because its user may have edited it, and runs may name it: the new one is
    called audit-2.csv, and so on.
    """
    content = _csv_text([field.name for field in fields(Finding)], (astuple(one) for one in found))
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    encoded = content.encode("utf-8", "surrogateescape")
    free = next(one for one in itertools.chain([path], others) if not one.exists() or one.read_bytes() == encoded)
    with naming_disk_errors(free):
        write_text(free, content)
    return free


def write_pairs(findings: Findings, path: Path) -> None:
    """Write a CSV file with all near-duplicates. Raises DiskError."""
    head = ["image", "label", "place", "other", "other_label", "other_place", "similarity", "mirrored"]
    with naming_disk_errors(path):
        write_text(path, _csv_text(head, (_pair_row(findings, pair) for pair in findings.pairs)))


def _pair_row(findings: Findings, pair: Pair) -> tuple[object, ...]:
    gallery = findings.gallery
    images = [(gallery.names[i], findings.label_of(i), gallery.places[i]) for i in (pair.first, pair.second)]
    return (*images[0], *images[1], round(pair.similarity, 4), "yes" if pair.is_mirrored else "no")


def _csv_text(head: Sequence[str], rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
