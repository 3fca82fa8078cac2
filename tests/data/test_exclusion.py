"""Images that data.exclude names are left out, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.build import OneProcess, build_data
from distcls.data.exclusion import read_names
from distcls.data.inspection.check import check_data
from distcls.data.split import Data
from distcls.errors import BadDataError, MissingInputError


@pytest.fixture
def build(tmp_path: Path, two_classes: Path) -> Callable[..., Data]:
    """Builds the data of two folders, leaving out what a text file with these names says."""

    def build_without(names: list[str], **settings: Any) -> Data:
        file = tmp_path / "names.txt"
        file.write_text("\n".join(names) + "\n")
        source = {"name": "folder", "root": str(two_classes), "cache_dir": str(tmp_path / "cache")}
        return build_data(DataConfig(**{**source, "exclude": str(file), **settings}), OneProcess())

    return build_without


def test_only_the_named_images_are_left_out_and_no_other_moves(build: Callable[..., Data]) -> None:
    whole = build([], exclude=None).split_lists()
    victims = [whole["train"][2], whole["val"][0], whole["test"][1]]
    data = build(victims)
    assert data.split_lists() == {
        split: [name for name in names if name not in victims] for split, names in whole.items()
    }
    assert data.report["num_excluded"] == 3 and not any("exclude" in one for one in data.report["warnings"])
    for split in data.splits():
        for i in range(len(split)):
            folder, file = split.image_name(i).split("/")
            assert data.class_names[split.labels[i]] == folder and split.image(i)[0, 0, 0] == int(file[:3]) * 10


def test_the_fingerprint_is_of_what_is_left_out_not_of_the_file(build: Callable[..., Data]) -> None:
    whole, one = build([], exclude=None), build(["cat/001.png"])
    assert build([]).fingerprint == whole.fingerprint
    assert one.fingerprint != whole.fingerprint
    assert build(["dog/001.png"]).fingerprint not in (one.fingerprint, whole.fingerprint)
    assert build(["", "cat/001.png", "cat/001.png"]).fingerprint == one.fingerprint
    assert whole.has_fingerprint(build([]).listing_fingerprint)
    assert not whole.has_fingerprint(one.listing_fingerprint)


def test_images_without_files_are_excluded_by_their_names(build: Callable[..., Data]) -> None:
    whole = build([], name="digits", root=None)
    names = [whole.train.image_name(7), whole.train.image_name(8)]
    data = build(names, name="digits", root=None)
    assert names[0].startswith("digits/") and len(data.train) == len(whole.train) - 2
    assert np.array_equal(data.train.labels, np.delete(whole.train.labels, [7, 8]))


def test_names_that_no_image_has_are_a_warning_or_an_error_if_they_are_all(build: Callable[..., Data]) -> None:
    data = build(["cat/001.png", "cat/x.png", "cow/1.png"])
    assert data.report["num_excluded"] == 1
    assert "data.exclude has 2 names that no image has: cat/x.png, cow/1.png" in data.report["warnings"]
    with pytest.raises(BadDataError, match=r"no image has: /a/cat/001.png. Names are .* such as cat/000.png"):
        build(["/a/cat/001.png"])


def test_a_class_that_is_left_out_whole_is_an_error(build: Callable[..., Data]) -> None:
    with pytest.raises(BadDataError, match=r"in 1 class: cat\. .*or exclude fewer images"):
        build([f"cat/{i:03}.png" for i in range(10)], test_fraction=0, val_fraction=0)


def test_a_check_leaves_out_the_same_images(build: Callable[..., Data], tmp_path: Path, two_classes: Path) -> None:
    data = build(["cat/001.png", "cat/x.png"])
    config = DataConfig(name="folder", root=str(two_classes), exclude=str(tmp_path / "names.txt"))
    check = check_data(config)
    assert [len(split) for split in check.splits] == [len(split) for split in data.splits()]
    assert check.as_json()["num_excluded"] == 1
    assert any("1 name that no image has: cat/x.png" in warning for warning in check.warnings())


def test_a_csv_file_has_the_names_in_its_column_image(tmp_path: Path) -> None:
    file = tmp_path / "audit.csv"
    file.write_text('rank,image,label\n1,"cat/a, b.png",cat\n2,dog/1.png,dog\n')
    assert read_names(str(file)) == ["cat/a, b.png", "dog/1.png"]
    file.write_text("path,label\ncat/1.png,cat\n")
    with pytest.raises(BadDataError, match="has no column 'image', only 'path', 'label'"):
        read_names(str(file))
    file.write_text("")
    with pytest.raises(BadDataError, match="only nothing"):
        read_names(str(file))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"data\.exclude=.*none\.csv cannot be read \(No such file"):
        read_names(str(tmp_path / "none.csv"))
    with pytest.raises(MissingInputError, match="Is a directory"):
        read_names(str(tmp_path))
    odd = tmp_path / "odd.txt"
    odd.write_bytes(b"cat/\xff.png\r\n")
    assert read_names(str(odd)) == ["cat/\udcff.png"]
