"""Images that a run was not measured on are not passed off as its val or test split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distcls.config.loading import load_config
from distcls.config.settings import DataConfig
from distcls.config.yaml_text import to_yaml
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Data, Split
from distcls.errors import MissingInputError, UsageError
from distcls.inference.identity import aligned, choose_split, is_same_place, refuse_other_data

CLASSES = ["cat", "dog", "emu"]


def make_split(name: str, rows: list[int], class_names: list[str] = CLASSES) -> Split:
    labels = np.arange(12) % len(class_names)
    images = ArraySet("made", class_names, labels, np.zeros((12, 8, 8, 3), np.uint8))
    return Split(name, images, np.array(rows), labels[rows], images.images, Decoding(8))


def make_data(train: list[int], test: list[int], fingerprint: str = "f") -> Data:
    splits = make_split("train", train), None, make_split("test", test)
    return Data(*splits, CLASSES, Decoding(8), fingerprint, {})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with a checkpoint that was trained on images 0 to 8 and tested on the rest."""
    data = make_data([*range(9)], [9, 10, 11])
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "data_report.json").write_text(json.dumps({"fingerprint": "f"}))
    (tmp_path / "splits.json").write_text(json.dumps(data.split_lists()))
    return tmp_path


def test_class_ids_are_those_of_the_run():
    split = make_split("test", [0, 1, 2, 3], ["emu", "cat"])
    assert [CLASSES[label] for label in aligned(split, ["emu", "cat"], CLASSES).labels] == ["emu", "cat", "emu", "cat"]
    with pytest.raises(UsageError, match="was not trained on 'fox'.*Its classes are cat, dog, emu"):
        aligned(split, ["fox", "cat"], CLASSES)


def test_the_split_of_the_run_is_chosen_by_name(run_dir):
    data = make_data([*range(9)], [9, 10, 11])
    assert choose_split(data, "test", run_dir) is data.test
    with pytest.raises(MissingInputError, match="has no val split, only train, test"):
        choose_split(data, "val", run_dir)


def test_a_split_that_holds_other_images_now_is_refused_with_what_changed(run_dir):
    moved = make_data([*range(8), 9], [8, 10, 11], fingerprint="other")
    with pytest.raises(UsageError, match=r"made/8, made/9\nSo images of test may have been trained on") as caught:
        choose_split(moved, "test", run_dir)
    assert "--data DIR --split all" in str(caught.value)


def test_a_split_that_is_the_same_may_be_measured_where_another_one_changed(run_dir):
    """The images of train may be gone: test is what it was."""
    data = make_data([*range(4)], [9, 10, 11], fingerprint="other")
    assert choose_split(data, "test", run_dir) is data.test


def test_all_is_one_split_of_images_that_have_none(run_dir):
    with pytest.raises(UsageError, match="splits of their own, train, test"):
        choose_split(make_data([0], [1]), "all", run_dir)
    data = Data(make_split("train", [*range(12)]), None, None, CLASSES, Decoding(8), "g", {})
    assert choose_split(data, "all", run_dir) is data.train


def test_training_goes_on_with_its_own_images_only(run_dir):
    refuse_other_data(make_data([*range(9)], [9, 10, 11]), run_dir)
    other = make_data([*range(8)], [9, 10, 11], fingerprint="other")
    with pytest.raises(UsageError, match="the data is not what .* began with:\n  .*made/8"):
        refuse_other_data(other, run_dir)
    (run_dir / "checkpoints" / "step-00000001").rmdir()
    refuse_other_data(other, run_dir)  # nothing was trained yet


def test_a_place_is_the_same_by_whatever_path(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    config = load_config(None, [f"data.root={tmp_path}/images", "data.name=folder"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert is_same_place(DataConfig(name="folder", root=str(tmp_path / "link")), tmp_path)
    assert not is_same_place(DataConfig(name="folder", root=str(tmp_path)), tmp_path)
    assert not is_same_place(DataConfig(name="csv", root=str(tmp_path / "images")), tmp_path)
