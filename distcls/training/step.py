"""One optimizer step: what happens between taking a batch and having moved the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.loading.micro_batch import MicroBatch
from distcls.optim.ema import update_ema
from distcls.optim.losses import build_loss
from distcls.optim.schedules import lr_at
from distcls.plan.batches import BatchPlan
from distcls.plan.randomness import seed_torch
from distcls.training.acceleration import Acceleration
from distcls.training.gradients import OrderedSum, OverlappedSum
from distcls.training.state import TrainState

NUM_SUMS = 2
"""Numbers that are summed over the global batch beside the gradients: the loss, and how many are right."""


class TrainStep:
    """Calling it with this rank's micro-batches moves the state by one step."""

    def __init__(
        self,
        config: Config,
        state: TrainState,
        plan: BatchPlan,
        augment: Augmentation,
        acceleration: Acceleration,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.config, self.state, self.plan = config, state, plan
        self.device = acceleration.device
        self.augment = augment
        weights = (
            None if class_weights is None else torch.from_numpy(class_weights).to(acceleration.dtype).to(self.device)
        )
        self.loss = build_loss(config.loss, weights)
        backward = acceleration.backward
        if config.train.deterministic:
            self.sum_gradients = OrderedSum(state.module, state.statistics, backward, plan.world_size)
        else:
            self.sum_gradients = OverlappedSum(
                state.module, state.statistics, backward, lambda: acceleration.no_sync(state.model), plan.world_size
            )

    def __call__(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor | None:
        """Return loss, accuracy and gradient norm of the global batch, on the device; None for a step of skip_steps.

        Nothing waits for them. (3,); with fp16 (5,): then come the loss scale, and 1 where the weights moved, 0 where
        a gradient overflowed.
        """
        state, train = self.state, self.config.train
        if state.step in train.skip_steps:
            state.position.step += 1
            return None
        state.statistics.training_mode(state.model)
        sums = self.sum_gradients(self._forward, micro_batches)
        norm = self._clip()
        of_fp16 = self._update()
        moved = None if of_fp16 is None else of_fp16[1]
        state.statistics.update(sums[NUM_SUMS:] / self.plan.num_micro_batches, moved)
        if state.ema is not None and train.ema_decay is not None:
            update_ema(state.ema, state.module, train.ema_decay, state.step, moved)
        state.position.step += 1
        numbers = [sums[:NUM_SUMS] / self.plan.global_batch_size, norm.reshape(1)]
        return torch.cat(numbers if of_fp16 is None else [*numbers, of_fp16])

    def _forward(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The micro-batch's part of the mean loss, and its sums. Draws are keyed by its place in the run."""
        seed_torch(self.device, self.plan.seed, "model", self.state.step, micro_batch.index)
        images, targets = self.augment(micro_batch)
        logits = self.state.model(images)
        losses = self.loss(logits, targets)
        correct = logits.detach().argmax(1) == micro_batch.labels
        if micro_batch.went_bad:
            weights = micro_batch.weights()
            losses, correct = losses * weights, correct * weights
        loss = losses.sum()
        return loss / self.plan.global_batch_size, torch.stack([loss.detach(), correct.sum().to(loss.dtype)])

    def _clip(self) -> torch.Tensor:
        """The norm of the whole gradient, which is cut back to max_grad_norm if that is set."""
        if self.state.scaler is not None:
            self.state.scaler.unscale_(self.state.optimizer)
        parameters = self.sum_gradients.parameters
        gradients = [p.grad for p in parameters if p.grad is not None]
        # As torch.nn.utils.get_total_norm, which sorts by device first and takes twice as long.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.config.train.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.train.max_grad_norm, norm)
        return norm

    def _update(self) -> torch.Tensor | None:
        """Move the weights, unless fp16 overflowed. With fp16, return the loss scale, and 1 if they moved: (2,)."""
        state = self.state
        lr = lr_at(state.step, self.config.optim, self.plan)
        for group in state.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if state.scaler is None:
            state.optimizer.step()
            return None
        one = torch.ones((), device=self.device)
        before = state.scaler.scale(one)  # `get_scale` would wait for the device
        state.scaler.step(state.optimizer)
        state.scaler.update()
        after = state.scaler.scale(one)
        return torch.stack([after, (after >= before).to(after.dtype)])


def _as_tensor(class_weights: np.ndarray | None, acceleration: Acceleration) -> torch.Tensor | None:
    if class_weights is None:
        return None
    return torch.from_numpy(class_weights).to(acceleration.dtype).to(acceleration.device)
