"""Finds the largest micro-batch that fits, and the fastest, by training a few steps with each size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distcls.benchmark.timing import Limits, Speed, measure, with_given
from distcls.cluster.machine import memory_size
from distcls.config.loading import world_size
from distcls.config.settings import Config
from distcls.errors import OutOfMemoryError

SMALLEST = 8
LIMITS = Limits(warmup=2, steps=5, seconds=5.0)
SLOWEST = 30.0
"""Seconds per step: larger batches are not tried after one that is slower."""

MOST_MEMORY = 0.8
"""Share of a machine's memory that a CPU run may take: its system kills whoever takes all of it, without an error."""


@dataclass(frozen=True)
class Tried:
    """One micro-batch size."""

    size: int
    images_per_second: float | None
    """None if it does not fit."""
    peak_bytes: int | None
    """Of GPU memory, or the whole process."""
    why: str = ""
    """Why it was not measured."""

    @property
    def fits(self) -> bool:
        """True if steps of this size were measured."""
        return self.images_per_second is not None


def try_batch_sizes(config: Config, tell: Callable[[Tried], None]) -> list[Tried]:
    """Return what was tried: 8, 16, 32 … until one does not fit, then one between it and the last that did.

    tell: called with each as soon as it is known. Sizes end where a step of all processes would take more than all
    training images. Raises what training with the smallest raises.
    """
    tried: list[Tried] = []
    size, speed = SMALLEST, None

    def note(found: Tried) -> None:
        tried.append(found)
        tell(found)

    while speed is None or size * world_size() <= speed.num_images:
        problem = _would_not_fit(tried, size) if speed is not None and speed.device == "cpu" else ""
        if problem:
            note(Tried(size, None, None, problem))
            return tried
        last, speed = speed, _try(config, size)
        note(_found(size, speed))
        if speed is None:
            if last is not None:
                between = size * 3 // 4
                note(_found(between, _try(config, between)))
            return tried
        if speed.seconds_per_step > SLOWEST:
            return tried
        size *= 2
    return tried


def _try(config: Config, size: int) -> Speed | None:
    """Return the speed with micro-batches of this size; None if they do not fit."""
    sizes = {"train.micro_batch_size": size, "train.global_batch_size": size * world_size()}
    if torch.cuda.is_initialized():  # there is a peak, of the size before
        torch.cuda.reset_peak_memory_stats()
    try:
        return measure(with_given(config, sizes), LIMITS)
    except OutOfMemoryError:
        gc.collect()
        torch.cuda.empty_cache()
        return None


def _found(size: int, speed: Speed | None) -> Tried:
    return Tried(size, None, None) if speed is None else Tried(size, speed.images_per_second, speed.peak_bytes)


def _would_not_fit(tried: list[Tried], size: int) -> str:
    """Return why a size must not be tried on a CPU, from how memory grew so far; nothing if it may be."""
    if len(tried) < 2:
        return ""
    (before, less), (last, more) = ((one.size, one.peak_bytes or 0) for one in tried[-2:])
    expected = more + (more - less) / (last - before) * (size - last)
    total = memory_size()[1]
    if expected < MOST_MEMORY * total:
        return ""
    return f"would take about {expected / 2**30:,.1f} of {total / 2**30:,.1f} GiB"
