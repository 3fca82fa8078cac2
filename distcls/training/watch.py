"""What is told of training while it runs: one place for the finite-ness check, the log and the live line."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from statistics import fmean

import torch

from distcls.config.durations import is_due
from distcls.config.settings import Config
from distcls.data.loading.micro_batch import MicroBatch
from distcls.data.split import Split
from distcls.errors import DivergedError
from distcls.files.atomic import write_text
from distcls.inference.metrics import SplitMetrics
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan
from distcls.runs.folder import RunFolder
from distcls.training.state import TrainState

WENT_BAD = "went_bad.txt"
"""File of the run folder that lists images that could not be read any more: the run is not reproducible then."""


SMALLEST_SCALE = 1e-4
"""The loss scale of fp16 starts at 65,536 and is halved at each overflow: below this, nothing overflows any more."""


class Watch:
    """Sees each step's numbers one step late, so that no GPU has to be waited for."""

    def __init__(self, config: Config, state: TrainState, plan: BatchPlan, images: Split, run: RunFolder) -> None:
        self.config, self.state, self.plan, self.images, self.run = config, state, plan, images, run
        self.unseen: tuple[int, torch.Tensor] | None = None
        self.last_losses: deque[float] = deque(maxlen=20)
        self.loss_sum, self.num_losses = 0.0, 0  # since the last evaluation
        self.seconds_per_step = self.data_share = math.nan
        self.steps_timed = 0
        self.waiting = 0.0
        self.last = time.perf_counter()
        run.progress.start(plan.total_steps, state.step)

    def wait_for(self, batches: Iterator[list[MicroBatch]]) -> list[MicroBatch]:
        """The next batch; the time that it took is what training waits for data."""
        self.last = time.perf_counter()
        batch = next(batches)
        self.waiting = time.perf_counter() - self.last
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
        seconds = time.perf_counter() - self.last
        if self.steps_timed == 1:  # the first step waited for loader workers to start: forget it
            self.seconds_per_step = self.data_share = math.nan
        self.steps_timed += 1
        self.seconds_per_step = _smooth(self.seconds_per_step, seconds)
        self.data_share = _smooth(self.data_share, self.waiting / seconds)
        self._look()
        if stats is not None:
            self.unseen = (self.state.step - 1, stats)
        self.run.at(self.state.step, "train")

    def catch_up(self, phase: str) -> None:
        """Look at the last step too, before something else begins: what is saved or evaluated has been looked at."""
        self._look()
        if phase == "save" and not self.state.is_finite():
            raise DivergedError(
                f"the weights after step {self.state.step} are not finite: the step was too large. All up to the last "
                "checkpoint is kept. Begin another run with a lower optim.lr, or with train.max_grad_norm=1."
            )
        self.run.at(self.state.step, phase)

    def _look(self) -> None:
        if self.unseen is None:
            return
        (step, stats), self.unseen = self.unseen, None
        accuracy: float | None
        loss, accuracy, norm = stats.tolist()
        scaler = self.state.scaler
        if not math.isfinite(loss) or not (math.isfinite(norm) or scaler is not None):
            skip = ",".join(map(str, [*self.config.train.skip_steps, step]))
            raise DivergedError(
                f"step {step} is not finite: its loss is {loss}, its gradient norm {norm}.{self._list_images(step)} "
                "All up to the last checkpoint is kept. To pass over this batch: the same command with "
                f"'train.skip_steps=[{skip}]'; or begin another run with a lower optim.lr."
            )
        if scaler is not None and scaler.get_scale() < SMALLEST_SCALE:
            raise DivergedError(
                f"at step {step} the gradients are still not finite in fp16 with a loss scale of "
                f"{scaler.get_scale():.1e}: they are not too large, but wrong. Begin another run with "
                "train.precision=bf16 or float32, or with a lower optim.lr."
            )
        self.last_losses.append(loss)
        self.loss_sum, self.num_losses = self.loss_sum + loss, self.num_losses + 1
        completed = step + 1
        to_track = is_due(completed, self.config.train.log_every, self.plan)
        to_show = self.run.progress.is_time_for(completed)
        if not to_track and not to_show:
            return  # what is not told is not computed
        lr = lr_at(step, self.config.optim, self.plan)
        rate = self.plan.global_batch_size / self.seconds_per_step
        epoch = self.plan.epoch(completed)
        if self.config.augment.mixup or self.config.augment.cutmix:
            accuracy = None  # of a mixture, it says little
        if to_track:
            self.run.track(
                step=completed, epoch=epoch, split="train", loss=loss, accuracy=accuracy, lr=lr, grad_norm=norm,
                images_per_second=rate, data_time=self.data_share,
            )  # fmt: skip
        if to_show:
            self.run.progress.update(
                completed, epoch, fmean(self.last_losses), accuracy, lr, rate, _memory(self.run.processes.device),
                self.data_share, (self.plan.total_steps - completed) * self.seconds_per_step,
            )  # fmt: skip

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
        self.run.track(step=step, epoch=epoch, split="val", **tracked(metrics))
        # The mean since the last evaluation, as the loss of an epoch is understood.
        row = {**metrics.values, "epoch": epoch, "step": step, "train_loss": self.loss_sum / max(self.num_losses, 1)}
        self.loss_sum, self.num_losses = 0.0, 0
        self.run.progress.evaluation_row({**row, "best": self.state.position.best_step == step})


def tracked(metrics: SplitMetrics) -> dict[str, float]:
    """The metrics that have a column in metrics.csv."""
    return {name: metrics.values[name] for name in ("loss", "accuracy", "top5", "macro_f1", "ece")}


def _smooth(old: float, new: float) -> float:
    return new if math.isnan(old) else 0.95 * old + 0.05 * new


def _memory(device: torch.device) -> int:
    """Peak bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
