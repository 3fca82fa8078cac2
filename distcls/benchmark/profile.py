"""Splits a step into its parts with torch's profiler, and writes a trace of it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from distcls.inference.latency import wait_for_device
from distcls.training.parts import PARTS

NUM_STEPS = 8


class StepProfiler:
    """Profiles NUM_STEPS steps; the profiler itself makes small operations slower.

    trace: where to write what Perfetto (ui.perfetto.dev) opens.
    """

    def __init__(self, trace: Path | None) -> None:
        self.trace = trace
        self.parts: dict[str, float] | None = None
        """Seconds of each of PARTS in a step; "other" is the rest. On a GPU, its time, and "idle" when it waits."""
        self._profiler: profile | None = None
        self._begun = 0
        self._start = 0.0

    def has_seen_step(self, device: torch.device) -> bool:
        """Begin, or note that a step begins; return True once all steps have been profiled."""
        if self._profiler is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
            self._profiler = profile(activities=activities)
            self._profiler.start()
            self._start = time.perf_counter()
            return False
        self._begun += 1
        if self._begun < NUM_STEPS:
            return False
        wait_for_device(device)
        seconds = (time.perf_counter() - self._start) / NUM_STEPS
        self._profiler.stop()
        self.parts = _split(self._profiler, seconds)
        if self.trace is not None:
            self._profiler.export_chrome_trace(str(self.trace))
        return True


def _split(profiler: profile, seconds: float) -> dict[str, float]:
    """Return the parts of a step that took so many seconds."""
    events = profiler.key_averages()
    busy = sum(event.self_device_time_total for event in events) / 1e6 / NUM_STEPS
    times = {event.key: event.device_time_total if busy else event.cpu_time_total for event in events}
    parts = {name: times[name] / 1e6 / NUM_STEPS for name in PARTS if name in times}
    if "augment" in parts:  # it is the first thing in a forward pass
        parts["forward"] -= parts["augment"]
    if busy:  # autograd launches its kernels from a thread of its own, outside of what is called "backward" here
        parts["backward"] = max(busy - sum(time for name, time in parts.items() if name != "backward"), 0.0)
    return {**parts, "idle" if busy else "other": max(seconds - sum(parts.values()), 0.0)}
