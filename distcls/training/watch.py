"""Watches training as it runs: one place for the check that numbers are finite, the log and the live line."""

from __future__ import annotations

import math
import resource
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import fmean

import torch

from distcls.config.durations import Duration, is_due, parse_duration, steps_at
from distcls.config.settings import Config
from distcls.data.inspection.report import too_many_bad
from distcls.data.loading.micro_batch import MicroBatch
from distcls.data.split import Split
from distcls.errors import BadDataError, DivergedError
from distcls.files.atomic import write_text
from distcls.inference.metrics import SplitMetrics
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan
from distcls.runs.folder import RunFolder
from distcls.training.late_numbers import FinishedStep, LateNumbers
from distcls.training.parts import part
from distcls.training.state import TrainState
from distcls.training.step import REPORTED_FIRST

WENT_BAD = "went_bad.txt"
"""File in the run folder that lists images that became unreadable during training: the run is not reproducible then."""


FEW_BAD = 5
"""So many images may become unreadable whatever their share is."""

NUM_SHOWN = 20
"""Number of steps over which the live line averages."""

SMALLEST_SCALE = 1e-4
"""The loss scale of fp16 starts at 65,536 and is halved at each overflow: below this, halving it cannot help."""


class Watch:
    """Sees each step's numbers one step late, so that training never waits for the GPU."""

    def __init__(self, config: Config, state: TrainState, plan: BatchPlan, images: Split, run: RunFolder) -> None:
        self.config, self.state, self.plan, self.images, self.run = config, state, plan, images, run
        self.late = LateNumbers(run.processes.device)
        self.log_every = _at_least_once_an_epoch(config.train.log_every, plan)
        self.is_mixed = bool(config.augment.mixup or config.augment.cutmix)
        """Accuracy on mixtures of two images means little, so it is left out."""
        self.last_steps: deque[tuple[float, float]] = deque(maxlen=NUM_SHOWN)
        self.seconds_per_step = self.data_share = math.nan
        self.steps_timed = 0
        self.names: Sequence[str] = ()
        self.bad_images: set[str] = set()
        """Those that went bad since this start, with the reasons."""
        run.progress.start(plan.total_steps, state.step)

    def wait_for(self, batches: Iterator[list[MicroBatch]]) -> list[MicroBatch]:
        """Return the next batch, and measure the time that training waits for it.

        Raises BadDataError once too many images have become unreadable.
        """
        self.late.ask()
        with part("data"):
            batch = next(batches)
        self.late.begin()
        for micro_batch in batch:
            for image in micro_batch.went_bad.values():
                self._went_bad(image)
        return batch

    def _went_bad(self, image: str) -> None:
        """Warn once that a file became unreadable, on whichever process, and record it in the run folder."""
        if image in self.bad_images:
            return
        self.bad_images.add(image)
        problem = too_many_bad(self.config.data, len(self.bad_images), len(self.images))
        if problem is not None and len(self.bad_images) > FEW_BAD:
            raise BadDataError(
                f"{problem}, although they were good when the run began. The last one is {image}. Everything up to the "
                "last checkpoint is kept. Perhaps a disk or a network folder is gone: once the images are back, run "
                "the same command to resume."
            )
        self.run.dir.mkdir(parents=True, exist_ok=True)  # it may not exist on another machine
        with (self.run.dir / WENT_BAD).open("a+", encoding="utf-8", errors="surrogateescape") as file:
            file.seek(0)
            if image + "\n" in file:
                return
            file.write(image + "\n")
        text = f"an image became unreadable during training and is ignored from now on: {image}"
        if self.run.processes.is_main:
            self.run.progress.warning(text)
        else:
            print(f"warning: {text}", file=sys.stderr)

    def saw(self, numbers: torch.Tensor | None, names: Sequence[str]) -> None:
        """Note a step's numbers and their names. Raises DivergedError if the step before it was not finite."""
        self.names = names
        self._look(self.late.take() if numbers is None else self.late.put(self.state.step - 1, numbers))
        self.run.at(self.state.step, "train")

    def catch_up(self, phase: str) -> None:
        """Check the last step too before another phase begins, so that nothing unchecked is saved or evaluated."""
        self._look(self.late.take())
        if phase == "save" and not self.state.is_finite():
            raise DivergedError(
                f"the weights after step {self.state.step} are not finite: the step was too large. Everything up to "
                "the last checkpoint is kept. Start another run with a lower optim.lr, or with train.max_grad_norm=1."
            )
        self.run.at(self.state.step, phase)

    def _time(self, finished: FinishedStep) -> None:
        if self.steps_timed == 1:  # forget the first step, which waited for loader workers to start
            self.seconds_per_step = self.data_share = math.nan
        self.steps_timed += 1
        self.seconds_per_step = _smooth(self.seconds_per_step, finished.seconds)
        self.data_share = _smooth(self.data_share, finished.waiting / finished.seconds)

    def _look(self, finished: FinishedStep | None) -> None:
        if finished is None:
            return
        self._time(finished)
        step, others = finished.step, dict(zip(self.names, finished.numbers, strict=True))
        loss, accuracy, norm = (others.pop(name) for name in REPORTED_FIRST)
        overflowed = False
        if self.state.scaler is not None:
            overflowed = self._has_overflowed(step, others["loss_scale"], others.pop("moved"))
            others["skipped_steps"] = self.state.position.skipped_steps
        if not overflowed and not (math.isfinite(loss) and math.isfinite(norm)):
            skip = ",".join(map(str, [*self.config.train.skip_steps, step]))
            raise DivergedError(
                f"step {step} is not finite: its loss is {loss}, its gradient norm {norm}.{self._list_images(step)} "
                "Everything up to the last checkpoint is kept. To skip this batch, run the same command with "
                f"'train.skip_steps=[{skip}]'; or start another run with a lower optim.lr."
            )
        if not overflowed:  # otherwise the loss may be infinite, and so would the means be
            self.last_steps.append((loss, accuracy))
            self.state.position.add_step(loss, accuracy)
        completed = step + 1
        to_track = is_due(completed, self.log_every, self.plan)
        to_show = self.run.progress.is_time_for(completed)
        if not to_track and not to_show:
            return  # compute nothing that is not shown
        lr = lr_at(step, self.config.optim, self.plan)
        rate = self.plan.global_batch_size / self.seconds_per_step
        epoch = self.plan.epoch(completed)
        if to_track:
            self.run.track(
                step=completed, epoch=epoch, split="train", loss=loss, accuracy=self._known(accuracy),
                lr=lr, grad_norm=norm, images_per_second=rate, data_time=self.data_share, **others,
            )  # fmt: skip
        if to_show:
            shown = self.last_steps or [(loss, accuracy)]
            mean_loss, mean_accuracy = map(fmean, zip(*shown, strict=True))
            self.run.progress.update(
                completed, epoch, len(shown), mean_loss, self._known(mean_accuracy), lr, rate,
                peak_memory(self.run.processes.device), self.data_share,
                (self.plan.total_steps - completed) * self.seconds_per_step,
            )  # fmt: skip

    def _known(self, accuracy: float | None) -> float | None:
        """Return the accuracy, or None if images are mixed or the objective does not count it."""
        return None if self.is_mixed or accuracy is None or math.isnan(accuracy) else accuracy

    def _has_overflowed(self, step: int, scale: float, moved: float) -> bool:
        """Return True if fp16 skipped the step. Raises DivergedError once no loss scale can help."""
        if scale < SMALLEST_SCALE:
            raise DivergedError(
                f"at step {step} the gradients are still not finite in fp16 with a loss scale of "
                f"{scale:.1e}: so overflow is not the cause. Start another run with "
                "train.precision=bf16 or float32, or with a lower optim.lr."
            )
        self.state.position.skipped_steps += not moved
        return not moved

    def _list_images(self, step: int) -> str:
        """Return a sentence that names the file listing a step's images; the main process writes that file."""
        path = self.run.dir / f"diverged-{step}.txt"
        if self.run.processes.is_main:
            names = [self.images.image_name(int(i)) for i in self.plan.global_batch(step)]
            size = self.plan.micro_batch_size
            micro_batches = ["\n".join(names[i : i + size]) for i in range(0, len(names), size)]
            try:
                write_text(path, "\n\n".join(micro_batches) + "\n")
            except OSError:  # a full disk must not hide what happened
                return ""
        return f" Its images are listed in {path}."

    def tell(self, metrics: SplitMetrics) -> None:
        """Log and show an evaluation of the val split."""
        step, epoch = self.state.step, self.plan.epoch(self.state.step)
        loss, accuracy = self.state.position.take_means()
        means = {"train_loss": loss, "train_accuracy": self._known(accuracy)}
        self.run.track(step=step, epoch=epoch, split="val", **metrics.scores, **means)
        row = {
            **metrics.values,
            **means,
            "epoch": self.plan.counted_epoch(step),
            "step": step,
            "by_class": metrics.by_class,
        }
        self.run.progress.evaluation_row({**row, "best": self.state.position.best_step == step})


def _at_least_once_an_epoch(every: str, plan: BatchPlan) -> Duration:
    """Return the shorter of a duration and an epoch."""
    return min(parse_duration(every), Duration(1, "epoch"), key=lambda duration: steps_at(duration, plan))


def _smooth(old: float, new: float) -> float:
    return new if math.isnan(old) else 0.95 * old + 0.05 * new


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
