"""CIFAR-10, MNIST, Fashion-MNIST and STL-10, read and downloaded by torchvision.

torchvision holds a set as private arrays, 180 MB of CIFAR-10 in each process. So what it read once is
kept as plain arrays in the cache folder, which all processes of a machine map and share, and later
starts need neither torchvision nor its checksums.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np

from distcls.config import DataConfig
from distcls.data.cache_folder import cache_folder, explaining_disk_errors
from distcls.data.image_set import ArraySet, ImageSet, digest
from distcls.data.mapped_file import MappedFile
from distcls.errors import MissingInputError

DOWNLOAD_TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class _Source:
    name: str
    torchvision_class: str
    folder: str
    """Folder that torchvision makes under the root."""
    read: Callable[[Any, str, bool, bool], tuple[list[str], Any, np.ndarray]]
    """(class, root, is train, download) -> class names, labels (N,), images (N, H, W, 3)."""


def open_cifar10(config: DataConfig) -> dict[str, ImageSet]:
    """60,000 images of 32x32 pixels: train and test."""
    return _open(_Source("cifar10", "CIFAR10", "cifar-10-batches-py", _read_cifar10), config)


def open_mnist(config: DataConfig) -> dict[str, ImageSet]:
    """70,000 handwritten digits of 28x28 pixels, gray: train and test."""
    return _open(_Source("mnist", "MNIST", "MNIST", _read_mnist), config)


def open_fashion_mnist(config: DataConfig) -> dict[str, ImageSet]:
    """70,000 clothes of 28x28 pixels, gray: train and test."""
    return _open(_Source("fashion_mnist", "FashionMNIST", "FashionMNIST", _read_mnist), config)


def open_stl10(config: DataConfig) -> dict[str, ImageSet]:
    """13,000 images of 96x96 pixels, the labelled ones: train and test."""
    return _open(_Source("stl10", "STL10", "stl10_binary", _read_stl10), config)


def _read_cifar10(cls: Any, root: str, train: bool, download: bool) -> tuple[list[str], Any, np.ndarray]:
    dataset = cls(root, train=train, download=download)
    return dataset.classes, dataset.targets, dataset.data


def _read_mnist(cls: Any, root: str, train: bool, download: bool) -> tuple[list[str], Any, np.ndarray]:
    dataset = cls(root, train=train, download=download)
    return dataset.classes, dataset.targets.numpy(), dataset.data.numpy()[..., None].repeat(3, axis=3)


def _read_stl10(cls: Any, root: str, train: bool, download: bool) -> tuple[list[str], Any, np.ndarray]:
    dataset = cls(root, split="train" if train else "test", download=download)
    return dataset.classes, dataset.labels, dataset.data.transpose(0, 2, 3, 1)


def _open(source: _Source, config: DataConfig) -> dict[str, ImageSet]:
    root = Path(config.root).expanduser().absolute() if config.root else cache_folder(config) / "datasets"
    if not (root / source.folder).is_dir():
        _download(source, root, config)
    cache = cache_folder(config) / "arrays" / f"{source.name}-{_key(root / source.folder)}"
    if not _is_complete(cache):
        with explaining_disk_errors(cache):
            _write_arrays(source, root, cache)
    about = json.loads((cache / "about.json").read_text())
    return {split: _mapped_set(source.name, split, cache, about) for split in ("train", "test")}


def _key(folder: Path) -> str:
    """Changes with the files torchvision would read: their names, sizes and times of change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest([], repr((str(folder), found)).encode())[:16]


def _mapped_set(name: str, split: str, cache: Path, about: dict[str, Any]) -> ArraySet:
    labels = np.fromfile(cache / f"{split}.labels", np.int64)
    images = MappedFile(str(cache / f"{split}.pixels"), tuple(about["shapes"][split])).open()
    return ArraySet(f"{name}/{split}", about["class_names"], labels, images, about["fingerprints"][split])


def _is_complete(cache: Path) -> bool:
    """Whether the arrays are there; their sizes tell one that was cut short."""
    try:
        sizes = json.loads((cache / "about.json").read_text())["sizes"]
        return all((cache / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _write_arrays(source: _Source, root: Path, cache: Path) -> None:
    """Writes beside the final place and renames, so that what is there is whole, whoever else does the same."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(cache) as building:
        about: dict[str, Any] = {"shapes": {}, "fingerprints": {}}
        for split in ("train", "test"):
            about["class_names"], labels, images = _read(source, root, split == "train")
            about["shapes"][split] = images.shape
            about["fingerprints"][split] = digest(about["class_names"], labels, images)
            _write(building / f"{split}.pixels", images.tofile)
            _write(building / f"{split}.labels", labels.tofile)
        about["sizes"] = {path.name: path.stat().st_size for path in building.iterdir()}
        _write(building / "about.json", lambda file: file.write(json.dumps(about).encode()))
        if cache.exists() and not _is_complete(cache):
            shutil.rmtree(cache)
        _rename_unless_there(building, cache)


@contextlib.contextmanager
def _folder_beside(final: Path) -> Iterator[Path]:
    """A folder on the same file system that is gone at the end, with all that was not renamed away."""
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as temporary:
        building = Path(temporary, "building")
        building.mkdir()
        yield building


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _rename_unless_there(folder: Path, final: Path) -> None:
    try:
        os.rename(folder, final)
    except OSError:  # another run, on this machine or on one that shares the disk, was faster
        if not final.is_dir():
            raise


def _torchvision_class(source: _Source) -> Any:
    import torchvision.datasets  # takes seconds

    return getattr(torchvision.datasets, source.torchvision_class)


def _read(source: _Source, root: Path, train: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Class names, labels int64 (N,), images uint8 (N, H, W, 3) in C order."""
    try:
        class_names, labels, images = source.read(_torchvision_class(source), str(root), train, False)
    except (OSError, RuntimeError) as error:
        raise MissingInputError(
            f"{root / source.folder} is not a whole copy of {source.name}: {error}.\n"
            "Move that folder away, then download it again: data.download=true"
        ) from error
    return list(class_names), np.asarray(labels).astype(np.int64), np.ascontiguousarray(images)


def _download(source: _Source, root: Path, config: DataConfig) -> None:
    """Downloads into a folder beside, so that a killed download leaves nothing that looks like the data set."""
    if not config.download:
        raise MissingInputError(
            f"{source.name} is not in {root} (no folder {source.folder}). "
            "Download it: data.download=true. Or name the folder that holds it: --data DIR"
        )
    cls = _torchvision_class(source)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torchvision gives none: behind a silent firewall it would wait forever
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _folder_beside(root / source.folder) as building:
            _lend_archive(cls, root, building)
            source.read(cls, str(building), True, True)
            _rename_unless_there(building / source.folder, root / source.folder)
    except Exception as error:  # network, disk, archive and checksum: each library on the way has its own
        raise MissingInputError(
            f"cannot download {source.name} from {_hosts(cls)} to {root}: {error}.\n"
            f"Where there is no network, copy the folder {source.folder} from elsewhere into {root}, "
            "or name the folder that holds it: --data DIR"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _lend_archive(cls: Any, root: Path, building: Path) -> None:
    """An archive that somebody put under the root already is not downloaded again."""
    archive = root / getattr(cls, "filename", "")
    if archive.is_file():
        (building / archive.name).symlink_to(archive)


def _hosts(cls: Any) -> str:
    urls = [cls.url] if hasattr(cls, "url") else cls.mirrors
    return " or ".join(str(urlsplit(url).hostname) for url in urls)
