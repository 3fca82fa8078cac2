from __future__ import annotations

import errno
import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distcls.config.settings import DataConfig
from distcls.data.build import BuildingProcesses, OneProcess, build_data
from distcls.data.inspection.check import check_data
from distcls.data.sources.datasets import DATASETS
from distcls.data.sources.listing import list_images
from distcls.data.sources.synthetic import SyntheticSet
from distcls.data.split import Data
from distcls.errors import BadDataError, UsageError


@pytest.fixture
def build(tmp_path: Path, one_process: BuildingProcesses) -> Callable[..., Data]:
    def build_with(**settings: Any) -> Data:
        return build_data(DataConfig(**{"cache_dir": str(tmp_path / "cache"), **settings}), one_process)

    return build_with


def test_digits_are_cut_in_three(build: Callable[..., Data]) -> None:
    data = build(name="digits")
    assert [len(split) for split in data.splits()] == [1294, 144, 359]
    assert data.image_size == 8 and data.class_names == list("0123456789")
    names = data.split_lists()
    assert len(set(names["train"]) | set(names["val"]) | set(names["test"])) == 1797
    assert data.train.image(0).shape == (8, 8, 3) and data.train.labels.dtype == np.int64


def test_labels_and_images_belong_together(build: Callable[..., Data], two_classes: Path) -> None:
    data = build(name="folder", root=str(two_classes))
    for split in data.splits():
        for i in range(len(split)):
            folder, file = split.image_name(i).split("/")
            assert data.class_names[split.labels[i]] == folder
            assert split.image(i)[0, 0, 0] == int(file[:3]) * 10


def test_reading_files_gives_the_same_images_as_the_cache(build: Callable[..., Data], two_classes: Path) -> None:
    cached = build(name="folder", root=str(two_classes), image_size=5)
    read = build(name="folder", root=str(two_classes), image_size=5, cache="0")
    assert read.train.pixels is None and read.fingerprint == cached.fingerprint
    assert all(np.array_equal(cached.train.image(i), read.train.image(i)) for i in range(len(read.train)))


def test_the_splits_a_folder_has_are_kept(
    build: Callable[..., Data], tmp_path: Path, make_images: Callable[..., None]
) -> None:
    for folder, count in (("train/a", 50), ("train/b", 50), ("test/a", 3), ("test/b", 4)):
        make_images(tmp_path / "set" / folder, count)
    data = build(name="folder", root=str(tmp_path / "set"))
    assert {split.name: len(split) for split in data.splits()} == {"train": 90, "val": 10, "test": 7}
    assert data.test is not None and data.test.image_name(0) == "test/a/000.png"


def test_bad_images_are_left_out_and_reported(build: Callable[..., Data], two_classes: Path) -> None:
    whole = build(name="folder", root=str(two_classes))
    victim = whole.train.image_name(3)
    (two_classes / victim).write_bytes(b"")
    data = build(name="folder", root=str(two_classes), max_bad_fraction=0.1)
    assert len(data.train) == len(whole.train) - 1 and victim not in data.split_lists()["train"]
    assert data.split_lists()["val"] == whole.split_lists()["val"]
    assert data.report["bad_files"] == [{"path": victim, "reason": "an empty file"}]
    assert data.fingerprint != whole.fingerprint


@pytest.mark.parametrize("cache", ["1 GB", "0"])
def test_animations_are_counted(build: Callable[..., Data], two_classes: Path, cache: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level,) * 3) for level in (50, 100)]
    frames[0].save(two_classes / "cat" / "000.gif", save_all=True, append_images=frames[1:])
    frames[0].save(two_classes / "dog" / "000.webp")
    for _ in range(2):  # the second time from the record
        assert build(name="folder", root=str(two_classes), cache=cache).report["num_animations"] == 1


@pytest.mark.parametrize("cache", ["1 GB", "0"])
def test_float_images_are_bad_until_their_range_is_known(
    build: Callable[..., Data], two_classes: Path, cache: str
) -> None:
    for path in two_classes.rglob("*.png"):
        level = np.asarray(Image.open(path).convert("L"), np.float32) / 255
        Image.fromarray(level).save(path.with_suffix(".tif"))
        path.unlink()
    settings = {"name": "folder", "root": str(two_classes), "cache": cache}
    with pytest.raises(BadDataError, match=r"give the values of black and white, such as data.float_range=\[0, 1\]"):
        build(**settings)
    data = build(**settings, float_range=[0.0, 1.0])
    assert data.image_size == 8 and data.train.image(1)[0, 0, 0] == int(Path(data.train.image_name(1)).stem) * 10
    with pytest.raises(BadDataError, match="data.float_range"):
        build(**settings)


