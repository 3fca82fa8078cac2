from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.build import BuildingProcesses, build_data
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ImageSet
from distcls.errors import BadDataError, DistclsError, MissingInputError, UsageError

LINES = "path,label,split\ncat/001.png,cat,train\ndog/002.png,dog,train\ndog/003.png,dog,val\ncat/004.png,cat,Test\n"


@pytest.fixture
def write(two_classes: Path) -> Callable[[str], Path]:
    """Writes a CSV beside the folders cat/ and dog/."""

    def write_csv(text: str) -> Path:
        file = two_classes / "labels.csv"
        file.write_bytes(text.encode())
        return file

    return write_csv


def opened(file: Path) -> dict[str, ImageSet]:
    return open_image_sets(DataConfig(name="csv", root=str(file)))


def test_paths_labels_and_splits(write: Callable[[str], Path]) -> None:
    image_sets = opened(write(LINES))
    assert {split: len(image_set) for split, image_set in image_sets.items()} == {"train": 2, "val": 1, "test": 1}
    train, val = image_sets["train"], image_sets["val"]
    assert train.class_names == val.class_names == ["cat", "dog"]
    assert [(train.name(i), int(train.labels[i])) for i in range(2)] == [("cat/001.png", 0), ("dog/002.png", 1)]
    assert val.labels.tolist() == [1] and val.image(0, Decoding(8))[0, 0, 0] == 30


def test_without_a_split_column_splits_are_cut(
    write: Callable[[str], Path], tmp_path: Path, one_process: BuildingProcesses
) -> None:
    lines = [f"{folder}/{i:03}.png,{folder}" for folder, count in (("cat", 10), ("dog", 20)) for i in range(count)]
    file = write("\n".join(["path,label", *lines]))
    data = build_data(DataConfig(name="csv", root=str(file), cache_dir=str(tmp_path / "cache")), one_process)
    assert {split.name: len(split) for split in data.splits()} == {"train": 22, "val": 2, "test": 6}
    for i in range(len(data.train)):
        folder, name = data.train.image_name(i).split("/")
        assert data.class_names[data.train.labels[i]] == folder
        assert data.train.image(i)[0, 0, 0] == int(name[:3]) * 10


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffLabel;Path;note\r\ncat;cat/001.png;"a\r\nb"\r\n\r\ndog; dog/002.png;\r\n',
        "path\tlabel\ncat/001.png\tcat\ndog/002.png\tdog",
        'path, label\n"cat/001.png", "cat"\ndog/002.png, dog \n',
    ],
)
def test_the_dialects_that_programs_write(write: Callable[[str], Path], text: str) -> None:
    train = opened(write(text))["train"]
    assert [train.name(i) for i in range(len(train))] == ["cat/001.png", "dog/002.png"]
    assert train.class_names == ["cat", "dog"] and train.image(1, Decoding(8))[0, 0, 0] == 20


def test_numbers_as_labels_keep_their_order(write: Callable[[str], Path]) -> None:
    train = opened(write("path,label\ncat/001.png,10\ndog/002.png,9\ndog/003.png,9\n"))["train"]
    assert train.class_names == ["9", "10"] and train.labels.tolist() == [1, 0, 0]


def test_absolute_paths(write: Callable[[str], Path], two_classes: Path) -> None:
    train = opened(write(f"path,label\n{two_classes}/cat/001.png,cat\ndog/002.png,dog\n"))["train"]
    assert train.image(0, Decoding(8))[0, 0, 0] == 10


def test_a_long_file_is_read_in_parts(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"dog/{i:03}.png,{i % 3},{'val' if i % 5 == 0 else 'train'}" for i in range(20)]
    file = write("\n".join(["path,label,split", *lines]))
    whole = opened(file)
    monkeypatch.setattr("distcls.data.sources.csv_manifest.CHUNK", 3)
    parts = opened(file)
    for split in ("train", "val"):
        assert parts[split].fingerprint() == whole[split].fingerprint()
        expected = [i for i in range(20) if (i % 5 == 0) == (split == "val")]
        assert [whole[split].name(i) for i in range(len(expected))] == [f"dog/{i:03}.png" for i in expected]
        assert np.array_equal(whole[split].labels, np.array(expected) % 3)


