"""Measures the training loop itself: an objective around the usual one sees when steps begin, and ends the run.

There is no second loop that could differ from the one that users run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distcls.benchmark.matrix_rate import matrix_rate
from distcls.benchmark.profile import StepProfiler
from distcls.cluster.processes import group_closed
from distcls.config.loading import world_size
from distcls.config.settings import Config, ObjectiveConfig
from distcls.data.loading.micro_batch import MicroBatch
from distcls.errors import Preempted
from distcls.inference.latency import wait_for_device
from distcls.models.layers import count_flops, without_numbers
from distcls.training.loop import train
from distcls.training.objectives.build import OBJECTIVES, build_objective
from distcls.training.objectives.objective import Network, Objective, Task, Terms
from distcls.training.watch import peak_memory

LONG = 10**6
"""Steps of a run that is measured; it is ended long before."""

WHOLE_STEPS: dict[str, Any] = {"train.num_epochs": None, "train.skip_steps": [], "model.freeze_until": "0 steps"}
"""Settings for a run of so many steps (`train.num_steps`), each of which trains the whole network."""

FOR_LATER = "measured"
"""The name under which a user's own objective is listed while it is measured."""


@dataclass(frozen=True)
class Speed:
    """The speed of a run's steps on all its processes together, and what a step is."""

    device: str
    world_size: int
    num_threads: int
    precision: str
    model: str
    image_size: int
    num_images: int
    """In the training set."""
    global_batch_size: int
    micro_batch_size: int
    num_steps: int
    """How many steps were timed."""
    seconds_per_step: float
    """The mean."""
    median_seconds: float
    peak_bytes: int
    """Of this process: GPU memory, or on a CPU its whole memory."""
    num_parameters: int
    flops: int
    """Of a forward pass, for one image (models/layers.py); 0 if they cannot be counted."""
    matrix_flops: float
    """What the device reaches in one large matrix product in this precision, per second."""
    profile: dict[str, float] | None = None
    """Seconds of each part of a step; see StepProfiler."""

    @property
    def images_per_second(self) -> float:
        """Return the images per second of all processes together."""
        return self.global_batch_size / self.seconds_per_step

    @property
    def share_of_matrix_rate(self) -> float:
        """Return the part of the matrix rate that a step reaches, from 0 to 1; a backward pass counts twice."""
        return 3 * self.flops * self.images_per_second / self.world_size / self.matrix_flops

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            **vars(self),
            "images_per_second": self.images_per_second,
            "share_of_matrix_rate": self.share_of_matrix_rate,
        }


@dataclass(frozen=True)
class Limits:
    """How long to measure."""

    warmup: int = 5
    """Steps before the clock starts: they choose kernels, get memory, and start loader workers."""
    steps: int = 50
    seconds: float = 20.0
    """Fewer steps are timed if they take longer than this. With several processes, the number of steps is fixed."""


class Measured(Objective):
    """An objective that times the steps which minimise another one; then it raises Preempted, which ends the run."""

    def __init__(self, task: Task, inner: Objective, limits: Limits, profiler: StepProfiler | None) -> None:
        super().__init__(task)
        self.inner, self.limits, self.profiler = inner, limits, profiler
        self.classifies = inner.classifies  # DDP is set up by it
        self.step, self.began = -1, 0
        self.times: list[float] = []
        """When each timed step began; the last entry is the end of the last one."""
        self.speed: Speed | None = None
        self.losses: list[list[torch.Tensor]] = []
        """Of each step, the mean loss () of each micro-batch of this process."""

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return those of the inner objective."""
        return self.inner.modules(network)

    def update(self, means: dict[str, torch.Tensor], step: int) -> None:
        """Update the inner objective."""
        self.inner.update(means, step)

    def __call__(self, network: Network, micro_batch: MicroBatch, step: int) -> Terms:
        """Return the inner objective's terms. Raises Preempted when everything is measured."""
        if step != self.step:
            self.step = step
            self._begin_step(network)
            self.losses.append([])
        terms = self.inner(network, micro_batch, step)
        self.losses[-1].append(terms.losses.detach().mean())
        return terms

    def _begin_step(self, network: Network) -> None:
        begun, self.began = self.began, self.began + 1
        if begun < self.limits.warmup:
            return
        if self.speed is None:
            is_first, is_last = begun == self.limits.warmup, self._is_enough(begun - self.limits.warmup)
            if is_first or is_last:
                wait_for_device(self.task.device)
            self.times.append(time.perf_counter())
            if not is_last:
                return
            self.speed = self._measured(network)
        if self.profiler is None or self.profiler.has_seen_step(self.task.device):
            raise Preempted("everything is measured")

    def _is_enough(self, num_timed: int) -> bool:
        if num_timed >= self.limits.steps:
            return True
        has_time = not self.times or time.perf_counter() - self.times[0] < self.limits.seconds
        return num_timed > 0 and not has_time and self.task.plan.world_size == 1

    def _measured(self, network: Network) -> Speed:
        task, plan, times = self.task, self.task.plan, self.times
        steps = [after - before for before, after in itertools.pairwise(times)]
        try:
            flops = count_flops(without_numbers(network.module), task.augment.image_size)
        except Exception:  # a network of one's own may do anything
            flops = 0
        precision = task.config.train.precision
        return Speed(
            device=torch.cuda.get_device_name(task.device) if task.device.type == "cuda" else task.device.type,
            world_size=plan.world_size,
            num_threads=torch.get_num_threads(),
            precision=precision,
            model=task.config.model.name,
            image_size=task.augment.image_size,
            num_images=len(task.images),
            global_batch_size=plan.global_batch_size,
            micro_batch_size=plan.micro_batch_size,
            num_steps=len(steps),
            seconds_per_step=(times[-1] - times[0]) / len(steps),
            median_seconds=statistics.median(steps),
            peak_bytes=peak_memory(task.device),
            num_parameters=sum(p.numel() for p in network.module.parameters()),
            flops=flops,
            matrix_flops=matrix_rate(task.device, precision),
        )


