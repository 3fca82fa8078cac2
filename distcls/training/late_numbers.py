"""Reads a step's numbers one step late: the only place where training waits for the device.

A GPU works through a queue that Python fills. Reading a number right after queueing the step that computes it would
wait for the whole queue, and leave the GPU idle until Python has queued more. So the queue itself copies a step's
numbers into pinned memory, and they are read once the next step is queued behind them: that waits for one event,
which has usually passed. Events are also the clock, because Python's time says when a step was queued, not when it
was done. On a CPU nothing is queued, and the clock is Python's.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

Moment = float | torch.cuda.Event
"""A point in the device's work: seconds, or an event in the queue."""


class FinishedStep(NamedTuple):
    """A step that the device has finished."""

    step: int
    numbers: list[float]
    seconds: float
    """Since the previous step finished; after a pause, since this step's data was requested."""
    waiting: float
    """The part of these seconds that the device spent waiting for the step's data."""


class _Queued(NamedTuple):
    """A step whose numbers are still being copied."""

    step: int
    numbers: torch.Tensor
    start: Moment
    asked: Moment
    began: Moment
    done: Moment


class LateNumbers:
    """Call `ask` before waiting for a step's data, `begin` when it has arrived, and `put` once the step is queued."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.asked: Moment = 0.0
        self.began: Moment = 0.0
        self.last_done: Moment | None = None
        self.queued: _Queued | None = None

    def ask(self) -> None:
        """Note that the next step's data is requested."""
        self.asked = self._now()

    def begin(self) -> None:
        """Note that the data has arrived; everything queued from now on belongs to the step."""
        self.began = self._now()

    def put(self, step: int, numbers: torch.Tensor) -> FinishedStep | None:
        """Start copying the numbers (k,) of a queued step; return the step before it, if any."""
        if self.on_gpu:
            pinned = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = pinned.copy_(numbers, non_blocking=True)
        done = self._now()
        start = self.asked if self.last_done is None else self.last_done
        before, self.queued = self.queued, _Queued(step, numbers, start, self.asked, self.began, done)
        self.last_done = done
        return _read(before)

    def take(self) -> FinishedStep | None:
        """Wait for the last queued step and return it, unless already returned; what follows is not timed."""
        last, self.queued, self.last_done = self.queued, None, None
        return _read(last)

    def _now(self) -> Moment:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # sleeping leaves a core to the loader's workers
        event.record()
        return event


def _read(queued: _Queued | None) -> FinishedStep | None:
    if queued is None:
        return None
    if isinstance(queued.done, torch.cuda.Event):
        queued.done.synchronize()
    seconds, waiting = _between(queued.start, queued.done), _between(queued.asked, queued.began)
    return FinishedStep(queued.step, queued.numbers.tolist(), seconds, waiting)


def _between(first: Moment, second: Moment) -> float:
    """Return the seconds between two moments."""
    if isinstance(first, torch.cuda.Event):
        assert isinstance(second, torch.cuda.Event)
        return first.elapsed_time(second) / 1000
    assert isinstance(second, float)
    return second - first
