"""Cuts a global batch into micro-batches, and says how many processes can share them.

The micro-batch size is part of the run, since BatchNorm, dropout and mixup see one micro-batch at a time. Its default
is fixed when a run first starts, and stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from distcls.config.settings import TrainConfig
from distcls.config.wording import count, either

Problem = tuple[str, str]
"""The setting to look at first, and the message."""

MOST_PARTS = 8
SMALLEST_PART = 16
"""train.deterministic cuts a batch into 8 micro-batches by default, or fewer of at least 16 images."""


def default_micro_batch_size(train: TrainConfig, world_size: int) -> int:
    """Return the default micro-batch size: B / processes, so that each process computes its share in one pass.

    Deterministic runs promise the same bits on any number of processes, so theirs depends on B alone: B/8, but at
    least 16 images if B allows, with a power of two as the number of micro-batches.
    """
    batch = train.global_batch_size
    if not train.deterministic:
        return batch // world_size
    parts = MOST_PARTS
    while parts > 1 and (batch % parts or batch // parts < SMALLEST_PART):
        parts //= 2
    return batch // parts


def micro_batch_size_of(train: TrainConfig, world_size: int) -> int:
    """Return the micro-batch size, or its default for this many processes."""
    return train.micro_batch_size or default_micro_batch_size(train, world_size)


def fitting_world_sizes(train: TrainConfig, micro_batch_size: int) -> list[int]:
    """Return the numbers of processes that can share a run's batches, smallest first."""
    parts = train.global_batch_size // micro_batch_size
    numbers = divisors(parts)
    return [number for number in numbers if number & (number - 1) == 0] if train.deterministic else numbers


def wrong_batches(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    """Yield the reasons why a global batch cannot be cut equally for this many processes, or summed in one order.

    A default micro-batch size is not checked, since it may have been fixed when the run first started.
    """
    yield from _wrong_cut(train, world_size)
    yield from _wrong_determinism(train, world_size)


def wrong_default(train: TrainConfig, world_size: int) -> str | None:
    """Return the message if this many processes cannot share the default micro-batches of a new run, else None."""
    if not train.deterministic:
        return None
    micro = default_micro_batch_size(train, world_size)
    fitting = fitting_world_sizes(train, micro)
    if world_size in fitting:
        return None
    batch, parts = train.global_batch_size, count(train.global_batch_size // micro, "micro-batch")
    return (
        f"train.deterministic cuts a batch of {batch} into {parts} of {count(micro, 'image')} by default, which "
        f"{world_size} processes cannot share: start {either(fitting)}, or set "
        f"train.micro_batch_size={batch // world_size}, which then applies on any number of processes"
    )


def _wrong_cut(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    batch, micro = train.global_batch_size, train.micro_batch_size
    if batch % ((micro or 1) * world_size) == 0:
        return
    parts = f"micro-batches of train.micro_batch_size={micro}" if micro else "equal parts"
    processes = f" for {world_size} processes (WORLD_SIZE)" if world_size > 1 else ""
    ways = "; ".join(_ways_that_fit(batch, micro, world_size))
    yield (
        "train.micro_batch_size" if micro else "train.global_batch_size",
        f"train.global_batch_size={batch} cannot be cut into {parts}{processes}: try {ways}",
    )


def _ways_that_fit(batch: int, micro: int | None, world_size: int) -> Iterator[str]:
    """Yield the nearest micro-batch sizes, batch sizes and numbers of processes that would work."""
    if micro and batch % world_size == 0:
        yield f"train.micro_batch_size={either(_nearest_divisors(batch // world_size, micro))}"
    unit = (micro or 1) * world_size
    sizes = [size for size in (batch // unit * unit, (batch // unit + 1) * unit) if size]
    yield f"train.global_batch_size={either(sizes)}"
    if world_size > 1 and batch % (micro or 1) == 0:
        yield f"{either(_nearest_divisors(batch // (micro or 1), world_size))} processes"


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, smallest first."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return small + [number // divisor for divisor in reversed(small) if divisor * divisor != number]


def _nearest_divisors(number: int, target: int) -> list[int]:
    smaller = [divisor for divisor in divisors(number) if divisor < target]
    larger = [divisor for divisor in divisors(number) if divisor > target]
    return smaller[-1:] + larger[:1]


def _wrong_determinism(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    if not train.deterministic:
        return
    if train.sync_batchnorm:
        yield (
            "train.sync_batchnorm",
            "train.sync_batchnorm depends on the number of processes, which train.deterministic rules out: "
            "set one of them to false",
        )
    if world_size & (world_size - 1):
        micro = micro_batch_size_of(train, world_size)
        yield (
            "train.deterministic",
            f"train.deterministic needs a power of two as the number of processes, but WORLD_SIZE is {world_size}: "
            f"start {either(fitting_world_sizes(train, micro))}, or set train.deterministic=false",
        )
