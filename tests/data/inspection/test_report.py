"""Somebody whose data has changed, or is too small, is told what it is about."""

from __future__ import annotations

import numpy as np

from distcls.data.decoding.decode import Decoding
from distcls.data.inspection.report import CONTENT_CHANGED, changed_images, too_little
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split


def test_what_came_and_went_is_told_before_what_moved_because_of_it():
    old = {"train": ["a/1", "a/2", "b/1"], "val": ["b/2"]}
    assert changed_images(old, {"train": ["a/1", "b/1", "b/2"], "val": ["a/2", "b/3"]}) == [
        "1 image is new: b/3",
        "2 images are in another split: a/2, b/2 (when the images change, distcls cuts its splits anew)",
    ]
    assert changed_images(old, {"train": ["a/1", "a/2"], "val": ["b/1", "b/2"]}) == ["1 image is in another split: b/1"]
    many = {"train": [f"c/{i}" for i in range(1200)], "val": ["b/2"]}
    lines = changed_images(old, many)
    assert lines == ["3 images are gone: a/1, a/2, b/1", "1,200 images are new: c/0, c/1, c/10 …"]


def test_without_names_numbers_are_compared():
    assert changed_images({"train": [0, 1, 2], "val": [3]}, {"train": [0, 1], "val": [2]}) == [
        "it had train 3 val 1 images, now it has train 2 val 1"
    ]


def test_the_same_names_mean_other_files():
    lists = {"train": ["a/1"], "val": ["a/2"]}
    assert changed_images(lists, lists) == [CONTENT_CHANGED]


def test_classes_that_a_split_lacks_are_told() -> None:
    image_set = ArraySet("made", ["ant", "bee", "cat"], np.repeat([0, 1, 2], 40), np.zeros((120, 2, 2, 3), np.uint8))

    def split(name: str, rows: np.ndarray) -> Split:
        return Split(name, image_set, rows, image_set.labels[rows], None, Decoding(2))

    told = too_little(
        [split("train", np.arange(120)), split("val", np.arange(40)), split("test", np.arange(0, 120, 3))]
    )
    assert told == ["val has no images of 2 classes (bee, cat): it says nothing about them"]
