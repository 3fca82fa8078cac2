from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcls.config.settings import DataConfig
from distcls.data.build import BuildingProcesses, OneProcess, build_data
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ArraySet
from distcls.errors import MissingInputError

datasets = pytest.importorskip("torchvision.datasets")

PER_BATCH = 4
CLASSES = ["airplane", "automobile"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_fake_cifar10(folder: Path) -> None:
    """The inner layout of the real archive: pickles of planes of red, green and blue."""
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels = np.full((PER_BATCH, 3, 32, 32), number, np.uint8)
        pixels[:, 0] = 200
        batch = {"data": pixels.reshape(PER_BATCH, -1), "labels": [i % 2 for i in range(PER_BATCH)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))


@pytest.fixture
def cifar10_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny CIFAR-10 that torchvision believes to be the real one."""
    source = tmp_path / "source" / "cifar-10-batches-py"
    write_fake_cifar10(source)
    archive = tmp_path / "www" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    cls = datasets.CIFAR10
    monkeypatch.setattr(cls, "tgz_md5", md5(archive))
    monkeypatch.setattr(cls, "train_list", [[name, md5(source / name)] for name, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [["test_batch", md5(source / "test_batch")]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(source / "batches.meta")})
    monkeypatch.setattr(cls, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody listens there
    return archive


@pytest.fixture
def requests(cifar10_archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves the archive from this machine; the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(cifar10_archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{cifar10_archive.name}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield asked
        server.shutdown()


def config(tmp_path: Path, **settings: Any) -> DataConfig:
    return DataConfig(name="cifar10", root=str(tmp_path / "root"), cache_dir=str(tmp_path / "cache"), **settings)


def test_cifar10_is_downloaded_once(tmp_path: Path, requests: list[str]) -> None:
    image_sets = open_image_sets(config(tmp_path, download=True))
    train, test = image_sets["train"], image_sets["test"]
    assert (len(train), len(test)) == (20, 4) and train.class_names == CLASSES
    assert train.labels.tolist() == [0, 1] * 10 and train.labels.dtype == np.int64
    assert train.image(4, Decoding(32))[0, 0].tolist() == [200, 1, 1]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]
    count = len(requests)
    open_image_sets(config(tmp_path, download=True))
    assert len(requests) == count


def test_pixels_are_mapped_and_shared(tmp_path: Path, requests: list[str]) -> None:
    train = open_image_sets(config(tmp_path, download=True))["train"]
    assert isinstance(train, ArraySet) and isinstance(train.images, np.memmap)
    assert train.fingerprint() == ArraySet("x", CLASSES, train.labels, np.array(train.images)).fingerprint()


def test_a_later_start_does_not_read_with_torchvision(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_image_sets(config(tmp_path, download=True))["train"].fingerprint()
    monkeypatch.delattr(datasets, "CIFAR10")
    assert open_image_sets(config(tmp_path))["train"].fingerprint() == first


def test_cut_arrays_are_written_again(tmp_path: Path, requests: list[str]) -> None:
    first = open_image_sets(config(tmp_path, download=True))["train"].fingerprint()
    (pixels,) = tmp_path.glob("cache/decoded/*/train.pixels")
    pixels.write_bytes(b"short")
    assert open_image_sets(config(tmp_path))["train"].fingerprint() == first
    assert pixels.stat().st_size == 20 * 32 * 32 * 3


class Rank(OneProcess):
    """One of two processes of a machine."""

    def __init__(self, is_local_main: bool) -> None:
        self.is_local_main = is_local_main


def test_only_the_main_process_downloads(tmp_path: Path, requests: list[str]) -> None:
    with pytest.raises(MissingInputError):
        build_data(config(tmp_path, download=True), Rank(False))
    assert requests == []
    main: BuildingProcesses = Rank(True)
    data = build_data(config(tmp_path, download=True, val_fraction=0.2), main)
    assert [len(split) for split in data.splits()] == [16, 4, 4]
    assert build_data(config(tmp_path, val_fraction=0.2), Rank(False)).fingerprint == data.fingerprint


def test_an_archive_under_the_root_is_unpacked_without_network(tmp_path: Path, cifar10_archive: Path) -> None:
    (tmp_path / "root").mkdir()
    copy = tmp_path / "root" / cifar10_archive.name
    copy.write_bytes(cifar10_archive.read_bytes())
    assert len(open_image_sets(config(tmp_path, download=True))["train"]) == 20
    assert copy.exists()


def test_a_missing_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"data\.download=true.*--data DIR"):
        open_image_sets(config(tmp_path))


def test_a_failed_download_names_the_host_and_the_way_without_network(tmp_path: Path, cifar10_archive: Path) -> None:
    with pytest.raises(MissingInputError, match=r"(?s)from 127\.0\.0\.1 .*copy the folder cifar-10-batches-py"):
        open_image_sets(config(tmp_path, download=True))
    assert list((tmp_path / "root").iterdir()) == []


def test_a_download_with_the_wrong_checksum_leaves_nothing(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(MissingInputError, match="corrupted"):
        open_image_sets(config(tmp_path, download=True))
    assert requests and list((tmp_path / "root").iterdir()) == []


def test_a_damaged_copy_is_explained(tmp_path: Path, requests: list[str]) -> None:
    open_image_sets(config(tmp_path, download=True))
    (tmp_path / "root" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"short")
    with pytest.raises(MissingInputError, match="not a complete copy"):
        open_image_sets(config(tmp_path))


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_gray_sets_become_rgb(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 6), ("t10k", 2)):
        images = np.full((count, 28, 28), 90, np.uint8)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(range(count)))
    image_sets = open_image_sets(DataConfig(name=name, root=str(tmp_path), cache_dir=str(tmp_path / "cache")))
    assert (len(image_sets["train"]), len(image_sets["test"])) == (6, 2)
    assert image_sets["train"].image(0, Decoding(28)).shape == (28, 28, 3)
    assert image_sets["train"].labels.tolist() == [0, 1, 2, 3, 4, 5] and len(image_sets["test"].class_names) == 10


def test_stl10_has_its_rows_and_columns_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = np.zeros((2, 3, 96, 96), np.uint8)  # the file holds columns before rows
    images[:, 2, :, 5] = 255
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(images.tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes([1, 10]))
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    train = open_image_sets(DataConfig(name="stl10", root=str(tmp_path), cache_dir=str(tmp_path / "cache")))["train"]
    image = train.image(0, Decoding(96))
    assert train.labels.tolist() == [0, 9] and image.shape == (96, 96, 3)
    assert np.all(image[5, :, 2] == 255) and image.sum() == 96 * 255
