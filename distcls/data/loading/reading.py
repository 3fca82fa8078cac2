"""Loads requested images ahead of their use: from memory, or by threads or worker processes.

Threads read images that are decoded on disk. Worker processes apply transforms to single images, wherever those are.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from distcls.cluster import signals
from distcls.data.augmentation.image_transforms import ImageTransforms
from distcls.data.augmentation.resampling import crop_and_resize, resize
from distcls.data.decoding.decode import BadImageError
from distcls.data.loading.transfer import copied_ahead, move, to_device
from distcls.data.split import Split
from distcls.errors import OutOfMemoryError

T = TypeVar("T")

SECONDS_BEFORE_RETRY = 0.5
"""By then, a network file system has often recovered from a hiccup."""

SHARE_OF_FREE_MEMORY = 0.25
"""The share of a GPU's free memory that decoded images may take. The rest is for the model, whose needs are unknown."""


class Request(NamedTuple):
    """Images to load: their indices in the split and their positions in the endless stream (plan/batches.py)."""

    indices: np.ndarray
    positions: np.ndarray
    crops: np.ndarray | None = None
    """Random numbers for the crop of each image while it is read, (n, NUM_DRAWS); None: no crop."""

    def pieces(self, size: int) -> Iterator[Request]:
        """Yield the request in pieces of `size` images; the last may be short."""
        for i in range(0, len(self.indices), size):
            part = slice(i, i + size)
            crops = None if self.crops is None else self.crops[part]
            yield Request(self.indices[part], self.positions[part], crops)


class Loaded(NamedTuple):
    """n images: their pixels, labels and rows, and those that went bad, as in MicroBatch."""

    pixels: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor | None
    went_bad: dict[int, str]


def load_images(
    split: Split,
    requests: Iterator[Request],
    size: int,
    device: torch.device,
    workers: int,
    transforms: ImageTransforms | None = None,
) -> Iterator[Loaded]:
    """Return an iterator over the requested images, in pieces of `size`."""
    if is_in_memory(split, device) and transforms is None:
        loaded = _load_from_memory(split, _resident(split, device), requests, size, device)
        return copied_ahead(loaded, lambda images: [t for t in (images.labels, images.rows) if t is not None], device)
    pieces = (piece for request in requests for piece in request.pieces(size))
    in_threads = split.pixels is not None and transforms is None and workers > 0
    load = _load_in_threads if in_threads else _load_in_processes
    loaded = load(_BatchReader(split, transforms), pieces, device, workers)
    return copied_ahead(loaded, lambda images: [images.pixels, images.labels], device)


def is_in_memory(split: Split, device: torch.device) -> bool:
    """True if all pixels of a split are kept in the memory of the training device; on a GPU, if they leave room."""
    if split.pixels is None or not split.in_memory:
        return False
    if split.pixels.ndim == 2:  # features, which nothing else could read
        return True
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return _place(split.pixels, device) in _copies or split.pixels.nbytes <= SHARE_OF_FREE_MEMORY * free
    # Before torch 2.14, MPS silently gathers zeros from more than 2^31 numbers (pytorch/pytorch#188756).
    return device.type != "mps" or split.pixels.size < 2**31


def _load_from_memory(
    split: Split, pixels: torch.Tensor, requests: Iterator[Request], size: int, device: torch.device
) -> Iterator[Loaded]:
    for request in requests:
        here = {"rows": split.rows[request.indices], "labels": split.labels[request.indices]}
        there = to_device({name: torch.from_numpy(table) for name, table in here.items()}, device)
        for labels, rows in zip(chunks(there["labels"], size), chunks(there["rows"], size), strict=True):
            yield Loaded(pixels, labels, rows, {})


