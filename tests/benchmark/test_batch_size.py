"""Which micro-batch sizes are tried, where memory ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from distcls.benchmark import batch_size
from distcls.benchmark.batch_size import try_batch_sizes
from distcls.config.settings import Config
from distcls.errors import OutOfMemoryError


def measure_with(
    monkeypatch, most: int, bytes_per_image: int, memory: int, seconds: float = 0.1, processes: int = 1
) -> list[int]:
    """The sizes that are measured or refused: more than `most` images do not fit."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    sizes = []

    def measure(config, limits):
        size = config.train.micro_batch_size
        sizes.append(size)
        assert config.train.global_batch_size == size * processes
        if size > most:
            raise OutOfMemoryError("too large")
        return SimpleNamespace(
            device="cpu",
            images_per_second=size,
            peak_bytes=10**9 + size * bytes_per_image,
            num_images=5000,
            seconds_per_step=seconds,
        )

    monkeypatch.setattr(batch_size, "measure", measure)
    monkeypatch.setattr(batch_size, "memory_size", lambda: (0, memory))
    return sizes


def test_between_the_last_that_fits_and_the_first_that_does_not_one_more_is_tried(monkeypatch):
    measure_with(monkeypatch, 50, 1, 10**12)
    tried = try_batch_sizes(Config(), lambda one: None)
    assert [(one.size, one.fits) for one in tried] == [(8, True), (16, True), (32, True), (64, False), (48, True)]


def test_where_nothing_fits_there_is_no_end(monkeypatch):
    sizes = measure_with(monkeypatch, 4, 1, 10**12)
    tried = try_batch_sizes(Config(), lambda one: None)
    assert [one.fits for one in tried] == [False] and sizes == [8]


def test_a_size_that_would_take_the_machines_memory_is_not_tried(monkeypatch):
    sizes = measure_with(monkeypatch, 10**6, 10**8, 10 * 10**9)
    told = []
    try_batch_sizes(Config(), told.append)
    assert sizes == [8, 16, 32, 64] and not told[-1].fits
    assert told[-1].size == 128 and told[-1].why == "would take about 12.9 of 9.3 GiB"


def test_each_process_takes_one_micro_batch_of_a_step(monkeypatch):
    sizes = measure_with(monkeypatch, 10**6, 1, 10**12, processes=30)
    try_batch_sizes(Config(), lambda one: None)
    assert sizes == [8, 16, 32, 64, 128], "256 on each process are more than 5,000 images"


def test_slow_steps_end_the_search(monkeypatch):
    sizes = measure_with(monkeypatch, 10**6, 1, 10**12, seconds=40.0)
    try_batch_sizes(Config(), lambda one: None)
    assert sizes == [8]


def test_every_result_is_told_at_once(monkeypatch):
    measure_with(monkeypatch, 50, 1, 10**12)
    told = []
    assert try_batch_sizes(Config(), told.append) == told


def test_the_peak_of_one_size_is_not_that_of_the_next(monkeypatch):
    sizes, resets = measure_with(monkeypatch, 50, 1, 10**12), []
    monkeypatch.setattr(batch_size.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(batch_size.torch.cuda, "reset_peak_memory_stats", lambda: resets.append(len(sizes)))
    try_batch_sizes(Config(), lambda one: None)
    assert sizes == [8, 16, 32, 64, 48] and resets == [0, 1, 2, 3, 4], "before each"


@pytest.mark.parametrize("sizes", [(8, 16)])
def test_other_errors_are_raised(monkeypatch, sizes):
    def measure(config, limits):
        raise ValueError("a bug")

    monkeypatch.setattr(batch_size, "measure", measure)
    with pytest.raises(ValueError, match="a bug"):
        try_batch_sizes(Config(), lambda one: None)
