"""Measures how long a classifier takes for a batch of images on this machine."""

from __future__ import annotations

import statistics
import time

import torch

from distcls.inference.classifier import Classifier

BATCH_SIZES = [1, 32]
"""The batches that are measured for summaries and reports."""

SECONDS = 1.0
"""Time to measure one batch size for, after its first pass, if the caller gives no other."""

LONGEST = 3.0
"""Seconds. A batch that is expected to take longer is not measured."""


def measure_latency(
    classifier: Classifier, batch_sizes: list[int], seconds_each: float = SECONDS
) -> dict[int, float | None]:
    """Return the median seconds for a batch of each size, from uint8 images on the device to probabilities.

    batch_sizes: from small to large. seconds_each: time to measure each for. None for a batch that does not fit on the
    device, or that would take longer than LONGEST if its images took as long as those of a smaller one.
    """
    classifier.eval()
    found: dict[int, float | None] = {}
    per_image = 0.0
    for size in batch_sizes:
        found[size] = None
        if per_image * size > LONGEST:
            continue
        try:
            seconds = _measure(classifier, size, seconds_each)
        except torch.OutOfMemoryError:
            continue
        found[size], per_image = statistics.median(seconds), min(seconds) / size
    return found


def _measure(classifier: Classifier, batch_size: int, seconds_each: float) -> list[float]:
    """Return the seconds of each pass but the first, which prepares kernels; of that one if it takes very long."""
    side = classifier.decoding.image_size
    assert side is not None
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, generator=draw)
    images = images.to(classifier.device)
    first, seconds = _time_pass(classifier, images), []
    end = time.perf_counter() + seconds_each
    while first < LONGEST and (time.perf_counter() < end or not seconds):
        seconds.append(_time_pass(classifier, images))
    return seconds or [first]


def _time_pass(classifier: Classifier, images: torch.Tensor) -> float:
    """Return how many seconds pass until the results are there."""
    with torch.inference_mode():
        began = time.perf_counter()
        classifier(images)
        wait_for_device(images.device)
        return time.perf_counter() - began


def wait_for_device(device: torch.device) -> None:
    """Wait until the device has done all that it was given, which only measuring needs."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