def test_a_run_that_reads_files_need_not_decode_what_was_just_checked(
    tmp_path: Path, two_classes: Path, one_process: BuildingProcesses
) -> None:
    frames = [Image.new("RGB", (8, 8), (level,) * 3) for level in (50, 100)]
    frames[0].save(two_classes / "cat" / "000.gif", save_all=True, append_images=frames[1:])
    (two_classes / "dog" / "001.png").write_bytes(b"")
    settings: dict[str, Any] = {"name": "folder", "root": str(two_classes), "cache": "0", "max_bad_fraction": 0.1}
    config = DataConfig(**settings, cache_dir=str(tmp_path / "cache"))
    alone = build_data(DataConfig(**settings, cache_dir=str(tmp_path / "other")), one_process)
    checked, decoded = [], []
    check_data(config, lambda done, total: checked.append(done))
    after = build_data(config, one_process, lambda done, total: decoded.append(done))
    assert checked and not decoded
    assert after.report == alone.report and after.fingerprint == alone.fingerprint


def test_the_background_is_that_of_the_config(build: Callable[..., Data], two_classes: Path) -> None:
    for path in two_classes.rglob("*.png"):
        Image.new("LA", (8, 8), (255, 0)).save(path)
    settings = {"name": "folder", "root": str(two_classes)}
    assert build(**settings).train.image(0)[0, 0].tolist() == [255, 255, 255]
    assert build(**settings, background="#010203").train.image(0)[0, 0].tolist() == [1, 2, 3]


def test_too_many_bad_images_name_the_first_and_the_way_out(build: Callable[..., Data], two_classes: Path) -> None:
    for i in range(12):
        (two_classes / "dog" / f"{i:03}.png").write_text("text")
    with pytest.raises(BadDataError) as error:
        build(name="folder", root=str(two_classes), max_bad_fraction=0.1)
    message = str(error.value)
    assert "12 of 30" in message and "dog/000.png: not an image" in message and "and 2 more" in message
    assert "data.max_bad_fraction=0.401" in message
    assert len(build(name="folder", root=str(two_classes), max_bad_fraction=0.401).report["bad_files"]) == 12


def test_a_class_of_bad_images_only_is_an_error(build: Callable[..., Data], two_classes: Path) -> None:
    for file in (two_classes / "cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(BadDataError, match="1 class: cat"):
        build(name="folder", root=str(two_classes), max_bad_fraction=1.0)


@pytest.mark.parametrize(
    ("cat", "dog", "expected"),
    [((30, 30), (30, 30), 30), ((30, 30), (31, 31), 224), ((30, 20), (30, 20), 224), ((300, 300), (300, 300), 224)],
)
def test_the_default_size(
    build: Callable[..., Data],
    tmp_path: Path,
    make_images: Callable[..., None],
    cat: tuple[int, int],
    dog: tuple[int, int],
    expected: int,
) -> None:
    make_images(tmp_path / "set" / "cat", 2, cat)
    make_images(tmp_path / "set" / "dog", 2, dog)
    assert build(name="folder", root=str(tmp_path / "set")).image_size == expected


def test_a_thumbnail_that_comes_first_does_not_set_the_default_size(
    build: Callable[..., Data], tmp_path: Path, make_images: Callable[..., None]
) -> None:
    for name in ("cat", "dog"):
        make_images(tmp_path / "set" / name, 20, (80, 60))
        make_images(tmp_path / "set" / name, 1, (48, 48))
    assert build(name="folder", root=str(tmp_path / "set")).image_size == 224


def test_a_broken_first_image_does_not_change_the_default_size(build: Callable[..., Data], two_classes: Path) -> None:
    (two_classes / "cat" / "000.png").write_bytes(b"")
    assert build(name="folder", root=str(two_classes), max_bad_fraction=0.1).image_size == 8


def test_the_report_is_json_and_counts(build: Callable[..., Data], two_classes: Path) -> None:
    (two_classes / "cat" / "readme.md").touch()
    report = json.loads(json.dumps(build(name="folder", root=str(two_classes)).report))
    assert report["num_images"] == 30 and report["num_ignored_files"] == 1
    assert report["splits"]["test"] == {"num_images": 6, "per_class": {"cat": 2, "dog": 4}}
    assert report["bytes_decoded"] == 30 * 8 * 8 * 3


def test_the_fingerprint_tells_the_splits_apart(build: Callable[..., Data]) -> None:
    same, again, other = build(name="digits"), build(name="digits"), build(name="digits", split_seed=1)
    assert same.fingerprint == again.fingerprint != other.fingerprint


def test_a_class_too_small_for_folds_is_named_before_anything_is_decoded(
    build: Callable[..., Data], two_classes: Path, make_images: Callable[..., None]
) -> None:
    make_images(two_classes / "eel", 1)
    settings = {"name": "folder", "root": str(two_classes), "folds": 5, "fold": 0}
    for refuse in (build, lambda **settings: check_data(DataConfig(**settings))):
        with pytest.raises(UsageError, match="the class eel has only 1 image"):
            refuse(**settings, max_bad_fraction=0.0)


def test_the_fingerprint_tells_the_folds_apart(build: Callable[..., Data]) -> None:
    folds = [build(name="digits", folds=3, fold=fold) for fold in range(3)]
    assert len({data.fingerprint for data in folds}) == 3
    assert len({tuple(data.split_lists()["test"]) for data in folds}) == 1


def test_no_fractions_no_splits(build: Callable[..., Data]) -> None:
    data = build(name="digits", val_fraction=0, test_fraction=0)
    assert data.val is None and data.test is None and len(data.train) == 1797


def test_a_split_is_cheap_to_send_to_a_process(build: Callable[..., Data], two_classes: Path) -> None:
    data = build(name="folder", root=str(two_classes), image_size=64)
    message = pickle.dumps(data.train)
    assert len(message) < 4000
    assert np.array_equal(pickle.loads(message).image(4), data.train.image(4))


def test_the_files_of_the_user_are_never_changed(build: Callable[..., Data], two_classes: Path) -> None:
    Image.new("RGB", (9, 9)).save(two_classes / "cat" / "big.jpg")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in two_classes.rglob("*.*")}
    build(name="folder", root=str(two_classes))
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in two_classes.rglob("*.*")}


