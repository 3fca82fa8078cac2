from __future__ import annotations

import errno
import importlib.util
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import BadImageError, Decoding
from distcls.data.inspection.check import check_data
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.folder import FolderSet, open_folder
from distcls.errors import BadDataError, MissingInputError, UsageError


def opened(root: Path, split: str = "train") -> FolderSet:
    image_set = open_folder(DataConfig(name="folder", root=str(root)))[split]
    assert isinstance(image_set, FolderSet)
    return image_set


def test_class_folders_in_the_root(two_classes: Path) -> None:
    image_set = opened(two_classes)
    assert image_set.class_names == ["cat", "dog"]
    assert np.array_equal(image_set.labels, [0] * 10 + [1] * 20) and image_set.labels.dtype == np.int64
    assert [image_set.name(i) for i in (0, 9, 10, 29)] == ["cat/000.png", "cat/009.png", "dog/000.png", "dog/019.png"]
    assert image_set.image(3, Decoding(8))[0, 0, 0] == 30


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "Dev"])
def test_split_folders_are_aligned_by_name(tmp_path: Path, make_images: Callable[..., None], val: str) -> None:
    for folder in ("train/ant", "train/bee", f"{val}/bee", "test/ant", "test/bee"):
        make_images(tmp_path / folder, 2)
    image_sets = open_folder(DataConfig(name="folder", root=str(tmp_path)))
    assert set(image_sets) == {"train", "val", "test"}
    assert image_sets["val"].labels.tolist() == [1, 1]
    assert image_sets["val"].name(0) == f"{val}/bee/000.png"


def test_images_are_found_at_any_depth_and_by_any_common_name(
    two_classes: Path, make_images: Callable[..., None]
) -> None:
    make_images(two_classes / "cat" / "a" / "b", 1, suffix=".JPG")
    (two_classes / "cat" / "a" / "ä ö.webp").write_bytes(b"")
    (two_classes / "cat" / "photo.jfif").write_bytes(b"")
    names = [opened(two_classes).name(i) for i in range(13)]
    assert "cat/a/b/000.JPG" in names and "cat/photo.jfif" in names and "cat/a/ä ö.webp" in names
    assert names == sorted(names)


def test_hidden_files_do_not_exist_and_others_are_counted(two_classes: Path, make_images: Callable[..., None]) -> None:
    (two_classes / "cat" / "._000.png").write_bytes(b"")
    make_images(two_classes / ".thumbnails", 1)
    (two_classes / "dog" / "notes.txt").write_text("good dogs")
    image_set = opened(two_classes)
    assert len(image_set) == 30 and image_set.num_ignored == 1


def test_heic_files_are_images_and_never_left_out(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif.register_heif_opener()
    Image.new("RGB", (40, 30), "red").save(two_classes / "cat" / "IMG_1.HEIC", "HEIF")
    image_set = opened(two_classes)
    place = list(image_set.names()).index("cat/IMG_1.HEIC")
    assert len(image_set) == 31 and image_set.image(place, Decoding(8))[4, 4, 0] > 240
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match=r"has HEIC files.*'distcls\[heic\]'"):
        opened(two_classes)
    (two_classes / "cat" / "IMG_1.HEIC").unlink()
    Image.new("RGB", (40, 30), "red").save(two_classes / "cat" / "IMG_1.heic.jpg")  # as converters name what they make
    assert len(opened(two_classes)) == 31


def test_a_link_to_nowhere_is_a_bad_image_not_a_missing_one(two_classes: Path) -> None:
    (two_classes / "cat" / "zzz.png").symlink_to("/nowhere.png")
    with pytest.raises(BadImageError, match="No such file"):
        opened(two_classes).image(10, Decoding(8))


def test_the_fingerprint_is_of_the_content_not_of_the_place(two_classes: Path, tmp_path: Path) -> None:
    before = opened(two_classes).fingerprint()
    copy = Path(shutil.copytree(two_classes, tmp_path / "elsewhere"))
    assert opened(copy).fingerprint() == before
    os.rename(copy / "cat" / "000.png", copy / "cat" / "renamed.png")
    renamed = opened(copy).fingerprint()
    (copy / "cat" / "renamed.png").write_bytes(b"longer" * 100)
    assert len({before, renamed, opened(copy).fingerprint()}) == 3