def test_the_fingerprint_sees_labels_and_files(write: Callable[[str], Path], two_classes: Path) -> None:
    before = opened(write(LINES))["train"].fingerprint()
    relabeled = opened(write(LINES.replace("001.png,cat", "001.png,dog").replace("002.png,dog", "002.png,cat")))
    (two_classes / "cat" / "001.png").write_bytes(b"shorter")
    changed = opened(write(LINES))["train"].fingerprint()
    assert len({before, relabeled["train"].fingerprint(), changed}) == 3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("filename,label\n", BadDataError, r"line 1: the header has no column 'path'.*Rename 'filename' to 'path'"),
        ("paths,label\n", BadDataError, r"no column 'path'.*Did you mean 'paths'"),
        ("path,class\n", BadDataError, r"no column 'label'.*Rename 'class' to 'label'"),
        ("path,label,subset\n", BadDataError, r"no column 'split'. Rename 'subset' to 'split'. Or remove it"),
        ("", BadDataError, "only nothing"),
        ("path,label\n", BadDataError, "lists no images"),
        (LINES + "cat/005.png,cat\n", BadDataError, "line 6: 2 fields, the header has 3"),
        (LINES + "cat/005.png,,train\n", BadDataError, "line 6: the label is empty"),
        ("path,label\n,cat\n", BadDataError, "line 2: the path is empty"),
        (LINES + "\ncat/005.png,cat,trian\n", BadDataError, r"line 7: the split 'trian' is none.*mean 'train'"),
        (LINES + "cat/005.png,cta,val\n", BadDataError, r"line 6: the class 'cta' has no training images.*mean 'cat'"),
        (LINES.replace("train", "val"), BadDataError, "no images for the train split"),
        (LINES.replace("dog,", "cat,"), BadDataError, "only one class, 'cat'"),
        (LINES.replace(".png", ".jpg"), MissingInputError, r"none of the images.*images/cat/004\.jpg.*relative to"),
    ],
)
def test_what_is_wrong_is_named(
    write: Callable[[str], Path], text: str, error: type[DistclsError], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened(write(text))


def test_other_encodings_are_explained(two_classes: Path) -> None:
    file = two_classes / "labels.csv"
    file.write_bytes("path,label\ncat/001.png,köter\n".encode("latin-1"))
    with pytest.raises(BadDataError, match="not UTF-8"):
        opened(file)


def test_a_missing_file_and_no_file(two_classes: Path) -> None:
    with pytest.raises(MissingInputError, match=r"nothing\.csv does not exist"):
        opened(two_classes / "nothing.csv")
    with pytest.raises(MissingInputError, match=r"is a folder\. Give the file of your images: --data FILE\.csv"):
        opened(two_classes)
    with pytest.raises(UsageError, match=r"needs the file of your images: --data FILE\.csv"):
        open_image_sets(DataConfig(name="csv"))


def test_an_unreadable_file_is_named(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: str, **_: object) -> None:  # root, who may run the tests, can read everything
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr("distcls.data.sources.csv_manifest.open", refuse, raising=False)
    with pytest.raises(MissingInputError, match=r"cannot read .*labels\.csv: Permission denied"):
        opened(write(LINES))


def test_one_missing_image_is_a_bad_image(
    write: Callable[[str], Path], tmp_path: Path, one_process: BuildingProcesses
) -> None:
    lines = [f"dog/{i:03}.png,{i % 2}" for i in range(21)]
    file = write("\n".join(["path,label", *lines]))
    config = DataConfig(name="csv", root=str(file), cache_dir=str(tmp_path / "cache"), max_bad_fraction=0.1)
    report = build_data(config, one_process).report
    assert report["bad_files"] == [{"path": "dog/020.png", "reason": "No such file or directory"}]


def test_numbers_that_are_equal_and_written_otherwise_have_one_order(write: Callable[[str], Path]) -> None:
    """A set has another order in each process."""
    labels = ["1", "01", "2", "02", "001"]
    lines = [f"{folder}/{i:03}.png,{label}" for i, label in enumerate(labels) for folder in ("cat", "dog")]
    image_sets = opened(write("\n".join(["path,label", *lines])))
    assert image_sets["train"].class_names == ["001", "01", "1", "02", "2"]


def test_a_file_of_nothing_but_blank_lines_lists_no_images(write: Callable[[str], Path]) -> None:
    with pytest.raises(BadDataError, match="lists no images"):
        opened(write("path,label\n\n\n"))