class Machine(OneProcess):
    """Two processes of one machine, played by one: what each does, in order."""

    def __init__(self, is_local_main: bool) -> None:
        self.is_local_main = is_local_main
        self.num_barriers = 0

    def wait_for_everyone(self) -> None:
        self.num_barriers += 1


def test_all_processes_meet_at_the_same_barriers(tmp_path: Path, two_classes: Path) -> None:
    config = DataConfig(name="folder", root=str(two_classes), cache_dir=str(tmp_path / "cache"))
    main, other = Machine(True), Machine(False)
    fingerprints = [build_data(config, process).fingerprint for process in (main, other)]
    assert fingerprints[0] == fingerprints[1] and main.num_barriers == other.num_barriers > 0


class Neighbor:
    """One of the processes of a machine, each played by a thread."""

    def __init__(self, rank: int, barrier: threading.Barrier, values: dict[int, Any]) -> None:
        self.rank, self.barrier, self.values = rank, barrier, values
        self.is_local_main = rank == 0

    def wait_for_everyone(self) -> None:
        self.barrier.wait(60)

    def from_all(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(60)
        found = [self.values[rank] for rank in range(self.barrier.parties)]
        self.barrier.wait(60)
        return found


def on_a_machine(count: int, config: DataConfig) -> list[Data]:
    """The data that each of these processes gets."""
    barrier, values = threading.Barrier(count), {}
    with ThreadPoolExecutor(count) as pool:
        processes = [Neighbor(rank, barrier, values) for rank in range(count)]
        return list(pool.map(lambda process: build_data(config, process), processes))


def test_one_process_of_a_machine_lists_the_files_for_all(
    tmp_path: Path, two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    monkeypatch.setattr(
        "distcls.data.sources.folder.list_images", lambda path: listed.append(path) or list_images(path)
    )
    config = DataConfig(name="folder", root=str(two_classes), cache_dir=str(tmp_path / "cache"))
    data = on_a_machine(3, config)
    assert listed == [str(two_classes / "cat"), str(two_classes / "dog")]
    assert len({one.fingerprint for one in data}) == 1
    assert [one.train.image_name(0) for one in data] == [data[0].train.image_name(0)] * 3
    assert not list(tmp_path.glob("cache/decoded/distcls-list-*"))


def test_a_list_that_cannot_be_handed_over_is_made_by_each_process(
    tmp_path: Path, two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(name="folder", root=str(two_classes), cache_dir=str(tmp_path / "cache"), cache="0")
    first = on_a_machine(1, config)[0]
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full_disk)
    assert [one.fingerprint for one in on_a_machine(2, config)] == [first.fingerprint] * 2


def full_disk(**_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class Hashed(SyntheticSet):
    """Images whose fingerprint takes a while."""

    asked = 0

    def fingerprint(self) -> str:
        type(self).asked += 1
        return super().fingerprint()


def test_an_image_set_is_asked_for_its_fingerprint_twice_not_for_each_split(
    build: Callable[..., Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hashed, "asked", 0)
    monkeypatch.setitem(DATASETS, "digits", lambda _: {"train": Hashed(40, 2, 8)})
    build(name="digits")
    assert Hashed.asked == 2
