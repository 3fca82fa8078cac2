"""From a split and a plan to batches on the device: in memory by one gather, from disk by worker processes.

Both paths give the same pixels for the same plan, whatever the number or speed of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from distcls import signals
from distcls.batches import BatchPlan
from distcls.config import AugmentConfig
from distcls.data import Split
from distcls.data.augmentation import Numbers, draw_numbers


@dataclass
class MicroBatch:
    """The images of one forward pass: uint8 (m, H, W, 3), labels (m,) and the rows of the number table."""

    index: int  # among the micro-batches of the global batch
    pixels: torch.Tensor
    labels: torch.Tensor
    numbers: Numbers


def train_batches(
    split: Split, plan: BatchPlan, augment: AugmentConfig, device: torch.device, workers: int, start: int
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches, step after step, from step `start` to the last."""
    steps = range(start, plan.total_steps)
    shares = (plan.global_batch(step)[plan.rows] for step in steps)
    loaded = _load(split, shares, plan.micro_batch_size, device, workers)
    for step in steps:
        numbers = {name: table[plan.rows].to(device) for name, table in draw_numbers(augment, plan, step).items()}
        chunks = zip(*[_chunks(numbers[name], plan.micro_batch_size) for name in numbers], strict=True)
        rows = [dict(zip(numbers, chunk, strict=True)) for chunk in chunks] or [{}] * plan.grad_accum_steps
        yield [
            MicroBatch(index, pixels, labels, row)
            for index, (pixels, labels), row in zip(
                plan.micro_batches, itertools.islice(loaded, plan.grad_accum_steps), rows, strict=True
            )
        ]


def eval_batches(
    split: Split, batch_size: int, device: torch.device, workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Batches rank, rank + W, rank + 2W … of the split in order: (index, pixels, labels). The last is short."""
    indices = range(rank, -(-len(split) // batch_size), world_size)
    batches = (np.arange(i * batch_size, min((i + 1) * batch_size, len(split))) for i in indices)
    for index, (pixels, labels) in zip(indices, _load(split, batches, batch_size, device, workers), strict=True):
        yield index, pixels, labels


def _load(
    split: Split, batches: Iterator[np.ndarray], size: int, device: torch.device, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pixels and labels of each index array, in pieces of `size` images."""
    if split.pixels is not None:
        return _load_from_memory(split, batches, size, device)
    pieces = (batch[i : i + size] for batch in batches for i in range(0, len(batch), size))
    return _load_from_disk(split, pieces, device, workers)


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


def _load_from_disk(
    split: Split, batches: Iterator[np.ndarray], device: torch.device, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = DataLoader(
        _BatchReader(split),
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
    """Decodes the images of a micro-batch; a pure function of their indices."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.stack([self.split.image(i) for i in indices])
        return torch.from_numpy(images), torch.from_numpy(self.split.labels[indices])


def _start_worker(worker: int) -> None:
    signals.ignore()
