"""From a split and a plan to batches on the device: in memory by one gather, else by worker processes.

Both paths give the same pixels for the same plan, whatever the number or speed of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from distcls import signals
from distcls.batches import BatchPlan
from distcls.config import AugmentConfig
from distcls.data import Split
from distcls.data.augmentation import Numbers, draw_numbers
from distcls.data.image_transforms import ImageTransforms, build_transforms


@dataclass
class MicroBatch:
    """The images of one forward pass: uint8 (m, H, W, 3), labels (m,) and the rows of the number table."""

    index: int  # among the micro-batches of the global batch
    pixels: torch.Tensor
    labels: torch.Tensor
    numbers: Numbers


class Request(NamedTuple):
    """Images to load: their indices in the split, and where they stand in its endless stream."""

    indices: np.ndarray
    positions: np.ndarray

    def pieces(self, size: int) -> Iterator[Request]:
        """The request cut into requests of `size` images, the last one maybe short."""
        return (Request(*(part[i : i + size] for part in self)) for i in range(0, len(self.indices), size))


def train_batches(
    split: Split, plan: BatchPlan, augment: AugmentConfig, device: torch.device, workers: int, start: int
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches, step after step, from step `start` to the last.

    Raises UsageError at once, not at the first batch, where augment.transforms cannot be applied.
    """
    transforms = build_transforms(augment.transforms, plan.seed, split.decoding.shape[0])
    steps = range(start, plan.total_steps)
    shares = (Request(plan.global_batch(step)[plan.rows], plan.positions(step)[plan.rows]) for step in steps)
    loaded = _load(split, shares, plan.micro_batch_size, device, workers, transforms)
    return (_with_numbers(loaded, plan, draw_numbers(augment, plan, step), device) for step in steps)


def _with_numbers(
    loaded: Iterator[tuple[torch.Tensor, torch.Tensor]], plan: BatchPlan, drawn: Numbers, device: torch.device
) -> list[MicroBatch]:
    """This rank's micro-batches of one step, from the next images that were loaded and the step's numbers."""
    numbers = {name: table[plan.rows].to(device) for name, table in drawn.items()}
    chunks = zip(*[_chunks(numbers[name], plan.micro_batch_size) for name in numbers], strict=True)
    rows = [dict(zip(numbers, chunk, strict=True)) for chunk in chunks] or [{}] * plan.grad_accum_steps
    images = itertools.islice(loaded, plan.grad_accum_steps)
    return [
        MicroBatch(index, pixels, labels, row)
        for index, (pixels, labels), row in zip(plan.micro_batches, images, rows, strict=True)
    ]


def eval_batches(
    split: Split, batch_size: int, device: torch.device, workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Batches rank, rank + W, rank + 2W … of the split in order: (index, pixels, labels). The last is short."""
    indices = range(rank, -(-len(split) // batch_size), world_size)
    in_order = (np.arange(i * batch_size, min((i + 1) * batch_size, len(split))) for i in indices)
    batches = (Request(batch, batch) for batch in in_order)
    for index, (pixels, labels) in zip(indices, _load(split, batches, batch_size, device, workers), strict=True):
        yield index, pixels, labels


def _load(
    split: Split,
    batches: Iterator[Request],
    size: int,
    device: torch.device,
    workers: int,
    transforms: ImageTransforms | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pixels and labels of each request, in pieces of `size` images."""
    if split.pixels is not None and transforms is None:
        return _load_from_memory(split, (batch.indices for batch in batches), size, device)
    pieces = (piece for batch in batches for piece in batch.pieces(size))
    return _load_in_workers(_BatchReader(split, transforms), pieces, device, workers)


def _load_from_memory(
    split: Split, batches: Iterator[np.ndarray], size: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pixels, all_labels = _resident(split, device), torch.from_numpy(split.labels)
    for batch in batches:
        rows = torch.from_numpy(split.rows[batch]).to(device, non_blocking=True)
        labels = all_labels[torch.from_numpy(batch)].to(device, non_blocking=True)
        yield from zip(_chunks(pixels.index_select(0, rows), size), _chunks(labels, size), strict=True)


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


def _load_in_workers(
    reader: _BatchReader, batches: Iterator[Request], device: torch.device, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = DataLoader(
        reader,
        sampler=batches,  # type: ignore[arg-type]  # any iterable of what the dataset takes
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else each start of the loader would draw from the global one
    )
    for pixels, labels in loader:
        yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class _BatchReader(Dataset):
    """Decodes and transforms the images of a micro-batch; a pure function of the request."""

    def __init__(self, split: Split, transforms: ImageTransforms | None) -> None:
        self.split, self.transforms = split, transforms

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        images = [self.split.image(i) for i in request.indices]
        if self.transforms is not None:
            images = self.transforms(images, request.positions)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(self.split.labels[request.indices])


def _start_worker(worker: int) -> None:
    signals.ignore()
