"""From a split and a plan to batches on the device: of images in memory, or read from files by worker processes.

What lies decoded on disk is read by threads. All paths give the same pixels for the same plan, whatever the number
or speed of workers. On a CPU, the workers that read images also cut random parts out of them; a GPU does that
itself, for a whole batch (resampling.py). Transforms of single images are always done by worker processes.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from distcls import signals
from distcls.batches import BatchPlan
from distcls.config import AugmentConfig
from distcls.data import BadImageError, Split
from distcls.data.augmentation import draw_crops, draw_numbers
from distcls.data.image_transforms import ImageTransforms, build_transforms
from distcls.data.micro_batch import MicroBatch, Numbers, taken
from distcls.data.resampling import crop_and_resize, resize
from distcls.errors import BadDataError

STEPS_DRAWN_AHEAD = 8
SECONDS_BEFORE_RETRY = 0.5
"""A network file system that stumbles is often back by then."""


class Request(NamedTuple):
    """Images to load: their indices in the split, and where they stand in its endless stream."""

    indices: np.ndarray
    positions: np.ndarray
    crops: np.ndarray | None = None
    """The numbers that say which part of each is cut out while it is read, (n, NUM_DRAWS); None: the whole."""

    def pieces(self, size: int) -> Iterator[Request]:
        """The same in parts of `size` images; the last may be short."""
        for i in range(0, len(self.indices), size):
            part = slice(i, i + size)
            crops = None if self.crops is None else self.crops[part]
            yield Request(self.indices[part], self.positions[part], crops)


class Loaded(NamedTuple):
    """n images: their pixels, labels and rows, and what could not be read, as in MicroBatch."""

    pixels: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor | None
    went_bad: dict[int, str]


def train_batches(
    split: Split, plan: BatchPlan, augment: AugmentConfig, device: torch.device, workers: int, start: int
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches, step after step, from step `start` to the last.

    Raises UsageError at once, not at the first batch, where augment.transforms cannot be applied.
    """
    transforms = build_transforms(augment.transforms, plan.seed, (split.random_crop or split.decoding).shape[0])
    crops_on_device = _crops_on_device(split, transforms, device)
    crops_while_reading = split.random_crop is not None and not crops_on_device
    steps = range(start, plan.total_steps)
    requests = (_request(plan, step, crops_while_reading) for step in steps)
    loaded = _load(split, requests, plan.micro_batch_size, device, workers, transforms)
    # Drawn for some steps at a time: in between, training cools the caches, and the same takes thrice as long.
    blocks = (steps[i : i + STEPS_DRAWN_AHEAD] for i in range(0, len(steps), STEPS_DRAWN_AHEAD))
    drawn = (
        numbers for block in blocks for numbers in [_draw(split, augment, plan, i, crops_on_device) for i in block]
    )
    return (_with_numbers(loaded, plan, numbers, device) for numbers in drawn)


def _crops_on_device(split: Split, transforms: ImageTransforms | None, device: torch.device) -> bool:
    """Where all images have one size, a GPU crops; a CPU has better things to do, unless it holds them all.

    Transforms of single images come after the crop, in workers.
    """
    if split.random_crop is None or split.decoding == split.random_crop or transforms is not None:
        return False
    return device.type != "cpu" or _is_in_memory(split, device)


def _request(plan: BatchPlan, step: int, with_crops: bool) -> Request:
    crops = draw_crops(plan, step)[plan.rows] if with_crops else None
    return Request(plan.global_batch(step)[plan.rows], plan.positions(step)[plan.rows], crops)


def _draw(split: Split, augment: AugmentConfig, plan: BatchPlan, step: int, crops_on_device: bool) -> Numbers:
    numbers = draw_numbers(augment, plan, step)
    if split.random_crop is not None and crops_on_device:
        numbers["box"] = torch.from_numpy(split.random_crop.boxes(draw_crops(plan, step), split.decoding))
    return numbers


def _with_numbers(loaded: Iterator[Loaded], plan: BatchPlan, drawn: Numbers, device: torch.device) -> list[MicroBatch]:
    """This rank's micro-batches of one step, from the next images that were loaded and the step's numbers."""
    numbers = {name: table[plan.rows].to(device) for name, table in drawn.items()}
    chunks = zip(*[_chunks(numbers[name], plan.micro_batch_size) for name in numbers], strict=True)
    parts = [dict(zip(numbers, chunk, strict=True)) for chunk in chunks] or [{}] * plan.grad_accum_steps
    images = itertools.islice(loaded, plan.grad_accum_steps)
    return [
        MicroBatch(index, pixels, labels, part, rows, went_bad)
        for index, (pixels, labels, rows, went_bad), part in zip(plan.micro_batches, images, parts, strict=True)
    ]


