"""One optimizer step: what happens between taking a batch and having moved the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distcls.config.settings import Config
from distcls.data.loading.micro_batch import MicroBatch
from distcls.errors import UsageError
from distcls.optim.ema import update_ema
from distcls.optim.groups import lrs_at
from distcls.plan.batches import BatchPlan
from distcls.plan.randomness import seed_everything
from distcls.training.acceleration import Acceleration
from distcls.training.gradients import OrderedSum, OverlappedSum
from distcls.training.objectives.objective import Network, Objective, Terms
from distcls.training.state import TrainState

REPORTED_FIRST = ("loss", "accuracy", "grad_norm")
OF_FP16 = ("loss_scale", "moved")
"""The loss scale, and 1 if the weights moved, 0 if a gradient overflowed."""


class TrainStep:
    """Calling it with this rank's micro-batches moves the state by one step.

    `names` are those of the numbers that it returns: REPORTED_FIRST, OF_FP16 in that precision, then the other scalars
    of the objective, which are known after the first step.
    """

    def __init__(
        self, config: Config, objective: Objective, state: TrainState, plan: BatchPlan, acceleration: Acceleration
    ) -> None:
        self.config, self.objective, self.state, self.plan = config, objective, state, plan
        self.device = acceleration.device
        self.network = Network(state.module, state.model, acceleration.autocast)
        self.shapes: dict[str, torch.Size] | None = None
        self.reported_first = REPORTED_FIRST if acceleration.scaler is None else (*REPORTED_FIRST, *OF_FP16)
        self.names = self.reported_first
        if config.train.deterministic:
            self.sum_gradients = OrderedSum(
                state.module, state.statistics, acceleration.backward, plan.world_size, list(state.further.values())
            )
        else:
            self.sum_gradients = OverlappedSum(
                state.module,
                state.statistics,
                acceleration.backward,
                lambda: acceleration.no_sync(state.model),
                plan.world_size,
                list(state.further.values()),
            )

    def __call__(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor | None:
        """Return the numbers called `names` of the global batch, float, on the device; None for a step of skip_steps.

        Nothing waits for them.
        """
        state, train = self.state, self.config.train
        if state.step in train.skip_steps:
            state.position.step += 1
            return None
        state.statistics.training_mode()
        sums = self.sum_gradients(self._forward, micro_batches)
        norm = self._clip()
        means, statistics = self._split(sums)
        of_fp16 = self._update()
        moved = of_fp16.get("moved")
        state.statistics.update(statistics, self.plan.num_micro_batches, moved)
        if state.ema is not None and train.ema_decay is not None:
            update_ema(state.ema, state.module, train.ema_decay, state.step, moved)
        self._update_objective(means, moved)
        state.position.step += 1
        return self._reported({**means, **of_fp16, "grad_norm": norm})

    def _forward(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The micro-batch's part of the mean loss, and its sums. Draws are keyed by its place in the run."""
        seed_everything(self.device, self.plan.seed, "model", self.state.step, micro_batch.index)
        terms = self.objective(self.network.begin(), micro_batch, self.state.step)
        self._check(terms, micro_batch)
        losses = terms.losses * micro_batch.weights() if micro_batch.went_bad else terms.losses
        loss = losses.sum()
        sums = [value.detach().to(loss.dtype).flatten() for value in terms.sums.values()]
        return loss / self.plan.global_batch_size, torch.cat([loss.detach().reshape(1), *sums])

    def _check(self, terms: Terms, micro_batch: MicroBatch) -> None:
        """What is summed has one layout in all steps and processes. Raises UsageError where it has not."""
        if terms.losses.shape != micro_batch.labels.shape:
            raise UsageError(
                f"objective.name={self.config.objective.name} gave losses of shape {tuple(terms.losses.shape)}, "
                f"expected one number per image, {tuple(micro_batch.labels.shape)}: leave out their mean."
            )
        shapes = {name: value.shape for name, value in terms.sums.items()}
        if self.shapes is None:
            taken = {"loss", "grad_norm", *OF_FP16} & shapes.keys()
            if taken:
                raise UsageError(
                    f"objective.name={self.config.objective.name} gave a sum the name {min(taken)!r}, which is that of "
                    "a number of the step itself: call it otherwise."
                )
            self.shapes = shapes
            others = [name for name, shape in shapes.items() if not shape and name not in self.reported_first]
            self.names = (*self.reported_first, *others)
        if list(shapes.items()) != list(self.shapes.items()):
            raise UsageError(
                f"objective.name={self.config.objective.name} gave the sums {shapes}, and {self.shapes} in its first "
                "step: give the same names and shapes in the same order, with zeros for what there is none of."
            )

    def _split(self, sums: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The means over the global batch, "loss" and the objective's, by name; and the rest, which is BatchNorm's."""
        shapes = {"loss": torch.Size(), **(self.shapes or {})}
        sizes = [shape.numel() for shape in shapes.values()]
        pieces = (sums[: sum(sizes)] / self.plan.global_batch_size).split(sizes)
        means = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return means, sums[sum(sizes) :]

    def _reported(self, numbers: dict[str, torch.Tensor]) -> torch.Tensor:
        """The numbers called `names`; an accuracy that the objective does not count is NaN."""
        missing = torch.full_like(numbers["grad_norm"], torch.nan)
        return torch.stack([numbers.get(name, missing) for name in self.names])

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

    def _update(self) -> dict[str, torch.Tensor]:
        """Move the weights, unless fp16 overflowed. With fp16, return the numbers of OF_FP16, on the device."""
        state = self.state
        for group, lr in zip(state.optimizer.param_groups, lrs_at(state.step, state.groups, self.plan), strict=True):
            group["lr"] = lr
        seed_everything(self.device, self.plan.seed, "optimizer", state.step)  # some optimizers draw
        if state.scaler is None:
            state.optimizer.step()
            return {}
        one = torch.ones((), device=self.device)
        before = state.scaler.scale(one)  # `get_scale` would wait for the device
        state.scaler.step(state.optimizer)
        state.scaler.update()
        after = state.scaler.scale(one)
        return {"loss_scale": after, "moved": (after >= before).to(after.dtype)}

    @torch.no_grad()
    def _update_objective(self, means: dict[str, torch.Tensor], moved: torch.Tensor | None) -> None:
        """Let the objective's modules follow, unless fp16 skipped the step: then they stay as they were."""
        tensors = [tensor for own in self.state.further.values() for tensor in (*own.parameters(), *own.buffers())]
        before = [] if moved is None else [tensor.clone() for tensor in tensors]
        self.objective.update(means, self.state.step)
        if moved is not None:
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(torch.where(moved.bool(), tensor, old))