def chunks(table: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Split a table into parts of `size` rows; an empty table is one part."""
    return table.split(size) if len(table) else (table,)


def _resident(split: Split, device: torch.device) -> torch.Tensor:
    """Return the uint8 pixels on the training device: the shared file on a CPU, a copy on a GPU, made once."""
    assert split.pixels is not None
    if device.type == "cpu":
        return torch.from_numpy(split.pixels)
    place = _place(split.pixels, device)
    if place not in _copies:
        try:
            _copies[place] = torch.from_numpy(split.pixels).to(device)
            weakref.finalize(split.pixels, _copies.pop, place, None)  # drop both together, since ids are reused
        except torch.OutOfMemoryError as error:
            size = split.pixels.nbytes / 1e9
            raise OutOfMemoryError(
                f"the decoded images, {size:.1f} GB, do not fit on {device}. Keep them on disk, which does not change "
                "the results: data.cache=0, with data.disk_cache='200 GB' if the disk has room."
            ) from error
    return _copies[place]


def resident_bytes(device: torch.device) -> int:
    """Return how many bytes of a GPU's memory decoded images take."""
    return sum(copy.nbytes for (_, where), copy in _copies.items() if where == device)


def _place(pixels: np.ndarray, device: torch.device) -> tuple[int, torch.device]:
    return id(pixels), device


_copies: dict[tuple[int, torch.device], torch.Tensor] = {}


def _load_in_processes(
    reader: _BatchReader, requests: Iterable[Request], device: torch.device, workers: int
) -> Iterator[Loaded]:
    for loaded in in_workers(reader, requests, device, workers):
        yield Loaded(move(loaded.pixels, device), move(loaded.labels, device), None, loaded.went_bad)


def in_workers(reader: Dataset, requests: Iterable[Any], device: torch.device, workers: int) -> DataLoader:
    """Return a loader that yields reader[request] for each request, in order, from worker processes.

    Each worker is two requests ahead. With 0 workers, this process reads.
    """
    return DataLoader(
        reader,
        sampler=requests,  # type: ignore[arg-type]  # any iterable of what the dataset takes
        batch_size=None,
        collate_fn=_as_it_is,  # the default would turn whatever else a batch carries into tensors
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # otherwise each start of the loader would draw from the global one
    )


def _as_it_is(batch: T) -> T:
    return batch


def _load_in_threads(
    reader: _BatchReader, requests: Iterator[Request], device: torch.device, workers: int
) -> Iterator[Loaded]:
    """Load images that are decoded on disk: threads suffice, as there is nothing to decode, and need no pickling."""
    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(reader.__getitem__, request) for request in itertools.islice(requests, 2 * workers))
        while coming:
            loaded = coming.popleft().result()
            coming.extend(pool.submit(reader.__getitem__, request) for request in itertools.islice(requests, 1))
            pixels, labels = loaded.pixels, loaded.labels
            if device.type == "cuda":
                pixels, labels = pixels.pin_memory(), labels.pin_memory()
            yield Loaded(move(pixels, device), move(labels, device), None, loaded.went_bad)


class _BatchReader(Dataset):
    """Reads, crops and transforms the images of a micro-batch: a pure function of the request and the files."""

    def __init__(self, split: Split, transforms: ImageTransforms | None) -> None:
        self.split, self.transforms = split, transforms

    def __getitem__(self, request: Request) -> Loaded:
        random_crop, decoding = self.split.random_crop, self.split.decoding
        sees = decoding if random_crop is None or request.crops is None else random_crop
        pixels = torch.zeros(len(request.indices), *sees.shape, dtype=torch.uint8)
        went_bad = {}
        for place in range(len(pixels)):
            try:
                pixels[place] = self._read_patiently(request, place)
            except (BadImageError, OSError) as error:
                went_bad[place] = f"{self.split.image_name(int(request.indices[place]))}: {error}"
        if self.transforms is not None:
            pixels = torch.from_numpy(np.stack(self.transforms(pixels.numpy(), request.positions)))
        return Loaded(pixels, torch.from_numpy(self.split.labels[request.indices]), None, went_bad)

    def _read_patiently(self, request: Request, place: int) -> torch.Tensor:
        try:
            return self._read(request, place)
        except (BadImageError, OSError):
            time.sleep(SECONDS_BEFORE_RETRY)
            return self._read(request, place)

    def _read(self, request: Request, place: int) -> torch.Tensor:
        """Return uint8 (S, S, 3)."""
        index, split = int(request.indices[place]), self.split
        if split.random_crop is None or request.crops is None:
            return torch.from_numpy(split.image(index))
        draws, size = request.crops[place], split.random_crop.shape[0]
        if split.decoding.keeps_pixels:
            return resize(
                torch.from_numpy(split.random_part(index, draws))[None], size, split.random_crop.interpolation
            )[0]
        box = torch.from_numpy(split.random_crop.boxes(draws[None], split.decoding))
        return crop_and_resize(torch.from_numpy(split.image(index))[None], box, size, split.random_crop.interpolation)[
            0
        ]


def _start_worker(worker: int) -> None:
    signals.obey_parent_only()
