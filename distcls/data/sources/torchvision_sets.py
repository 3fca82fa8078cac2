"""Reads and downloads CIFAR-10, MNIST, Fashion-MNIST and STL-10 with torchvision.

torchvision keeps a data set in private arrays, 180 MB per process for CIFAR-10. So it reads a set once into the
store (cache/arrays.py), and later starts need neither torchvision nor its checksums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.cache.arrays import Arrays, open_arrays
from distcls.data.cache.folder import cache_folder
from distcls.data.sources.image_set import ImageSet, digest
from distcls.errors import MissingInputError
from distcls.files.atomic import folder_beside, rename_unless_there
from distcls.files.downloading import ending_when_silent


@dataclass(frozen=True)
class _Source:
    name: str
    torchvision_class: str
    folder: str
    """The folder that torchvision creates under the root."""
    read: Callable[[Any, str, bool, bool], tuple[list[str], Any, np.ndarray]]
    """(class, root, is train, download) -> class names, labels (N,), images (N, H, W, 3)."""


def open_cifar10(config: DataConfig) -> dict[str, ImageSet]:
    """Return 60,000 images of 32x32 pixels: train and test."""
    return _open(_Source("cifar10", "CIFAR10", "cifar-10-batches-py", _read_cifar10), config)


def open_mnist(config: DataConfig) -> dict[str, ImageSet]:
    """Return 70,000 handwritten digits of 28x28 pixels, gray: train and test."""
    return _open(_Source("mnist", "MNIST", "MNIST", _read_mnist), config)


def open_fashion_mnist(config: DataConfig) -> dict[str, ImageSet]:
    """Return 70,000 items of clothing of 28x28 pixels, gray: train and test."""
    return _open(_Source("fashion_mnist", "FashionMNIST", "FashionMNIST", _read_mnist), config)


def open_stl10(config: DataConfig) -> dict[str, ImageSet]:
    """Return the 13,000 labeled images of 96x96 pixels: train and test."""
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
    key = _key(root / source.folder)
    return dict(open_arrays(cache_folder(config), source.name, key, lambda: _read_splits(source, root)))


def _key(folder: Path) -> str:
    """Return a key that changes with the files torchvision would read: their names, sizes and modification times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest([], repr((str(folder), found)).encode())[:16]


def _torchvision_class(source: _Source) -> Any:
    import torchvision.datasets  # takes seconds

    return getattr(torchvision.datasets, source.torchvision_class)


def _read_splits(source: _Source, root: Path) -> Iterator[Arrays]:
    for split in ("train", "test"):
        yield Arrays(split, *_read(source, root, split == "train"))


def _read(source: _Source, root: Path, train: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return class names, labels int64 (N,), and images uint8 (N, H, W, 3) in C order."""
    try:
        class_names, labels, images = source.read(_torchvision_class(source), str(root), train, False)
    except (OSError, RuntimeError) as error:
        raise MissingInputError(
            f"{root / source.folder} is not a complete copy of {source.name}: {error}.\n"
            "Move that folder away, then download it again: data.download=true"
        ) from error
    return list(class_names), np.asarray(labels).astype(np.int64), np.ascontiguousarray(images)


def _download(source: _Source, root: Path, config: DataConfig) -> None:
    """Download to a temporary folder, so that a killed download leaves nothing that looks like the data set."""
    if not config.download:
        raise MissingInputError(
            f"{source.name} is not in {root} (no folder {source.folder}). "
            "Download it: data.download=true. Or give the folder that holds it: --data DIR"
        )
    cls = _torchvision_class(source)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with ending_when_silent(), folder_beside(root / source.folder) as building:
            _lend_archive(cls, root, building)
            source.read(cls, str(building), True, True)
            rename_unless_there(building / source.folder, root / source.folder)
    except Exception as error:  # network, disk, archive, checksum: each of the libraries involved has its own errors
        raise MissingInputError(
            f"cannot download {source.name} from {_hosts(cls)} to {root}: {error}.\n"
            f"If this machine has no network, copy the folder {source.folder} from another one into {root}, "
            "or give the folder that holds it: --data DIR"
        ) from error


def _lend_archive(cls: Any, root: Path, building: Path) -> None:
    """Link an archive that is already under the root, so that it is not downloaded again."""
    archive = root / getattr(cls, "filename", "")
    if archive.is_file():
        (building / archive.name).symlink_to(archive)


def _hosts(cls: Any) -> str:
    urls = [cls.url] if hasattr(cls, "url") else cls.mirrors
    return " or ".join(str(urlsplit(url).hostname) for url in urls)