def eval_batches(
    split: Split, batch_size: int, device: torch.device, workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Batches rank, rank + W, rank + 2W … of the split in order: (index, pixels, labels). The last is short.

    Raises BadDataError where an image cannot be read: none is left out or replaced.
    """
    indices = range(rank, -(-len(split) // batch_size), world_size)
    in_order = (np.arange(i * batch_size, min((i + 1) * batch_size, len(split))) for i in indices)
    requests = (Request(batch, batch) for batch in in_order)
    loaded = _load(split, requests, batch_size, device, workers)
    for index, (pixels, labels, rows, went_bad) in zip(indices, loaded, strict=True):
        if went_bad:
            raise BadDataError(
                f"an image of the {split.name} split cannot be read any more: {next(iter(went_bad.values()))}.\n"
                "An evaluation leaves none out. Repair the file, or remove it and begin another run with --name NAME."
            )
        yield index, taken(pixels, rows), labels


def _is_in_memory(split: Split, device: torch.device) -> bool:
    if split.pixels is None or not split.in_memory:
        return False
    # Of more than 2^31 numbers, MPS gathers zeros, silently, before torch 2.14 (pytorch/pytorch#188756).
    return device.type != "mps" or split.pixels.size < 2**31


def _load(
    split: Split,
    requests: Iterator[Request],
    size: int,
    device: torch.device,
    workers: int,
    transforms: ImageTransforms | None = None,
) -> Iterator[Loaded]:
    """Pixels and labels of what is asked for, in pieces of `size` images."""
    if _is_in_memory(split, device) and transforms is None:
        return _load_from_memory(split, requests, size, device)
    pieces = (piece for request in requests for piece in request.pieces(size))
    in_threads = split.pixels is not None and transforms is None and workers > 0
    load = _load_in_threads if in_threads else _load_in_processes
    loaded = load(_BatchReader(split, transforms), pieces, device, workers)
    return _copied_ahead(loaded, device) if device.type == "cuda" else loaded


def _load_from_memory(split: Split, requests: Iterator[Request], size: int, device: torch.device) -> Iterator[Loaded]:
    pixels, all_labels = _resident(split, device), torch.from_numpy(split.labels)
    for request in requests:
        rows = _to(torch.from_numpy(split.rows[request.indices]), device)
        labels = _to(all_labels[torch.from_numpy(request.indices)], device)
        for their_labels, their_rows in zip(_chunks(labels, size), _chunks(rows, size), strict=True):
            yield Loaded(pixels, their_labels, their_rows, {})


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without waiting where that is safe: MPS would read from memory that is free again (pytorch/pytorch#189690)."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def _chunks(table: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    return table.split(size) if len(table) else (table,)


def _resident(split: Split, device: torch.device) -> torch.Tensor:
    """The uint8 pixels where the training happens: the shared file on a CPU, a copy on a GPU, made once."""
    assert split.pixels is not None
    if device.type == "cpu":
        return torch.from_numpy(split.pixels)
    place = (id(split.pixels), device)
    if place not in _copies:
        _copies[place] = torch.from_numpy(split.pixels).to(device)
    return _copies[place]


_copies: dict[tuple[int, torch.device], torch.Tensor] = {}


def _load_in_processes(
    reader: _BatchReader, requests: Iterable[Request], device: torch.device, workers: int
) -> Iterator[Loaded]:
    loader = DataLoader(
        reader,
        sampler=requests,  # type: ignore[arg-type]  # any iterable of what the dataset takes
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else each start of the loader would draw from the global one
    )
    for loaded in loader:
        yield Loaded(_to(loaded.pixels, device), _to(loaded.labels, device), None, loaded.went_bad)


def _load_in_threads(
    reader: _BatchReader, requests: Iterator[Request], device: torch.device, workers: int
) -> Iterator[Loaded]:
    """For images that lie decoded on disk: with nothing to decode, threads are enough, and nothing has to be sent."""
    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(reader.__getitem__, request) for request in itertools.islice(requests, 2 * workers))
        while coming:
            loaded = coming.popleft().result()
            coming.extend(pool.submit(reader.__getitem__, request) for request in itertools.islice(requests, 1))
            pixels, labels = loaded.pixels, loaded.labels
            if device.type == "cuda":
                pixels, labels = pixels.pin_memory(), labels.pin_memory()
            yield Loaded(_to(pixels, device), _to(labels, device), None, loaded.went_bad)


def _copied_ahead(loaded: Iterator[Loaded], device: torch.device) -> Iterator[Loaded]:
    """Asks for each batch before the one ahead of it is used, so that it travels to the GPU while that computes."""
    ahead = torch.cuda.Stream(device)
    waiting: Loaded | None = None
    while True:
        with torch.cuda.stream(ahead):
            coming = next(loaded, None)
        if waiting is not None:
            yield waiting
        if coming is None:
            return
        now = torch.cuda.current_stream(device)
        now.wait_stream(ahead)
        coming.pixels.record_stream(now)
        coming.labels.record_stream(now)
        waiting = coming


class _BatchReader(Dataset):
    """Reads, cuts and transforms the images of a micro-batch; a pure function of the request, and of the files."""

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
        """uint8 (S, S, 3)."""
        index, split = int(request.indices[place]), self.split
        if split.random_crop is None or request.crops is None:
            return torch.from_numpy(split.image(index))
        draws, size = request.crops[place], split.random_crop.shape[0]
        if split.decoding == split.random_crop:
            return resize(torch.from_numpy(split.random_part(index, draws))[None], size)[0]
        box = torch.from_numpy(split.random_crop.boxes(draws[None], split.decoding))
        return crop_and_resize(torch.from_numpy(split.image(index))[None], box, size)[0]


def _start_worker(worker: int) -> None:
    signals.obey_parent_only()
