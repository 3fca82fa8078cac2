from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ArraySet, ImageSet
from distcls.errors import BadDataError, MissingInputError, UsageError

GRAY = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
LABELS = np.array([3, 7, 3, 7, 3, 7])


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., dict[str, ImageSet]]:
    def save_and_open(save: Callable[..., None] = np.savez, **arrays: Any) -> dict[str, ImageSet]:
        save(tmp_path / "set.npz", **arrays)
        config = DataConfig(name="npz", root=str(tmp_path / "set.npz"), cache_dir=str(tmp_path / "cache"))
        return open_image_sets(config)

    return save_and_open


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_and_labels(opened: Callable[..., dict[str, ImageSet]], save: Callable[..., None]) -> None:
    train = opened(save, images=GRAY, labels=LABELS)["train"]
    assert train.class_names == ["3", "7"] and train.labels.tolist() == [0, 1] * 3
    assert np.array_equal(train.image(2, Decoding(None)), GRAY[2][..., None].repeat(3, axis=2))
    assert train.name(2) == "set/train/2"


def test_pixels_are_mapped_and_shared(opened: Callable[..., dict[str, ImageSet]]) -> None:
    train = opened(images=GRAY, labels=LABELS)["train"]
    assert isinstance(train, ArraySet) and isinstance(train.images, np.memmap)


def test_keras_names(opened: Callable[..., dict[str, ImageSet]]) -> None:
    color = np.zeros((2, 4, 4, 3), np.uint8)
    image_sets = opened(x_train=color, y_train=[0, 1], x_test=color + 1, y_test=np.array([1, 1], np.uint8))
    assert list(image_sets) == ["train", "test"]
    assert image_sets["test"].labels.tolist() == [1, 1] and image_sets["test"].labels.dtype == np.int64
    assert image_sets["test"].image(0, Decoding(4)).max() == 1


def test_medmnist_names_and_labels_of_two_dimensions(opened: Callable[..., dict[str, ImageSet]]) -> None:
    arrays = {f"{split}_images": GRAY for split in ("train", "val", "test")}
    labels = {f"{split}_labels": LABELS[:, None] for split in ("train", "val", "test")}
    image_sets = opened(**arrays, **labels)
    assert list(image_sets) == ["train", "val", "test"] and image_sets["val"].labels.tolist() == [0, 1] * 3


def test_words_and_named_classes(opened: Callable[..., dict[str, ImageSet]]) -> None:
    words = opened(images=GRAY, labels=np.array(["dog", "cat"] * 3))["train"]
    assert words.class_names == ["cat", "dog"] and words.labels.tolist() == [1, 0] * 3
    named = opened(images=GRAY, labels=LABELS % 3, class_names=["cat", "dog", "eel"])["train"]
    assert named.class_names == ["cat", "dog", "eel"] and named.labels.tolist() == [0, 1] * 3
    both = opened(images=GRAY, labels=np.array(["dog", "cat"] * 3), class_names=np.array([b"eel", b"dog", b"cat"]))[
        "train"
    ]
    assert both.class_names == ["eel", "dog", "cat"] and both.labels.tolist() == [1, 2] * 3
    with pytest.raises(BadDataError, match="labels has the class fox, which is not one of eel, dog"):
        opened(images=GRAY, labels=np.array(["dog", "fox"] * 3), class_names=["eel", "dog"])


def test_a_changed_file_is_read_again(opened: Callable[..., dict[str, ImageSet]]) -> None:
    before = opened(images=GRAY, labels=LABELS)["train"].fingerprint()
    changed = opened(images=GRAY + 1, labels=LABELS)["train"]
    assert changed.image(0, Decoding(None))[0, 0, 0] == 1 and changed.fingerprint() != before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GRAY, "labels": LABELS}, "found arrays: pictures, labels. Expected images and labels; or"),
        ({"images": GRAY}, "has no array labels, only images"),
        ({"images": GRAY / 255, "labels": LABELS}, r"images is float64; expected uint8 from 0 to 255.*astype"),
        ({"images": GRAY[:, None], "labels": LABELS}, r"\(6, 1, 4, 5\); expected .*transpose\(0, 2, 3, 1\)"),
        ({"images": GRAY, "labels": LABELS[:4]}, "images has 6 images, but labels 4 labels"),
        ({"images": GRAY, "labels": np.eye(6)}, r"labels is float64 \(6, 6\); expected one whole number"),
        ({"images": GRAY, "labels": LABELS * 0}, "only one class, '0'"),
        (
            {"x_train": GRAY, "y_train": LABELS, "x_test": GRAY, "y_test": LABELS + 1},
            "y_test has the class 4, which is not one of 3, 7",
        ),
        ({"images": np.array([None] * 6), "labels": LABELS}, "cannot be read as an .npz of plain arrays"),
    ],
)
def test_what_is_wrong_is_named(
    opened: Callable[..., dict[str, ImageSet]], arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadDataError, match=message):
        opened(**arrays)


def test_broken_and_missing_files(tmp_path: Path) -> None:
    config = DataConfig(name="npz", root=str(tmp_path / "set.npz"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(MissingInputError, match=r"set\.npz does not exist"):
        open_image_sets(config)
    np.savez_compressed(tmp_path / "set.npz", images=GRAY, labels=LABELS)
    whole = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(whole.replace(whole[60:64], b"????"))
    with pytest.raises(BadDataError, match="cannot be read as an .npz"):
        open_image_sets(config)
    (tmp_path / "set.npz").write_bytes(whole[:100])
    with pytest.raises(BadDataError, match="cannot be read as an .npz"):
        open_image_sets(config)
    with pytest.raises(UsageError, match=r"--data FILE\.npz"):
        open_image_sets(DataConfig(name="npz"))


def header(shape: tuple[int, ...]) -> bytes:
    """What precedes an array of that shape in a .npy file, and no array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_more_than_there_is_costs_no_memory(tmp_path: Path, compression: int) -> None:
    """114 GB of images, in a file of 300 bytes."""
    labels = io.BytesIO()
    np.save(labels, LABELS)
    with zipfile.ZipFile(tmp_path / "set.npz", "w", compression) as archive:
        archive.writestr("labels.npy", labels.getvalue())
        archive.writestr("images.npy", header((760_000, 224, 224, 3)) + b"few")
    tracemalloc.start()
    try:
        with pytest.raises(BadDataError, match=r"images claims 114\.4 GB, but has at most 0\.0 GB"):
            open_image_sets(DataConfig(name="npz", root=str(tmp_path / "set.npz"), cache_dir=str(tmp_path / "cache")))
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_an_array_that_does_not_fit_the_memory_is_refused_before_it_is_read(
    opened: Callable[..., dict[str, ImageSet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
    with pytest.raises(BadDataError, match="images needs 0.0 GB of memory, but only 0.0 GB are free.*data.name=folder"):
        opened(images=GRAY, labels=LABELS)


def test_a_forged_size_in_the_archive_is_found_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", header((760_000, 224, 224, 3)) + b"few")
    content = (tmp_path / "set.npz").read_bytes()
    size = struct.pack("<I", len(header((760_000, 224, 224, 3))) + 3)
    place = content.rindex(size)  # in the central directory, the size after decompression comes last
    (tmp_path / "set.npz").write_bytes(content[:place] + struct.pack("<I", 2**32 - 2) + content[place + 4 :])
    with pytest.raises(BadDataError, match=r"images claims 114\.4 GB, but has at most 0\.0 GB"):
        open_image_sets(DataConfig(name="npz", root=str(tmp_path / "set.npz"), cache_dir=str(tmp_path / "cache")))
