"""The list of an audit can be given to data.exclude, and nobody's edited list is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distcls.data.exclusion import read_names
from distcls.sweeps.audit.findings import Finding, Findings, write_findings
from distcls.sweeps.audit.gallery import Gallery
from distcls.sweeps.audit.label_errors import LabelErrors
from distcls.sweeps.audit.near_duplicates import Pair


def findings(images: str, listed: list[int], pairs: list[tuple[int, int]], names: list[str] | None = None) -> Findings:
    """Findings about images such as "cat/train dog/val", of which those that are not in train were predicted."""
    labels, places = zip(*(image.split("/") for image in images.split()), strict=True)
    classes = ["cat", "dog"]
    names = names or [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    ids = np.array([classes.index(label) for label in labels])
    predicted = np.array([i for i, place in enumerate(places) if place != "train"], np.int64)
    gallery = Gallery([], classes, names, ids, [place.replace("fold", "fold ") for place in places], predicted, 32)
    rows = [predicted.tolist().index(image) for image in listed]
    scores = np.isin(np.arange(len(predicted)), rows).astype(float)
    errors = LabelErrors(np.eye(2), scores, 1 - ids[predicted], np.array(rows, np.int64))
    return Findings(gallery, errors, [Pair(first, second, 0.9, False) for first, second in pairs])


def left_out(found: Findings) -> list[str]:
    return [one.image for one in found.to_exclude()]


def test_the_twin_of_a_label_error_stays() -> None:
    """It has the right label, and the two are no near-duplicates of each other once the wrong one is left out."""
    assert left_out(findings("cat/train dog/val", [1], [(0, 1)])) == ["dog/1.jpg"]


def test_of_two_labels_that_nobody_can_judge_neither_stays() -> None:
    assert left_out(findings("cat/train dog/train", [], [(0, 1)])) == ["dog/1.jpg", "cat/0.jpg"]


def test_of_many_copies_one_stays() -> None:
    assert left_out(findings("cat/train cat/val cat/test", [], [(0, 1), (0, 2), (1, 2)])) == ["cat/0.jpg", "cat/1.jpg"]


def test_the_image_that_was_trained_on_is_left_out() -> None:
    for images in ("cat/train cat/fold0", "cat/train cat/val", "cat/fold1 cat/test"):
        assert left_out(findings(images, [], [(0, 1)])) == ["cat/0.jpg"]


def test_two_images_of_one_fold_may_be_separated_by_the_next_splits() -> None:
    assert left_out(findings("cat/fold0 cat/fold0", [], [(0, 1)])) == ["cat/1.jpg"]
    assert left_out(findings("cat/train cat/train", [], [(0, 1)])) == []


def test_an_image_that_is_listed_twice_is_no_copy_of_itself() -> None:
    assert left_out(findings("cat/fold0 cat/fold1", [], [(0, 1)], ["a.jpg", "a.jpg"])) == []
    twice = findings("cat/fold0 cat/fold1 cat/fold2", [], [(0, 1), (0, 2), (1, 2)], ["a.jpg", "a.jpg", "b.jpg"])
    assert left_out(twice) == ["b.jpg"] and twice.gallery.num_images == 2
    twice = findings("cat/fold0 cat/fold1 cat/fold2", [], [(0, 1), (0, 2), (1, 2)], ["b.jpg", "a.jpg", "a.jpg"])
    assert left_out(twice) == ["a.jpg"], "which leaves out both of its lines: one of the two images stays"


def test_an_image_that_is_listed_with_two_labels_is_named_once() -> None:
    for places in ("cat/train dog/train", "cat/fold0 dog/fold1"):
        found = findings(places, [], [(0, 1)], ["a.jpg", "a.jpg"])
        assert left_out(found) == ["a.jpg"] and found.gallery.num_images == 2, "each label can be judged"


def test_a_list_that_somebody_may_have_edited_is_never_overwritten(tmp_path: Path) -> None:
    one, other = (Finding(name, "cat", "dog", 0.9, "label error") for name in ("a.jpg", "b.jpg"))
    path = tmp_path / "audit.csv"
    assert write_findings([one, other], path) == path == write_findings([one, other], path)
    assert read_names(str(path)) == ["a.jpg", "b.jpg"]
    edited = path.read_text().replace("a.jpg,cat,dog,0.9,label error\n", "")
    path.write_text(edited)
    assert write_findings([one, other], path) == tmp_path / "audit-2.csv"
    assert path.read_text() == edited and read_names(str(path)) == ["b.jpg"]
