"""What is told of training while it runs: one place for the finite-ness check, the log and the live line."""

from __future__ import annotations

import math
import resource
import sys
from collections import deque
from collections.abc import Iterator
from statistics import fmean

import torch

from distcls.config.durations import Duration, is_due, parse_duration, steps_at
from distcls.config.settings import Config
from distcls.data.loading.micro_batch import MicroBatch
from distcls.data.split import Split
from distcls.errors import DivergedError
from distcls.files.atomic import write_text
from distcls.inference.metrics import SplitMetrics
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan
from distcls.runs.folder import RunFolder
from distcls.training.late_numbers import FinishedStep, LateNumbers
from distcls.training.state import TrainState

WENT_BAD = "went_bad.txt"
"""File of the run folder that lists images that could not be read any more: the run is not reproducible then."""


NUM_SHOWN = 20
"""Steps over which the live line takes its means."""

SMALLEST_SCALE = 1e-4
"""The loss scale of fp16 starts at 65,536 and is halved at each overflow: below this, nothing overflows any more."""


class Watch:
    """Sees each step's numbers one step late, so that no GPU has to be waited for."""

    def __init__(self, config: Config, state: TrainState, plan: BatchPlan, images: Split, run: RunFolder) -> None:
        self.config, self.state, self.plan, self.images, self.run = config, state, plan, images, run
        self.late = LateNumbers(run.processes.device)
        self.log_every = _at_least_once_an_epoch(config.train.log_every, plan)
        self.is_mixed = bool(config.augment.mixup or config.augment.cutmix)
        """Accuracy on mixtures of two images says little, so it is left out."""
        self.last_steps: deque[tuple[float, float]] = deque(maxlen=NUM_SHOWN)
        self.seconds_per_step = self.data_share = math.nan
        self.steps_timed = 0
        run.progress.start(plan.total_steps, state.step)

    def wait_for(self, batches: Iterator[list[MicroBatch]]) -> list[MicroBatch]:
        """The next batch; the time that it takes is what training waits for data."""
        self.late.ask()
        batch = next(batches)
        self.late.begin()
        for micro_batch in batch:
            for image in micro_batch.went_bad.values():
                self._went_bad(image)
        return batch

    def _went_bad(self, image: str) -> None:
        """Say once that a file cannot be read any more: on whichever process, and in the run folder for good."""
        self.run.dir.mkdir(parents=True, exist_ok=True)  # on another machine it may not be there
        with (self.run.dir / WENT_BAD).open("a+", encoding="utf-8", errors="surrogateescape") as file:
            file.seek(0)
            if image + "\n" in file:
                return
            file.write(image + "\n")
        text = f"an image went bad during training and weighs nothing from now on: {image}"
        if self.run.processes.is_main:
            self.run.progress.warning(text)
        else:
            print(f"warning: {text}", file=sys.stderr)

    def saw(self, stats: torch.Tensor | None) -> None:
        """A step was taken. Raises DivergedError if the step before was not finite."""
        self._look(self.late.take() if stats is None else self.late.put(self.state.step - 1, stats))
        self.run.at(self.state.step, "train")

    def catch_up(self, phase: str) -> None:
        """Look at the last step too, before something else begins: what is saved or evaluated has been looked at."""
        self._look(self.late.take())
        if phase == "save" and not self.state.is_finite():
            raise DivergedError(
                f"the weights after step {self.state.step} are not finite: the step was too large. All up to the last "
                "checkpoint is kept. Begin another run with a lower optim.lr, or with train.max_grad_norm=1."
            )
        self.run.at(self.state.step, phase)

    def _time(self, finished: FinishedStep) -> None:
        if self.steps_timed == 1:  # the first step waited for loader workers to start: forget it
            self.seconds_per_step = self.data_share = math.nan
        self.steps_timed += 1
        self.seconds_per_step = _smooth(self.seconds_per_step, finished.seconds)
        self.data_share = _smooth(self.data_share, finished.waiting / finished.seconds)

    def _look(self, finished: FinishedStep | None) -> None:
        if finished is None:
            return
        self._time(finished)
        step, (loss, accuracy, norm, *others) = finished.step, finished.numbers
        overflowed = self.state.scaler is not None and self._has_overflowed(step, *others[:2])
        if not overflowed and not (math.isfinite(loss) and math.isfinite(norm)):
            skip = ",".join(map(str, [*self.config.train.skip_steps, step]))
            raise DivergedError(
                f"step {step} is not finite: its loss is {loss}, its gradient norm {norm}.{self._list_images(step)} "
                "All up to the last checkpoint is kept. To pass over this batch: the same command with "
                f"'train.skip_steps=[{skip}]'; or begin another run with a lower optim.lr."
            )
        if not overflowed:  # else the loss may be infinite, and the means after it
            self.last_steps.append((loss, accuracy))
            self.state.position.add_step(loss, accuracy)
        completed = step + 1
        to_track = is_due(completed, self.log_every, self.plan)
        to_show = self.run.progress.is_time_for(completed)
        if not to_track and not to_show:
            return  # what is not told is not computed
        lr = lr_at(step, self.config.optim, self.plan)
        rate = self.plan.global_batch_size / self.seconds_per_step
        epoch = self.plan.epoch(completed)
        if to_track:
            self.run.track(
                step=completed, epoch=epoch, split="train", loss=loss, accuracy=self._known(accuracy),
                lr=lr, grad_norm=norm, images_per_second=rate, data_time=self.data_share,
            )  # fmt: skip
        if to_show:
            shown = self.last_steps or [(loss, accuracy)]
            mean_loss, mean_accuracy = map(fmean, zip(*shown, strict=True))
            self.run.progress.update(
                completed, epoch, len(shown), mean_loss, self._known(mean_accuracy), lr, rate,
                _memory(self.run.processes.device), self.data_share,
                (self.plan.total_steps - completed) * self.seconds_per_step,
            )  # fmt: skip

    def _known(self, accuracy: float | None) -> float | None:
        """The accuracy, or None where images are mixed, or the objective counts none."""
        return None if self.is_mixed or accuracy is None or math.isnan(accuracy) else accuracy

    def _has_overflowed(self, step: int, scale: float, moved: float) -> bool:
        """True if fp16 skipped the step. Raises DivergedError where no loss scale can help any more."""
        if scale < SMALLEST_SCALE:
            raise DivergedError(
                f"at step {step} the gradients are still not finite in fp16 with a loss scale of "
                f"{scale:.1e}: they are not too large, but wrong. Begin another run with "
                "train.precision=bf16 or float32, or with a lower optim.lr."
            )
        self.state.position.skipped_steps += not moved
        return not moved

    def _list_images(self, step: int) -> str:
        """A sentence on the file that names a step's images, by micro-batch; the main process writes it."""
        path = self.run.dir / f"diverged-{step}.txt"
        if self.run.processes.is_main:
            names = [self.images.image_name(int(i)) for i in self.plan.global_batch(step)]
            size = self.plan.micro_batch_size
            micro_batches = ["\n".join(names[i : i + size]) for i in range(0, len(names), size)]
            try:
                write_text(path, "\n\n".join(micro_batches) + "\n")
            except OSError:  # a full disk is no reason to hide what happened
                return ""
        return f" Its images are listed in {path}."

    def tell(self, metrics: SplitMetrics) -> None:
        """An evaluation of the val split is done."""
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


def _memory(device: torch.device) -> int:
    """Peak bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
