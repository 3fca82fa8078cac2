"""Splits a step into its parts with torch's profiler, and writes a trace of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from distcls.training.parts import PARTS

NUM_STEPS = 8


@dataclass(frozen=True)
class Profile:
    """How long each part of a step takes, in seconds. The profiler itself makes small operations slower."""

    parts: dict[str, float]
    """By name, those of PARTS; "other" is the rest of the step. On a GPU, its time, and "idle" is when it waits."""

    def as_json(self) -> dict[str, float]:
        """Return the seconds of each part."""
        return self.parts


class StepProfiler:
    """Profiles NUM_STEPS steps. Give `trace` to write what Perfetto (ui.perfetto.dev) opens."""

    def __init__(self, trace: Path | None) -> None:
        self.trace = trace
        self.profile: Profile | None = None
        self._profiler: profile | None = None
        self._begun = 0
        self._start = 0.0

    def has_seen_step(self) -> bool:
        """Begin, or note that a step begins; return True once all steps have been profiled."""
        on_gpu = torch.cuda.is_available()
        if self._profiler is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
            self._profiler = profile(activities=activities)
            self._profiler.start()
            self._start = time.perf_counter()
            return False
        self._begun += 1
        if self._begun < NUM_STEPS:
            return False
        if on_gpu:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - self._start) / NUM_STEPS
        self._profiler.stop()
        self.profile = _split(self._profiler, seconds)
        if self.trace is not None:
            self._profiler.export_chrome_trace(str(self.trace))
        return True


def _split(profiler: profile, seconds: float) -> Profile:
    """Return the parts of a step that took so many seconds."""
    events = profiler.key_averages()
    busy = sum(event.self_device_time_total for event in events) / 1e6 / NUM_STEPS
    times = {event.key: event.device_time_total if busy else event.cpu_time_total for event in events}
    parts = {name: times[name] / 1e6 / NUM_STEPS for name in PARTS if name in times}
    if "augment" in parts:  # it is the first thing in a forward pass
        parts["forward"] -= parts["augment"]
    if busy:  # autograd launches its kernels from a thread of its own, outside of what is called "backward" here
        parts["backward"] = max(busy - sum(time for name, time in parts.items() if name != "backward"), 0.0)
    return Profile({**parts, "idle" if busy else "other": max(seconds - sum(parts.values()), 0.0)})