def measure(config: Config, limits: Limits, profiler: StepProfiler | None = None) -> Speed:
    """Return the speed of this config's steps. It trains for some steps in a temporary folder.

    Steps are those of the whole network: what model.freeze_until freezes at first is trained from the start. Raises
    what `train` raises.
    """
    speed = run_measured(with_given(config, {**WHOLE_STEPS, "train.num_steps": LONG}), limits, profiler).speed
    assert speed is not None
    return speed if profiler is None else dataclasses.replace(speed, profile=profiler.parts)


def with_given(config: Config, values: dict[str, Any]) -> Config:
    """Return the config with these settings, which then count as given: a preset leaves them alone."""
    return config.replaced(values).noting(config.given | set(values))


def run_measured(
    config: Config, limits: Limits, profiler: StepProfiler | None = None, expected: tuple[type[Exception], ...] = ()
) -> Measured:
    """Train with a measured objective, quietly, until everything is measured or an `expected` error is raised.

    Raises what `train` raises otherwise, such as Preempted if a signal stopped it.
    """
    made: list[Measured] = []

    own = config.objective.name not in OBJECTIVES
    build = partial(_build_own, config.objective.name) if own else OBJECTIVES[config.objective.name]

    def make(task: Task, **args: Any) -> Measured:
        made.append(Measured(task, build(task, **args), limits, profiler))
        return made[-1]

    with _run_folder() as folder:
        quiet = with_given(
            config,
            {
                "run.dir": str(folder),
                "run.trackers": [],
                "train.eval_every": f"{2 * LONG} steps",
                "train.checkpoint_every": f"{2 * LONG} steps",
                "train.early_stopping": None,
            },
        )
        with _listed(FOR_LATER if own else config.objective.name, make) as name:
            quiet = quiet.replaced({"objective.name": name})
            try:
                with contextlib.redirect_stdout(io.StringIO()), group_closed():
                    train(quiet, "benchmark")
            except (Preempted, *expected) as error:
                if isinstance(error, Preempted) and (not made or made[-1].speed is None):
                    raise Preempted("stopped before everything was measured.") from error
    return made[-1]


def _build_own(name: str, task: Task, **args: Any) -> Objective:
    return build_objective(ObjectiveConfig(name, args), task)


@contextlib.contextmanager
def _listed(name: str, make: Any) -> Iterator[str]:
    """List an objective under a name for a while, in the place of the built-in one of that name."""
    before = OBJECTIVES.get(name)
    OBJECTIVES[name] = make
    try:
        yield name
    finally:
        del OBJECTIVES[name]
        if before is not None:
            OBJECTIVES[name] = before


@contextlib.contextmanager
def _run_folder() -> Iterator[Path]:
    """Yield the folder for a run, which all its processes name alike, and remove it afterwards.

    Processes of one launcher have the same parent, and measure the same number of runs.
    """
    number = next(_numbers)
    with tempfile.TemporaryDirectory(prefix="distcls-benchmark-") as folder:
        if world_size() == 1:
            yield Path(folder) / "run"
            return
        name = f"distcls-benchmark-of-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}-{number}"
        shared = Path(tempfile.gettempdir()) / name
        try:
            yield shared
        finally:
            if os.environ.get("RANK") == "0":
                shutil.rmtree(shared, ignore_errors=True)


_numbers = itertools.count()
"""Of the runs that this process has measured."""