def test_the_fingerprint_is_computed_once(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_set = opened(two_classes)
    first = image_set.fingerprint()
    monkeypatch.delattr("distcls.data.sources.folder.digest")
    assert image_set.fingerprint() == first


def test_moving_an_image_to_another_class_changes_the_fingerprint(two_classes: Path) -> None:
    before = opened(two_classes).fingerprint()
    os.rename(two_classes / "cat" / "009.png", two_classes / "dog" / "zzz.png")
    assert opened(two_classes).fingerprint() != before


def test_a_thousand_files_take_few_bytes(two_classes: Path) -> None:
    for i in range(1000):
        (two_classes / "cat" / f"ILSVRC_{i:08}.jpg").touch()
    assert len(pickle.dumps(opened(two_classes))) < 60_000


def test_no_root_asks_for_data() -> None:
    with pytest.raises(UsageError, match="--data DIR"):
        open_folder(DataConfig(name="folder"))


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        opened(tmp_path / "nowhere")


def test_an_unknown_class_is_named(tmp_path: Path, make_images: Callable[..., None]) -> None:
    for folder in ("train/ant", "train/bee", "test/wasp"):
        make_images(tmp_path / folder, 1)
    with pytest.raises(BadDataError, match=r"test/wasp is a class.*ant, bee"):
        opened(tmp_path)


def test_one_class_is_too_few(tmp_path: Path, make_images: Callable[..., None]) -> None:
    make_images(tmp_path / "cat", 3)
    assert opened(tmp_path).class_names == ["cat"]  # which is enough to measure a model
    with pytest.raises(BadDataError, match=r"has only one class, 'cat': training needs at least two. Expected ROOT"):
        open_image_sets(DataConfig(name="folder", root=str(tmp_path)))


def test_images_without_class_folders_are_explained(tmp_path: Path, make_images: Callable[..., None]) -> None:
    make_images(tmp_path, 3)
    with pytest.raises(BadDataError, match=r"ROOT/CLASS/image\.jpg"):
        opened(tmp_path)


def test_an_empty_class_folder_is_named(two_classes: Path) -> None:
    (two_classes / "eel").mkdir()
    (two_classes / "eel" / "1.cr2").touch()
    with pytest.raises(BadDataError, match=r"eel has no images.*1\.cr2"):
        opened(two_classes)
    for number in range(6):
        (two_classes / f"empty{number}").mkdir()
    with pytest.raises(BadDataError, match=r"the 7 class folders \S*eel, \S*empty0, .*empty3, … have no images"):
        opened(two_classes)


def test_files_beside_the_class_folders_are_counted_as_ignored(two_classes: Path) -> None:
    for name in ("lost.jpg", "README.txt", ".hidden"):
        (two_classes / name).touch()
    assert opened(two_classes).num_ignored == 2


def test_test_without_train_is_not_taken_for_a_class(two_classes: Path, make_images: Callable[..., None]) -> None:
    make_images(two_classes / "test" / "cat", 1)
    with pytest.raises(MissingInputError, match="no train/"):
        opened(two_classes)


def test_two_names_for_one_split_are_refused(tmp_path: Path, make_images: Callable[..., None]) -> None:
    for folder in ("train/ant", "train/bee", "val/ant", "valid/ant"):
        make_images(tmp_path / folder, 1)
    with pytest.raises(BadDataError, match="both for the val split"):
        opened(tmp_path)


def test_an_unreadable_folder_is_named(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(folder: str | bytes) -> Any:  # root, who may run the tests, can read everything
        if os.fsdecode(folder).endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MissingInputError, match="cannot list the folder .*dog: Permission denied"):
        opened(two_classes)


def test_splits_of_other_names_are_not_taken_for_classes(tmp_path: Path, make_images: Callable[..., None]) -> None:
    for folder in ("Training/ant", "Training/bee", "Testing/ant", "Testing/bee"):
        make_images(tmp_path / "known" / folder, 2)
        make_images(tmp_path / "unknown" / folder.replace("ing/", "ing_set/"), 2)
    image_sets = open_folder(DataConfig(name="folder", root=str(tmp_path / "known")))
    assert {split: image_set.class_names for split, image_set in image_sets.items()} == {
        "train": ["ant", "bee"],
        "test": ["ant", "bee"],
    }
    for folder in ("train/ant", "train/bee", "testing", "val/ant", "dev/ant"):  # better names, and one without classes
        make_images(tmp_path / "both" / folder, 2)
    image_sets = open_folder(DataConfig(name="folder", root=str(tmp_path / "both")))
    assert [(split, image_set.name(0)) for split, image_set in image_sets.items()] == [
        ("train", "train/ant/000.png"),
        ("val", "val/ant/000.png"),
    ]
    for name in ("pretrained", "scratch"):  # classes
        for folder in ("front", "side"):
            make_images(tmp_path / "models" / name / folder, 2)
    assert opened(tmp_path / "models").class_names == ["pretrained", "scratch"]
    with pytest.raises(UsageError, match=r"Testing_set, Training_set, each with the folders ant, bee: .* train, val"):
        opened(tmp_path / "unknown")


@pytest.mark.parametrize(
    ("folders", "advice"),
    [
        (["train", "test"], r"train has no class folders .* CSV file with the columns path,label .*--data labels\.csv"),
        (["train", "test1"], r"train has no class folders"),
        (["train_images", "test_images"], r"train_images has no class folders"),
        (
            ["seg_train/seg_train/sea", "seg_train/seg_train/street", "seg_test/seg_test/sea", "seg_pred/seg_pred"],
            r"in seg_train/seg_train: --data \S+/seg_train/seg_train\. .* ROOT/train/CLASS",
        ),
        (
            ["training_set/training_set/cats", "training_set/training_set/dogs", "test_set/test_set/cats"],
            r"--data \S+/training_set/training_set\.",
        ),
        (["alphabet_train/A", "alphabet_train/B", "alphabet_test/A"], r"--data \S+/alphabet_train\."),
    ],
)
def test_splits_are_not_taken_for_classes_whatever_is_inside(
    tmp_path: Path, make_images: Callable[..., None], folders: list[str], advice: str
) -> None:
    for folder in folders:
        make_images(tmp_path / folder, 1)
    with pytest.raises(UsageError, match=f"these look like splits, not classes.*{advice}.* rename these folders"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["no_train", "train"],
        ["contest", "tram"],
        ["naval_ship", "passenger_train"],
        ["bus", "test tube", "train"],
        ["dev", "test", "train", "val x"],
    ],
)
def test_classes_whose_names_contain_the_words_of_splits_stay_classes(
    tmp_path: Path, make_images: Callable[..., None], names: list[str]
) -> None:
    for name in names:
        make_images(tmp_path / name, 1)
    assert opened(tmp_path).class_names == names


