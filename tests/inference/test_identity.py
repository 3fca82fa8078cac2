"""A run is resumed, and its weights are measured, only with images that it knows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from distcls.config.loading import load_config
from distcls.config.settings import DataConfig
from distcls.config.yaml_text import to_yaml
from distcls.data.build import OneProcess, build_data
from distcls.data.split import Data
from distcls.errors import DiskError, MissingInputError, UsageError
from distcls.inference.identity import aligned, choose_split, is_same_place, refuse_other_data

BEFORE = (7 * 10**9, 7 * 10**9)
"""One time of change for all files, as they come out of an archive."""


def refuse(data: Data, run_dir: Path, given_dir: str | None = None) -> None:
    refuse_other_data(data, data.split_lists(), run_dir, given_dir)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 training and 4 test images of one size in bytes each, in two classes."""
    for split, count in (("train", 24), ("test", 4)):
        for i in range(count):
            file = tmp_path / "images" / split / f"class{i % 2}" / f"{i:02}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, i, 100 if split == "test" else 0)).save(file)
            os.utime(file, ns=BEFORE)
    return tmp_path / "images"


@pytest.fixture
def opened(images: Path, tmp_path: Path) -> Callable[..., Data]:
    """The data as it is now."""

    def build(root: Path = images, cache: str = "1 GB") -> Data:
        config = DataConfig(name="folder", root=str(root), cache_dir=str(tmp_path / "cache"), cache=cache)
        return build_data(config, OneProcess())

    return build


@pytest.fixture
def run_dir(tmp_path: Path, opened: Callable[..., Data]) -> Path:
    """A run that has a checkpoint."""
    path, data = tmp_path / "run", opened()
    (path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (path / "data_report.json").write_text(json.dumps({"fingerprint": data.fingerprint, **data.report}))
    (path / "splits.json").write_text(json.dumps(data.split_lists()))
    return path


def swap(first: Path, second: Path) -> None:
    """Two files change places: names, sizes and times of change stay."""
    away = first.with_suffix(".away")
    first.rename(away)
    second.rename(first)
    away.rename(second)


def test_the_same_images_are_accepted_wherever_they_lie(
    images: Path, opened: Callable[..., Data], run_dir: Path, tmp_path: Path
) -> None:
    refuse(opened(), run_dir)
    refuse(opened(cache="0"), run_dir)
    copy = Path(shutil.copytree(images, tmp_path / "copy", copy_function=shutil.copyfile))  # with other times
    refuse(opened(copy), run_dir)
    assert len(choose_split(opened(copy), "test", run_dir)) == 4


@pytest.mark.parametrize("cache", ["1 GB", "0"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("train/class0/02.bmp", "train/class1/03.bmp"), ("train/class0/02.bmp", "train/class0/04.bmp")],
    ids=["between classes", "within a class"],
)
def test_images_that_changed_places_are_refused(
    images: Path, opened: Callable[..., Data], run_dir: Path, first: str, second: str, cache: str
) -> None:
    swap(images / first, images / second)
    with pytest.raises(UsageError, match="no image was added or removed, but the contents of some files"):
        refuse(opened(cache=cache), run_dir)


def test_an_image_of_the_same_size_and_time_in_the_place_of_another_is_refused(
    images: Path, opened: Callable[..., Data], run_dir: Path
) -> None:
    file = images / "train" / "class0" / "02.bmp"
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=BEFORE)
    with pytest.raises(UsageError, match="have changed"):
        refuse(opened(), run_dir)


def test_a_run_that_knows_only_names_and_sizes_is_still_resumed(opened: Callable[..., Data], run_dir: Path) -> None:
    """Runs of version 0.1.0 hashed no files."""
    data = opened()
    assert data.listing_fingerprint != data.fingerprint
    (run_dir / "data_report.json").write_text(json.dumps({"fingerprint": data.listing_fingerprint}))
    refuse(data, run_dir)
    assert len(choose_split(data, "test", run_dir)) == 4
    (run_dir / "data_report.json").write_text(json.dumps({"fingerprint": "another"}))
    with pytest.raises(UsageError, match="the data is not what"):
        refuse(data, run_dir)


