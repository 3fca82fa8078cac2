"""A file is proven on the images that the run held out, wherever those are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distcls.config.loading import read_config
from distcls.data.decoding.decode import Decoding
from distcls.errors import MissingInputError
from distcls.export.own_images import find_images, stand_ins


def test_they_are_the_runs_val_images(run):
    config, class_names = read_config(run / "config.yaml"), json.loads((run / "classes.json").read_text())
    listed = json.loads((run / "splits.json").read_text())["val"]
    found = find_images(run, config, class_names, Decoding(8), most=10_000)
    assert found.title == f"{len(listed)} val images"
    assert found.image_set is not None and found.rows is not None and found.labels is not None
    assert [found.image_set.name(int(row)) for row in found.rows] == listed
    with np.load(run / "predictions" / "val.npz") as kept:
        assert found.labels.tolist() == kept["labels"].tolist()
    some = found.spread(5)
    assert some.pixels.shape == (5, 8, 8, 3) and some.rows is not None
    assert [some.rows[0], some.rows[-1]] == [found.rows[0], found.rows[-1]]
    others = found.without(5)
    assert others.rows is not None and others.labels is not None
    assert sorted([*some.rows, *others.rows]) == sorted(found.rows) and len(others.labels) == len(found.labels) - 5
    assert all(np.array_equal(a, b) for a, b in zip(some.originals(Decoding(8)), some.pixels, strict=True))


def test_others_are_refused(run):
    config = read_config(run / "config.yaml")
    with pytest.raises(MissingInputError, match="other classes"):
        find_images(run, config, ["a", "b"], Decoding(8), most=10)


def test_pictures_stand_in(run, tmp_path):
    assert stand_ins(run, Decoding(6)).pixels.shape[1:] == (6, 6, 3)
    assert stand_ins(tmp_path, Decoding(6)).title == "20 random images"