RUN_FILES = {
    "choosing its settings": [".lock"],
    "waiting for processes": [".lock", "status.json"],
    "submitted and started": [".lock", "config.yaml"],
    "copied without hidden files": ["config.yaml", "status.json"],
}
"""What tells a run folder from a class folder, by what the run is doing."""


@pytest.mark.parametrize("layout", ["", "train", "val"])
@pytest.mark.parametrize("folder", ["runs/first", "out"])
@pytest.mark.parametrize("state", RUN_FILES)
def test_runs_beside_the_class_folders_are_ignored(
    tmp_path: Path, make_images: Callable[..., None], layout: str, folder: str, state: str
) -> None:
    for name in ("ant", "bee"):
        for split in {layout, "train" if layout else ""}:
            make_images(tmp_path / split / name, 2)
    before = opened(tmp_path, layout or "train")
    run_dir = tmp_path / layout / folder
    if state != "choosing its settings":
        make_images(run_dir / "plots", 1)
    run_dir.mkdir(parents=True, exist_ok=True)
    for file in RUN_FILES[state]:
        (run_dir / file).touch()
    image_set = opened(tmp_path, layout or "train")
    assert image_set.class_names == ["ant", "bee"] and image_set.fingerprint() == before.fingerprint()
    assert image_set.num_ignored == 1


def test_a_class_folder_is_no_run_for_a_single_file(tmp_path: Path, make_images: Callable[..., None]) -> None:
    for name, file in (("ant", ".lock"), ("bee", "config.yaml"), ("cat", "status.json"), ("dog/nested", ".lock")):
        make_images(tmp_path / name, 1)
        (tmp_path / name / file).touch()
    assert opened(tmp_path).class_names == ["ant", "bee", "cat", "dog"]


def test_a_link_to_a_folder_around_it_is_not_followed_for_ever(two_classes: Path) -> None:
    (two_classes / "cat" / "loop").symlink_to(two_classes / "cat")
    (two_classes / "dog" / "up").symlink_to(two_classes)
    assert len(opened(two_classes)) == 30


def test_links_to_each_other_are_followed_once(two_classes: Path) -> None:
    (two_classes / "cat" / "dogs").symlink_to("../dog")
    (two_classes / "dog" / "inner").mkdir()
    (two_classes / "dog" / "inner" / "cats").symlink_to("../../cat")
    image_set = opened(two_classes)
    assert np.bincount(image_set.labels).tolist() == [30, 30] and image_set.name(10) == "cat/dogs/000.png"
    assert image_set.name(59) == "dog/inner/cats/009.png"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # an absolute path may be too long for a socket


ODD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "a named pipe instead of a file"),
    "a socket": (make_socket, "a socket instead of a file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a device instead of a file"),
    "a link to the kernel's messages": (lambda path: path.symlink_to("/proc/kmsg"), "an empty file"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "a link to a pipe": (lambda path: (os.mkfifo(path.parent / "p"), path.symlink_to("p")), "a named pipe"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "No such file"),
}
"""What makes them, and why they are bad."""


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_only_looks_like_an_image_is_bad_and_never_waited_for(
    two_classes: Path, tmp_path: Path, kind: str
) -> None:
    make, reason = ODD_FILES[kind]
    make(two_classes / "cat" / "zzz.png")
    image_set = opened(two_classes)
    assert len(image_set) == 31 and image_set.name(10) == "cat/zzz.png"
    for read in (lambda: image_set.image(10, Decoding(8)), lambda: image_set.content(10)):
        with pytest.raises(BadImageError, match=reason):
            read()
    check = check_data(DataConfig(name="folder", root=str(two_classes), cache_dir=str(tmp_path / "cache")))
    assert [file["path"] for file in check.bad_files] == ["cat/zzz.png"]


@pytest.mark.parametrize("kind", ODD_FILES)
def test_other_odd_files_are_ignored(two_classes: Path, kind: str) -> None:
    for place in ("cat/zzz", "zzz"):
        ODD_FILES[kind][0](two_classes / place)
        (two_classes / place).with_name("p").unlink(missing_ok=True)
    image_set = opened(two_classes)
    assert len(image_set) == 30 and image_set.num_ignored == 2