def test_a_split_is_measured_as_long_as_it_is_the_same_itself(
    images: Path, opened: Callable[..., Data], run_dir: Path
) -> None:
    swap(images / "train" / "class0" / "02.bmp", images / "train" / "class1" / "03.bmp")
    assert len(choose_split(opened(), "test", run_dir)) == 4
    swap(images / "train" / "class0" / "02.bmp", images / "test" / "class0" / "02.bmp")
    with pytest.raises(UsageError, match="So the run may have been trained on images of test"):
        choose_split(opened(), "test", run_dir)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "half": lambda path: path.write_text(path.read_text()[:30]),
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "nothing in it": lambda path: path.write_text("{}"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "nested": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_its_report_a_run_knows_its_images_by_name(
    images: Path, opened: Callable[..., Data], run_dir: Path, damage: str
) -> None:
    DAMAGE[damage](run_dir / "data_report.json")
    refuse(opened(), run_dir)
    assert len(choose_split(opened(), "test", run_dir)) == 4
    (images / "train" / "class0" / "00.bmp").unlink()
    with pytest.raises(UsageError, match=r"1 image is gone: train/class0/00\.bmp"):
        refuse(opened(), run_dir)


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_its_lists_a_run_knows_its_images_by_content(
    images: Path, opened: Callable[..., Data], run_dir: Path, damage: str
) -> None:
    DAMAGE[damage](run_dir / "splits.json")
    refuse(opened(), run_dir)
    assert len(choose_split(opened(), "test", run_dir)) == 4
    (images / "train" / "class0" / "00.bmp").unlink()
    with pytest.raises(UsageError, match=r"its splits\.json is damaged or missing"):
        refuse(opened(), run_dir)


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_both_a_run_is_not_resumed(opened: Callable[..., Data], run_dir: Path, damage: str) -> None:
    for name in ("data_report.json", "splits.json"):
        DAMAGE[damage](run_dir / name)
    with pytest.raises(DiskError, match=r"data_report\.json and splits\.json are damaged or missing.*--name NAME"):
        refuse(opened(), run_dir)
    with pytest.raises(DiskError, match="or give another run.dir=DIR"):
        refuse(opened(), run_dir, given_dir=str(run_dir))
    with pytest.raises(UsageError, match="may have been trained on"):
        choose_split(opened(), "test", run_dir)


def test_class_ids_are_those_of_the_run(opened: Callable[..., Data]) -> None:
    test, classes = opened().test, ["class1", "other", "class0"]
    assert test is not None
    names = [test.image_set.class_names[label] for label in test.labels]
    assert [classes[label] for label in aligned(test, ["class0", "class1"], classes).labels] == names
    with pytest.raises(UsageError, match="was not trained on 'class0'.*classes are class1"):
        aligned(test, ["class0", "class1"], ["class1"])


def test_a_split_is_chosen_by_its_name(opened: Callable[..., Data], run_dir: Path) -> None:
    data = opened()
    assert choose_split(data, "test", run_dir) is data.test
    with pytest.raises(MissingInputError, match="has no other split, only train, val, test"):
        choose_split(data, "other", run_dir)
    with pytest.raises(UsageError, match="their own splits, train, val, test"):
        choose_split(data, "all", run_dir)


def test_a_place_is_the_same_by_whatever_path(images: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(images)
    config = load_config(None, [f"data.root={images}", "data.name=folder"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert is_same_place(DataConfig(name="folder", root=str(tmp_path / "link")), tmp_path)
    assert not is_same_place(DataConfig(name="folder", root=str(tmp_path)), tmp_path)
    assert not is_same_place(DataConfig(name="csv", root=str(images)), tmp_path)
