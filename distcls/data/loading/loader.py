"""Turns a split and a plan into batches on the device, from images in memory or in files (reading.py).

Every path yields the same pixels for the same plan, whatever the number or speed of workers. On a CPU, the workers
that read images also crop them at random; a GPU crops a whole batch itself (resampling.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from distcls.config.settings import AugmentConfig
from distcls.config.wording import ANOTHER_RUN
from distcls.data.augmentation.batchwise import draw_crops, draw_numbers
from distcls.data.augmentation.image_transforms import ImageTransforms, build_transforms
from distcls.data.loading.micro_batch import MicroBatch, Numbers, taken
from distcls.data.loading.reading import Loaded, Request, chunks, is_in_memory, load_images
from distcls.data.loading.transfer import copied_ahead, to_device
from distcls.data.split import Split
from distcls.errors import BadDataError
from distcls.plan.batches import BatchPlan

STEPS_DRAWN_AHEAD = 8


def train_batches(
    split: Split, plan: BatchPlan, augment: AugmentConfig, device: torch.device, workers: int, start: int
) -> Iterator[list[MicroBatch]]:
    """Return an iterator over this rank's micro-batches, one list per step, from step `start` to the last.

    Raises UsageError at once, not at the first batch, if augment.transforms cannot be applied.
    """
    transforms = build_transforms(augment.transforms, plan.seed, (split.random_crop or split.decoding).shape[0])
    crops_on_device = _crops_on_device(split, transforms, device)
    crops_while_reading = split.random_crop is not None and not crops_on_device
    steps = range(start, plan.total_steps)
    requests = (_request(plan, step, crops_while_reading) for step in steps)
    loaded = load_images(split, requests, plan.micro_batch_size, device, workers, transforms)
    # Draw for several steps at a time: drawing step by step takes three times as long, as training cools the caches.
    blocks = (steps[i : i + STEPS_DRAWN_AHEAD] for i in range(0, len(steps), STEPS_DRAWN_AHEAD))
    drawn = (
        numbers for block in blocks for numbers in [_draw_step(split, augment, plan, i, crops_on_device) for i in block]
    )
    ours = (to_device({name: table[plan.rows] for name, table in numbers.items()}, device) for numbers in drawn)
    return (_with_numbers(loaded, plan, numbers) for numbers in copied_ahead(ours, dict.values, device))


def _crops_on_device(split: Split, transforms: ImageTransforms | None, device: torch.device) -> bool:
    """True if the device crops: it needs images of one size, and a CPU leaves it to workers unless it holds them all.

    Transforms of single images come after the crop, so workers must crop for them.
    """
    if split.random_crop is None or split.decoding.keeps_pixels or transforms is not None:
        return False
    return device.type != "cpu" or is_in_memory(split, device)


def _request(plan: BatchPlan, step: int, with_crops: bool) -> Request:
    crops = draw_crops(plan, step)[plan.rows] if with_crops else None
    return Request(plan.global_batch(step)[plan.rows], plan.positions(step)[plan.rows], crops)


def _draw_step(split: Split, augment: AugmentConfig, plan: BatchPlan, step: int, with_crops: bool) -> Numbers:
    """Return the random numbers of a step for the whole global batch; with_crops: also those of random crops."""
    numbers = draw_numbers(augment, plan, step)
    if split.random_crop is not None and with_crops:
        numbers["box"] = torch.from_numpy(split.random_crop.boxes(draw_crops(plan, step), split.decoding))
    return numbers


def _with_numbers(loaded: Iterator[Loaded], plan: BatchPlan, numbers: Numbers) -> list[MicroBatch]:
    """Return this rank's micro-batches of one step, from the next loaded images and the step's random numbers."""
    tables = zip(*[chunks(table, plan.micro_batch_size) for table in numbers.values()], strict=True)
    parts = [dict(zip(numbers, rows, strict=True)) for rows in tables] or [{}] * plan.grad_accum_steps
    images = itertools.islice(loaded, plan.grad_accum_steps)
    return [
        MicroBatch(index, pixels, labels, part, rows, went_bad)
        for index, (pixels, labels, rows, went_bad), part in zip(plan.micro_batches, images, parts, strict=True)
    ]


def eval_batches(
    split: Split, batch_size: int, device: torch.device, workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield batches rank, rank + W, rank + 2W … of the split, in order: (index, pixels, labels). The last may be short.

    Raises BadDataError if an image cannot be read: evaluation never skips or replaces one.
    """
    indices = range(rank, -(-len(split) // batch_size), world_size)
    in_order = (np.arange(i * batch_size, min((i + 1) * batch_size, len(split))) for i in indices)
    requests = (Request(batch, batch) for batch in in_order)
    loaded = load_images(split, requests, batch_size, device, workers)
    for index, (pixels, labels, rows, went_bad) in zip(indices, loaded, strict=True):
        if went_bad:
            raise BadDataError(
                f"an image of the {split.name} split can no longer be read: {next(iter(went_bad.values()))}.\n"
                f"Evaluation never skips images. Repair the file, or remove it and {ANOTHER_RUN}."
            )
        yield index, taken(pixels, rows), labels
